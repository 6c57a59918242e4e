"""One load test: (a live server, a model, a load) → records, their summary and the server's own counters."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from builder import __version__
from builder.errors import TrialError, UsageError
from perf.answers import Validation
from perf.counters import ServerCounters, counters_between
from perf.data import DataOptions, ModelInterface, interface_from_metadata, payloads_from_options
from perf.generator import ClientOptions, Progress, generate
from perf.record import RequestRecords
from perf.schedule import Load
from perf.stats import Summary, summarise
from perf.wire.http import HttpTarget
from perf.wire.payload import InferPayload, Parameter
from perf.wire.rest import call_json, model_path
from perf.wire.target import Target


@dataclass(frozen=True, slots=True)
class LoadTest:
    """What is asked.

    model:      empty means the only one that the server has ready.
    duration_s, requests: as in perf.generator.generate.
    parameters: request parameters (priority, timeout …) of every request.
    validate_every: one answer in so many is compared with the data's outputs, where they have any; 0 none.
    """

    model: str
    load: Load
    version: str = ""
    duration_s: float | None = 5.0
    requests: int | None = None
    warmup_s: float = 0.5
    data: DataOptions = field(default_factory=DataOptions)
    protocol: Literal["http", "grpc"] = "http"
    grpc_url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: str | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    timeout_s: float = 30.0
    max_connections: int = 1024
    processes: int = 1
    validate_every: int = 100


@dataclass(frozen=True, slots=True)
class LoadTestResult:
    """What came out; `server` is None when its counters could not be compared, `why_no_server` says why."""

    records: RequestRecords
    summary: Summary
    server: ServerCounters | None
    why_no_server: str = ""


def run_load_test(
    url: str, test: LoadTest, on_progress: Callable[[Progress], None] | None = None
) -> LoadTestResult:
    """Put the load on the server at its HTTP URL. Failed requests are in the records, not raised.

    Raises ServerError when nothing answers, TrialError when the model is not served, UsageError when the
    data do not fit it.
    """
    rest = HttpTarget(url, headers=test.headers, ca_file=test.ca_file)
    about_server = call_json(rest, "/v2")
    model = interface_of(rest, test.model or only_model(rest), test.version)
    payloads = payloads_from_options(model, test.data, parameters=test.parameters)
    target = target_of(rest, test)
    before: list[list[dict[str, Any]] | None] = []
    records = generate(
        target,
        test.load,
        payloads,
        warmup_s=test.warmup_s,
        duration_s=test.duration_s,
        requests=test.requests,
        seed=test.data.seed,
        options=ClientOptions(
            timeout_s=test.timeout_s,
            max_connections=test.max_connections,
            processes=test.processes,
            validation=_validation(test, payloads),
        ),
        environment=environment_of(about_server),
        on_progress=on_progress,
        at_measure_start=lambda: before.append(_statistics(rest, model)),
    )
    after = _statistics(rest, model)
    server, why = None, "the server does not tell statistics"
    if before and before[0] is not None and after is not None:
        server, why = counters_between(before[0], after), "the model was reloaded during the test"
    return LoadTestResult(records, summarise(records), server, "" if server else why)


def interface_of(rest: HttpTarget, model: str, version: str = "") -> ModelInterface:
    """What the server says the model takes."""
    path = model_path(model, version)
    found = interface_from_metadata(call_json(rest, path), call_json(rest, f"{path}/config"))
    return replace(found, version=version)


def only_model(rest: HttpTarget) -> str:
    """The one model that is ready; UsageError names all when there are several or none."""
    rows = call_json(rest, "/v2/repository/index", method="POST")
    ready = sorted({row["name"] for row in rows if row.get("state", "READY") == "READY"})
    if len(ready) != 1:
        raise UsageError(
            "which model?" if ready else "the server has no model ready",
            code="no_model",
            valid=ready,
            fix=f"--model {ready[0]}" if ready else None,
        )
    return str(ready[0])


def target_of(rest: HttpTarget, test: LoadTest) -> Target:
    """The measured side of the server."""
    if test.protocol == "http":
        return rest
    from perf.wire.grpc import GrpcTarget

    parts = urlsplit(rest.base_url)
    url = test.grpc_url
    if not url:
        scheme = "grpcs" if parts.scheme == "https" else "grpc"
        url = f"{scheme}://{parts.hostname}:{(parts.port or 8000) + 1}"
    return GrpcTarget(url, {name.lower(): value for name, value in test.headers.items()}, test.ca_file)


def _validation(test: LoadTest, payloads: Sequence[InferPayload]) -> Validation | None:
    if not test.validate_every or all(payload.expected is None for payload in payloads):
        return None
    return Validation(every=test.validate_every)


def _statistics(rest: HttpTarget, model: ModelInterface) -> list[dict[str, Any]] | None:
    try:
        return list(call_json(rest, model_path(model.name, model.version) + "/stats")["model_stats"])
    except (TrialError, KeyError, TypeError):
        return None


def environment_of(about_server: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers depend on besides the load: both ends' software and the client's machine."""
    return {
        "tritonsmith": __version__,
        "server": f"{about_server.get('name', '')} {about_server.get('version', '')}".strip(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load_average_1min": os.getloadavg()[0],
    }


@dataclass(frozen=True, slots=True)
class ServedAt:
    """Where a server answers; grpc_url is empty when only its HTTP URL is known."""

    http_url: str
    grpc_url: str = ""


@contextmanager
def server_at(where: str, log_path: Path | None = None) -> Iterator[ServedAt]:
    """An HTTP URL as it is, or an embedded server's on this model repository while the block runs."""
    if "://" in where:
        yield ServedAt(where)
        return
    directory = Path(where)
    if not directory.is_dir():
        raise UsageError(
            "neither a URL nor a model repository",
            code="no_target",
            seen=where,
            valid=["http://HOST:8000", "a model repository's directory"],
        )
    from perf.server.launch import ServerSpec, launch

    with launch(ServerSpec(kind="embedded", repositories=(directory,), log_path=log_path)) as server:
        yield ServedAt(f"http://{server.http_url}", server.grpc_url)
