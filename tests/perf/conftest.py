"""One embedded tritonserver for the whole session, in explicit mode on a repository that tests write into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.onnx_models import add_model
from tritonsmith.perf.server import control
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.launch import Server, ServerSpec, launch


@dataclass(frozen=True, slots=True)
class LiveTriton:
    """A running server and the repository it serves from."""

    server: Server
    repository: Path

    @property
    def http_url(self) -> str:
        return self.server.http_url

    @property
    def grpc_url(self) -> str:
        return self.server.grpc_url

    def load(
        self, name: str, proto: Any, config: str | None = None, override: Mapping[str, Any] | None = None
    ) -> None:
        """Write a model and load it."""
        add_model(self.repository, name, proto, config)
        control.load_model(self.http_url, name, override)


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveTriton]:
    """The session's server. Mark tests that use it with `server`."""
    if environment.ready() is None:
        pytest.skip("no embedded tritonserver: tritonsmith server install")
    repository = tmp_path_factory.mktemp("repository")
    spec = ServerSpec(repositories=(repository,), model_control="explicit", exit_timeout_s=0)
    with launch(spec) as server:
        yield LiveTriton(server, repository)
