"""ExportRequest → ExportResult, by a child process that cannot outlive this one and writes to a log file."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import builder.errors as errors
from builder.errors import ExportError, TritonsmithError, Where
from builder.export.request import ExportRequest, ExportResult, result_from_dict

_GRACE_S = 2.0
_POLL_S = 0.2


def run_export(
    request: ExportRequest, out_dir: Path, log_path: Path, timeout_s: float | None = None
) -> ExportResult:
    """Exports one source into out_dir, made when missing; existing files of the same names are replaced.

    A failed accuracy check does not raise: the caller decides on `result.accuracy.passed`. Everything the
    source prints, and every warning of torch, goes to log_path. Raises ExportError (source, model, or the
    child was killed: export_killed, export_timeout, export_crashed), ToolError (torch_missing), BuildError
    (disk_full). On any exception, Ctrl-C included, the child's process group is gone before it leaves.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    receive, send = os.pipe()
    with os.fdopen(receive, "rb", buffering=0) as answer, log_path.open("wb") as log:
        try:
            child = _start(send, log.fileno(), out_dir)
        finally:
            os.close(send)
        try:
            text = _exchange(child, answer, request, timeout_s, log_path)
        finally:
            _end(child)
    if text:
        return _result_from_answer(json.loads(text), request, log_path)
    raise _error_from_exit(child.returncode, request, log_path)


def _start(send: int, log: int, out_dir: Path) -> subprocess.Popen[bytes]:
    # The package's own directory comes first so that a source's `builder` cannot stand in for ours.
    root = str(Path(errors.__file__).resolve().parent.parent)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    # torch.load without weights_only must stay safe whatever the caller's shell says.
    environment.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    return subprocess.Popen(
        [sys.executable, "-m", "builder.export.worker", str(send), str(out_dir.resolve())],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd=root,
        env=environment,
        pass_fds=[send],
        start_new_session=True,
    )


def _exchange(
    child: subprocess.Popen[bytes],
    answer: Any,
    request: ExportRequest,
    timeout_s: float | None,
    log_path: Path,
) -> bytes:
    """Sends the request, reads the answer; standard input stays open, its end tells the child we are gone."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):
        child.stdin.write(json.dumps(request.as_dict()).encode() + b"\n")
        child.stdin.flush()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    chunks: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(answer, selectors.EVENT_READ)
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise ExportError(
                    f"the export of {request.model} took longer than {timeout_s:g} s and was stopped",
                    code="export_timeout",
                    where=Where(log_path),
                    fix="allow more time, or see the log for what it was doing",
                )
            if selector.select(_POLL_S):
                chunk = answer.read(1 << 16)
                if not chunk:
                    break
                chunks.append(chunk)
            elif child.poll() is not None and not selector.select(0):
                # Something the source forked may still hold the pipe; the child itself has said all it will.
                break
    with suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE_S)
    return b"".join(chunks)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends the child's process group; whatever the source started ends with it."""
    if child.stdin is not None:
        with suppress(OSError):
            child.stdin.close()
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _result_from_answer(answer: Mapping[str, Any], request: ExportRequest, log_path: Path) -> ExportResult:
    if "result" in answer:
        return result_from_dict(answer["result"])
    if "error" in answer:
        raise _error_from_dict(answer["error"])
    raise RuntimeError(f"exporting {request.model} failed unexpectedly (log: {log_path})\n{answer['bug']}")


def _error_from_dict(data: Mapping[str, Any]) -> TritonsmithError:
    kind: type[TritonsmithError] = getattr(errors, data["class"])
    where = None if data["path"] is None else Where(Path(data["path"]), data["line"])
    return kind(
        data["message"],
        code=data["code"],
        where=where,
        seen=data["seen"],
        valid=data["valid"],
        fix=data["fix"],
    )


def _error_from_exit(returncode: int, request: ExportRequest, log_path: Path) -> ExportError:
    if returncode == -signal.SIGKILL:
        return ExportError(
            f"the export of {request.model} was killed by signal 9 (SIGKILL), usually for want of memory",
            code="export_killed",
            where=Where(log_path),
            fix="free memory (`dmesg` shows the kernel's reason), or export on a larger machine",
        )
    if returncode < 0:
        how = f"died of signal {-returncode} ({signal.Signals(-returncode).name})"
    else:
        how = f"left with exit status {returncode} without an answer"
    return ExportError(
        f"the export of {request.model} {how}",
        code="export_crashed",
        where=Where(log_path),
        seen=_last_line(log_path),
        fix="the log has the output of the source and of the exporter",
    )


def _last_line(path: Path) -> str | None:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
