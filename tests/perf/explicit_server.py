"""A Triton on a real socket, started with --model-control-mode=explicit as far as its load API goes: a repository, overrides.

As the real one: a plain load keeps an override, which only an unload takes back. As a program it stands in for tritonserver:
`python -m tests.perf.explicit_server --http-port=N --model-repository=DIR …`.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.perf.fake_server import FakeServer, running
from tritonsmith.builder.base.errors import Where

ROOT = Path(__file__).parents[2]  # pytest is not imported, so that it starts sooner

CONFIG: dict[str, Any] = {
    "backend": "fake",
    "max_batch_size": 8,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [4]}],
    "instance_group": [{"kind": "KIND_CPU", "count": 1}],
    "dynamic_batching": {},
}


@dataclass
class ExplicitServer(FakeServer):
    """repository: name → config; directories: more of it, on disk. loaded: name → config that serves.

    orders: every load and unload, in words.
    load_s: what a load takes. refused: names that are not loaded with their repository's config.
    """

    repository: dict[str, dict[str, Any]] = field(default_factory=lambda: {"m": deepcopy(CONFIG)})
    directories: list[Path] = field(default_factory=list)
    loaded: dict[str, dict[str, Any]] = field(default_factory=dict)
    orders: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    load_s: float = 0.0
    version: str = "2.99.0"

    def count(self, name: str = "m") -> int:
        """Instances that serve."""
        return int(self.loaded[name]["instance_group"][0]["count"])

    def own(self) -> dict[str, dict[str, Any]]:
        """name → config, of all that the repository has now."""
        found = (model for directory in self.directories for model in directory.iterdir())
        return {**self.repository, **{model.name: config_in(model) for model in found}}

    async def _answer(
        self, head: str, fields: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        path = head.split(" ", 2)[1]
        parts = path.strip("/").split("/")
        if parts[:3] == ["v2", "repository", "models"]:
            status, data = await self._order(parts[3], parts[4], json.loads(body or b"{}"))
            return await self._write(writer, status, json.dumps(data).encode(), None, close=False)
        return await super()._answer(head, fields, body, writer)

    async def _order(self, name: str, order: str, body: dict[str, Any]) -> tuple[int, Any]:
        own = self.own().get(name)
        if own is None:
            return 400, {"error": f"failed to load '{name}', failed to poll from model repository"}
        if order == "unload":
            self.orders.append(f"unload {name}")
            self.loaded.pop(name, None)
            return 200, {}
        override = body.get("parameters", {}).get("config")
        self.orders.append(f"load {name}" + (" with another config" if override else ""))
        await asyncio.sleep(self.load_s)
        if override is None and name in self.refused:
            return 400, {"error": "Internal: no such file"}
        config = json.loads(override) if override else own
        if override or name not in self.loaded:
            self.loaded[name] = {**deepcopy(config), "name": name}
        return 200, {}

    def _describe(self, method: str, path: str) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if path == "/v2":
            return 200, {"name": "fake", "version": self.version, "extensions": []}
        if path == "/v2/repository/index":
            states = {n: "READY" if n in self.loaded else "UNAVAILABLE" for n in self.own()}
            return 200, [{"name": n, "version": "1", "state": state} for n, state in states.items()]
        if parts[:2] == ["v2", "models"] and parts[2] != "stats":
            if parts[2] not in self.loaded:
                return 400, {"error": f"Request for unknown model: '{parts[2]}' is not found"}
            if parts[-1] == "config":
                return 200, self.loaded[parts[2]]
        return super()._describe(method, path)


def config_in(model: Path) -> dict[str, Any]:
    """Of a model directory's config.pbtxt; a scratch model has none, and is loaded with another anyway."""
    from google.protobuf import json_format

    from tritonsmith.builder.model_config.model_config import model_config_from_text

    path = model / "config.pbtxt"
    if not path.exists():
        return CONFIG
    message = model_config_from_text(path.read_text(), Where(path))
    config: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return config


def lay_out_binary(directory: Path) -> Path:
    """What `--launch binary:PATH` takes, which runs this module."""
    binary = directory / "bin" / "tritonserver"
    (directory / "backends").mkdir(parents=True)
    binary.parent.mkdir()
    binary.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}\n"
        f'exec {shlex.quote(sys.executable)} -m {__spec__.name} "$@"\n'
    )
    binary.chmod(0o755)
    return binary


def main(arguments: list[str]) -> None:
    """Serves the repositories of a tritonserver's command line until it is ended."""
    given = [argument.partition("=")[::2] for argument in arguments]
    port = next(int(value) for name, value in given if name == "--http-port")
    directories = [Path(value) for name, value in given if name == "--model-repository"]
    with running(ExplicitServer(port=port, repository={}, directories=directories)):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    # Before any thread is started, so that only sigwait gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(sys.argv[1:])
