"""`tritonsmith serve`: a model repository → a live Triton until Ctrl-C, and on stdout what it serves."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from tritonsmith.perf.commands.flattened import argument, flag, flattened
from tritonsmith.perf.server.launches.table import HELP as LAUNCH_HELP

if TYPE_CHECKING:
    from tritonsmith.perf.server.launch import Server


class _Stop(BaseException):
    """SIGTERM: somebody wants the server to end, which is not a failure."""


@flattened
def serve(
    repository: Path = argument(Path("model_repository"), "The model repository.", metavar="DIR"),
    extra_args: list[str] | None = argument(None, "Passed to tritonserver as they are.", metavar="-- ARGS"),
    launch_kind: str = flag("embedded", LAUNCH_HELP, "--launch", metavar="KIND"),
    http_port: int = flag(8000, "Port of HTTP; 0 takes a free one.", min=0, max=65535),
    grpc_port: int = flag(8001, "Port of gRPC; 0 takes a free one.", min=0, max=65535),
    metrics_port: int = flag(8002, "Port of the metrics; 0 takes a free one.", min=0, max=65535),
    model_control: Literal["none", "explicit", "poll"] = flag("none", "Triton's model control mode."),
    load_model: list[str] | None = flag(
        None, "Explicit control: load this model at the start; '*' loads all."
    ),
    cache_size: int | None = flag(
        None, "Response cache, bytes; 0 for none.  [default: 64 MiB where a model asks for it]", min=0
    ),
    gpus: bool = flag(False, "docker: give the container all GPUs.", "--gpus"),
    log: Path | None = flag(None, "Keep the server's log in this file."),
    format: Literal["text", "json"] = flag("text", "How to write the models."),
) -> None:
    """Serve a repository with a live Triton on 127.0.0.1 until Ctrl-C.

    Any Triton repository with ONNX and Python models works, ours or not; a model that Triton refuses is
    listed with Triton's reason, and the others are served.

    Examples: tritonsmith serve model_repository/
              tritonsmith serve model_repository/ --model-control poll --http-port 0
              tritonsmith serve model_repository/ -- --log-verbose=1
    """
    from tritonsmith.builder.base.odd_names import encoded_in_paths
    from tritonsmith.builder.base.text.console import activity, emit_json, emit_text, note, width_of
    from tritonsmith.perf.server.launch import ServerSpec, kind_from_text, launch
    from tritonsmith.perf.server.launches.table import launch_rows
    from tritonsmith.perf.server.server import server_ended
    from tritonsmith.perf.server.stubs.watch import watched

    given = list(extra_args or ())
    if str(repository).startswith("-"):  # `serve -- --log-verbose=1`
        repository, given = Path("model_repository"), [str(repository), *given]
    kind, reference = kind_from_text(launch_kind)
    attached = launch_rows()[kind].attach is not None
    spec = ServerSpec(
        kind=kind,
        reference=reference,
        repositories=() if attached else (repository,),
        model_control=model_control,
        load_models=tuple(load_model or ()),
        http_port=http_port or None,
        grpc_port=None if attached else grpc_port or None,
        metrics_port=None if attached else metrics_port or None,
        cache_size_bytes=cache_size,
        extra_args=tuple(given),
        log_path=log,
        gpus=gpus,
    )
    try:
        with _sigterm_stops(), ExitStack() as stack:
            with activity("asking the server" if attached else "starting the server"):
                server = stack.enter_context(launch(spec))
            with watched(server, spec.model_control, note):
                told = state_of(server, spec.repositories)
                if format == "json":
                    emit_json(told)
                    sys.stdout.flush()  # a program that reads it from a pipe waits for it now, not at the end
                else:
                    emit_text(text_from_state(told, width_of(sys.stdout)))
                for name in sorted({m["name"] for m in told["models"] if encoded_in_paths(m["name"])}):
                    note(
                        f"warning: model {name!r}: HTTP clients that percent-encode its name will not find it; "
                        "tritonsmith check --explain REPO015"
                    )
                note("attached; Ctrl-C lets it go" if attached else "serving; Ctrl-C stops it")
                while server.alive():
                    time.sleep(0.2 if not attached else 2.0)
            raise server_ended(server, "while it served")
    except _Stop:
        note("stopped")


@contextmanager
def _sigterm_stops() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stop

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def state_of(server: Server, repositories: Sequence[Path] = ()) -> dict[str, Any]:
    """What `--format json` prints: addresses, and every model with its version, state and Triton's reason.

    A refused model also has the ids of the lint rules that explain the refusal: they name the line and the fix.
    """
    from tritonsmith.perf.server.control import IndexRow, repository_index

    refusals = server.refusals()
    rows = repository_index(server.http_url)
    # Triton does not list a model that has no version to serve.
    unlisted = refusals.keys() - {row.name for row in rows}
    rows += [IndexRow(name, "", "", "") for name in sorted(unlisted) if _directories(name, repositories)]
    models = [
        {
            "name": row.name,
            "version": row.version,
            "state": row.state or ("REFUSED" if row.name in refusals else "NOT LOADED"),
            "reason": row.reason or (refusals.get(row.name, "") if row.state != "READY" else ""),
            "rules": rules_behind(row.name, refusals, repositories) if row.name in refusals else [],
        }
        for row in sorted(rows, key=lambda row: row.name)
    ]
    return {
        "version": server.version,
        "http_url": f"http://{server.http_url}",
        "grpc_url": server.grpc_url,
        "metrics_url": f"http://{server.metrics_url}/metrics",
        "pid": server.pid,
        "log": None if server.log_path is None else str(server.log_path),
        "models": models,
    }


def text_from_state(state: dict[str, Any], width: int | None = None) -> str:
    """The same for people: a table, then the addresses. width: of the terminal; None where there is none."""
    from tritonsmith.builder.base.text.text_layout import table

    header = ("MODEL", "VERSION", "STATE", "REASON")
    rows = [header]
    rows += [(m["name"], m["version"] or "-", m["state"], _reason(m)) for m in state["models"]]
    lines = table(rows, width, names=(0,), text=3) if len(rows) > 1 else ["no models in the repository"]
    lines += [
        "",
        f"HTTP     {state['http_url']}",
        f"gRPC     {state['grpc_url']}",
        f"metrics  {state['metrics_url']}",
    ]
    if state["log"]:
        lines.append(f"log      {state['log']}")
    lines.append(f"tritonserver {state['version']}" + (f", pid {state['pid']}" if state["pid"] else ""))
    return "\n".join(lines)


# What Triton says of an ensemble whose own config is well.
_STEP_REFUSED = re.compile(r"ensemble '.+?' depends on '(.+?)' which ")


def rules_behind(model: str, refusals: Mapping[str, str], repositories: Sequence[Path]) -> list[str]:
    """Ids of the rules that explain why a model of these repositories was refused, or the step that it depends on."""
    from tritonsmith.builder.lint.check import LintOptions, check
    from tritonsmith.builder.lint.refusal import explaining_rules

    others = {name: reason for name, reason in refusals.items() if name != model}
    step = _STEP_REFUSED.match(refusals[model])
    if step is not None and step[1] in others:
        return rules_behind(step[1], others, repositories)
    directories = _directories(model, repositories)
    return explaining_rules(refusals[model], check(directories, LintOptions())) if directories else []


def _directories(model: str, repositories: Sequence[Path]) -> list[Path]:
    return [r / model for r in repositories if (r / model).is_dir()]


def _reason(model: Mapping[str, Any]) -> str:
    reason = _first_line(model["reason"])
    rules = model["rules"]
    return f"{reason} [{', '.join(rules)}; tritonsmith check --explain {rules[0]}]" if rules else reason


def _first_line(reason: str) -> str:
    # A Python model's reason ends in its traceback.
    return reason.partition("\n")[0].strip()
