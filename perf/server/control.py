"""A server's address → its models, configs, statistics, readiness; and orders to load and unload, over
Triton's HTTP API (perf.wire.rest)."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Protocol

from tritonsmith.builder.base.errors import ServerError, TrialError
from tritonsmith.builder.base.files.http_ask import ANSWERED_ERRORS, json_from, no_answer, not_triton
from tritonsmith.perf.wire import told
from tritonsmith.perf.wire.paths import ends_a_path, model_path, repository_path
from tritonsmith.perf.wire.rest import RestApi, call, call_json, exchange, reason, refused, tidy

TIMEOUT_S = 60.0
# A load answers when the model is ready: big engines take minutes.
LOAD_TIMEOUT_S = 600.0
# A parameter of a model's config that says when it was loaded anew.
RELOADED = "tritonsmith_reloaded_ns"
_POLL_S = 0.02
_METRICS_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One version of a model as the repository index tells it; state is "" when the model was never
    loaded."""

    name: str
    version: str
    state: str
    reason: str


class HasPid(Protocol):
    """A running server's process."""

    @property
    def pid(self) -> int | None:
        """The server's own process; None when it is not ours."""


def is_ready(url: str, timeout_s: float = 2.0) -> bool:
    """Whether the server answers and says it is ready."""
    try:
        return exchange(url, "GET", "/v2/health/ready", timeout_s=timeout_s).status == 200
    except OSError:
        return False


def why_not_ready(url: str) -> ServerError:
    """What answers at HOST:PORT, of which is_ready says no: nothing, something else, or a Triton that is not ready."""
    address = f"http://{url}"
    try:
        reply = exchange(url, "GET", "/v2/health/ready", timeout_s=2.0)
        about = exchange(url, "GET", "/v2", timeout_s=2.0)
    except ANSWERED_ERRORS as error:
        return no_answer(address, error)
    except OSError as error:
        return ServerError(
            f"no ready Triton answers at {address}",
            code="server_unreachable",
            seen=str(error) or type(error).__name__,
            fix="give the address of its HTTP port (8000 by default), or serve with --launch embedded",
        )
    if about.status in (401, 403):
        return ServerError(
            f"what answers at {address} wants to know who asks",
            code="server_unreachable",
            seen=f"HTTP {about.status} {reason(about)}",
            fix="an attached server is asked without credentials: give an address that needs none",
        )
    try:
        told.server_metadata_from(json_from(about.body), address)
    except (ValueError, ServerError):
        return not_triton(address, about)
    return ServerError(
        f"the Triton at {address} is not ready",
        code="server_unreachable",
        seen=f"HTTP {reply.status} {reason(reply)}",
        fix="give it time to load its models, or look into its log",
    )


def server_metadata(url: str) -> dict[str, Any]:
    """name, version, extensions. ServerError not_triton where something else answers."""
    return _api(url).server_metadata()


def model_metadata(url: str, name: str, version: str = "") -> dict[str, Any]:
    """name, versions, platform, inputs and outputs (datatype, shape with the batch dimension as -1)."""
    return _api(url).model_metadata(name, version)


def model_config(url: str, name: str, version: str = "") -> dict[str, Any]:
    """The config the server uses, after auto-completion and overrides, as Triton's JSON."""
    return _api(url).model_config(name, version)


def model_statistics(url: str, name: str = "", version: str = "") -> list[dict[str, Any]]:
    """One row a model version; counters since it was loaded, durations in nanoseconds. All models without a
    name."""
    return _api(url).statistics(name, version)


def is_model_ready(url: str, name: str, version: str = "") -> bool:
    """Whether the model takes requests."""
    return call(url, "GET", f"{model_path(name, version)}/ready", timeout_s=TIMEOUT_S).status == 200


def repository_index(url: str) -> list[IndexRow]:
    """Every model the server knows of, loaded or not."""
    return [
        IndexRow(row["name"], row.get("version", ""), row.get("state", ""), tidy(row.get("reason", "")))
        for row in _api(url).repository_index()
    ]


def load_model(
    url: str,
    name: str,
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    timeout_s: float = LOAD_TIMEOUT_S,
) -> None:
    """Load or reload a model; returns when it serves.

    config: a whole model config that stands in for config.pbtxt. It stays until the model is unloaded or its
            config.pbtxt changes: a later load without one does not take it back.
    files:  "1/model.onnx" → contents; stands in for the model directory, and needs `config`.

    Raises TrialError `model_refused` with Triton's reason. A version that was serving goes on serving, so
    read `model_config` back when it matters which one does.
    """
    parameters: dict[str, str] = {}
    if config is not None:
        parameters["config"] = json.dumps(config)
    for path, content in (files or {}).items():
        parameters[f"file:{path}"] = base64.b64encode(content).decode()
    body = {"parameters": parameters} if parameters else {}
    reply = call(url, "POST", f"{repository_path(name)}/load", body, timeout_s=timeout_s)
    if reply.status != 200:
        raise TrialError(
            f"Triton refused to load model '{name}': {reason(reply)}",
            code="model_refused",
            seen=f"HTTP {reply.status}",
            fix=_fix_for_refusal(name, reply.status, reason(reply)),
        )


def unload_model(url: str, name: str, timeout_s: float = TIMEOUT_S) -> None:
    """Unload a model; returns when it is really gone (Triton itself answers before that)."""
    call_json(url, f"{repository_path(name)}/unload", method="POST", body={}, timeout_s=TIMEOUT_S)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        # "UNLOADING" until the last instance has ended.
        states = {r.state for r in repository_index(url) if r.name == name}
        if states <= {"UNAVAILABLE", ""}:
            return
        time.sleep(_POLL_S)
    raise TrialError(
        f"model '{name}' was not unloaded within {timeout_s:g} s",
        code="unload_timeout",
        seen=", ".join(sorted(states)),
        fix="look for requests that are still running; an open sequence or stream holds a model",
    )


def reload_model(url: str, name: str) -> None:
    """Load a model anew with the config that it has; returns when the new instances serve.

    What replaces instances that have died. A plain load changes nothing where Triton sees the same config, so a
    parameter of no meaning makes it another; to unload it first would wait without end where an instance died with a
    request (both seen with 2.51).
    """
    config = model_config(url, name)
    mark = {RELOADED: {"string_value": str(time.time_ns())}}
    load_model(url, name, {**config, "parameters": {**config.get("parameters", {}), **mark}})


def metrics_text(metrics_url: str, timeout_s: float = TIMEOUT_S) -> str:
    """The Prometheus text of the metrics port."""
    reply = exchange(metrics_url, "GET", "/metrics", timeout_s=timeout_s, limit_bytes=_METRICS_LIMIT_BYTES)
    if reply.status != 200:
        raise refused(metrics_url, "GET", "/metrics", reply)
    return reply.body.decode(errors="replace")


def instance_pids(server: HasPid, model: str) -> list[int]:
    """The stub processes of a model's instances; empty for a backend without processes, or a server
    elsewhere."""
    if server.pid is None:
        return []
    import psutil

    try:
        children = psutil.Process(server.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    pids = []
    for child in children:
        with contextlib.suppress(psutil.Error):
            if is_instance_of(model, child.cmdline()):
                pids.append(child.pid)
    return pids


def is_instance_of(model: str, command: Sequence[str]) -> bool:
    """Whether a process's argument list is that of a stub that runs an instance of `model`.

    A stub's second argument is <model directory>/<version>/<file>, its last but one the instance's name: that of
    the group, which is the model's with or without a number unless the config names it, and a number. A model
    that was loaded from files in the load call lies in a temporary directory, so its name says nothing.
    """
    if len(command) < 3 or not command[0].endswith("triton_python_backend_stub"):
        return False
    directory, instance = PurePath(command[1]).parent.parent.name, command[-2]
    if directory == model:
        return True
    rest = instance.removeprefix(f"{model}_").split("_") if instance.startswith(f"{model}_") else []
    named_like_model = 1 <= len(rest) <= 2 and all(part.isdigit() for part in rest)
    return named_like_model and not instance.startswith(f"{directory}_")


def wait_instances(server: HasPid, model: str, count: int, timeout_s: float = 30.0) -> None:
    """Return when no more than `count` stub processes of `model` run: a reload ends old ones some seconds
    after it answers."""
    deadline = time.monotonic() + timeout_s
    while len(pids := instance_pids(server, model)) > count:
        if time.monotonic() > deadline:
            raise TrialError(
                f"{len(pids)} instances of model '{model}' still run after {timeout_s:g} s, not {count}",
                code="instances_linger",
                seen=", ".join(map(str, pids)),
            )
        time.sleep(0.05)


def _api(url: str) -> RestApi:
    return RestApi(url, TIMEOUT_S)


def _fix_for_refusal(name: str, status: int, reason: str) -> str | None:
    if (bad := ends_a_path(name)) is not None:
        return f"rename it: Triton's HTTP API has no path to a name with {bad!r} in it"
    if status == 503 or "explicit model load / unload is not allowed" in reason:
        return "start the server with --model-control explicit"
    if "failed to poll from model repository" in reason:
        return "tritonsmith check DIRECTORY names the rule that its config.pbtxt breaks"
    return None
