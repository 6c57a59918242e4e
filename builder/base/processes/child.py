"""(worker module, JSON request) → its JSON answer, by a child process that cannot outlive this one and logs to a file."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tritonsmith.builder.base.errors import BuildError, UnexpectedError, Where, error_from_form
from tritonsmith.builder.base.machine.own import IMPORT_ROOT, python_path
from tritonsmith.builder.base.processes.budget import Grant
from tritonsmith.builder.base.processes.run_policy import Turn, current_policy
from tritonsmith.builder.base.processes.warm import Place, Worker
from tritonsmith.builder.base.text.console import timed

_GRACE_S = 2.0
_POLL_S = 0.2


WITH_ONNX = (
    "numpy",
    "onnx",
    "onnx.checker",
    "onnx.shape_inference",
    "onnxruntime",
    "tritonsmith.builder.actions.export.worker",
    "tritonsmith.builder.actions.export.sources.onnx",
    "tritonsmith.builder.actions.export.checks.verify",
    "tritonsmith.builder.actions.batch_rows.worker",
    "tritonsmith.builder.actions.export.checks.session_worker",
    "tritonsmith.builder.actions.convert.worker",
)
"""Imports of the workers that read and run ONNX models: one list, so that one process serves them all."""

WITH_TORCH = (*WITH_ONNX, "torch", "onnxscript", "torch.onnx._internal.exporter._core")


@dataclass(frozen=True, slots=True)
class ChildTask:
    """What a child is for, and how its failures are called.

    module:      run as `python -m module`; it ends in child_worker.serve.
    what:        subject of its error messages ("the export of minilm").
    code_prefix: of the codes PREFIX_killed, PREFIX_crashed, PREFIX_timeout, PREFIX_cancelled ("export").
    error:       class of those errors.
    gpus:        numbers of the GPUs of which it computes on one; two actions do not share one.
    imports:     modules that take long; a build forks such workers from a process that has them.
    shares:      it runs no code but ours and that of `imports`: its process may have done other tasks before and take more.
    program:     run instead of the module, by an interpreter of its own; it takes the same arguments and pipes.
    """

    module: str
    what: str
    code_prefix: str
    error: type[BuildError] = BuildError
    gpus: tuple[int, ...] = ()
    imports: tuple[str, ...] = ()
    shares: bool = False
    program: tuple[str, ...] = ()


class _Running(Protocol):
    """What is asked of a worker, freshly started or forked."""

    returncode: int | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def leave_alone(self) -> None: ...

    def kill_group(self, with_signal: signal.Signals) -> None: ...


class _Fresh(subprocess.Popen[bytes]):
    """An interpreter of its own. Its standard input has one request, and stays open: its end says that we are gone."""

    def give(self, request: bytes) -> None:
        assert self.stdin is not None
        with suppress(BrokenPipeError):
            self.stdin.write(request)
            self.stdin.flush()

    def leave_alone(self) -> None:
        assert self.stdin is not None
        with suppress(OSError):
            self.stdin.close()

    def kill_group(self, with_signal: signal.Signals) -> None:
        os.killpg(self.pid, with_signal)


_Answer = Mapping[str, Any]


def run_child(
    task: ChildTask,
    request: Mapping[str, object],
    out_dir: Path,
    log_path: Path,
    timeout_s: float | None = None,
    stop: Callable[[], bool] | None = None,
) -> Mapping[str, Any]:
    """Runs the worker on one request; out_dir and log_path's directory are made when missing.

    Everything the worker prints goes to log_path. Raises the TritonsmithError the worker raised, or
    task.error when the child was killed, crashed, took longer than timeout_s, or `stop`, asked a few times a second,
    said so; UnexpectedError for a bug in it.
    It waits for its turn and obeys the time limit and the stop of builder.base.processes.run_policy.
    On any exception, Ctrl-C included, the child's process group is gone before it leaves.
    """
    policy = current_policy()
    with policy.turn(task.what, task.gpus) as turn:
        if turn is None:
            raise _cancelled(task)
        out_dir.mkdir(parents=True, exist_ok=True)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        limit_s = timeout_s if timeout_s is not None else policy.timeout_s
        with timed(f"{task.what}, log {log_path}"):
            answer, status = _run(task, request, out_dir, log_path, limit_s, _any_of(stop, policy.stop), turn)
        if answer is not None and "peak_bytes" in answer:
            policy.learn(turn, task.what, answer["peak_bytes"])
    if answer is None:
        raise _error_from_exit(status, task, log_path)
    return _result_from_answer(answer, task, log_path)


def _any_of(one: Callable[[], bool] | None, other: Callable[[], bool]) -> Callable[[], bool]:
    return other if one is None else lambda: one() or other()


def _run(
    task: ChildTask,
    request: Mapping[str, object],
    out_dir: Path,
    log_path: Path,
    timeout_s: float | None,
    stop: Callable[[], bool],
    turn: Turn,
) -> tuple[_Answer | None, int]:
    """(the answer, the exit status); a process that may take another task stays with the turn."""
    receive, send = os.pipe()
    with os.fdopen(receive, "rb", buffering=0) as pipe, log_path.open("wb") as log:
        try:
            child = _start(task, request, send, log.fileno(), out_dir, turn)
        finally:
            os.close(send)
        try:
            answer = _answer(child, pipe, timeout_s, task, log_path, stop)
        except BaseException:
            _end(child)
            raise
        if isinstance(child, Worker) and answer is not None and "stays" in answer:
            turn.keep(child, **answer["stays"])
            return answer, 0
        _end(child)
    if answer is None and isinstance(child, Worker) and child.tasks > 1:
        # What it did before may be why it died: in a process of its own, a model pays for no other.
        return _run(replace(task, shares=False), request, out_dir, log_path, timeout_s, stop, turn)
    assert child.returncode is not None
    return answer, child.returncode


def _start(
    task: ChildTask, request: Mapping[str, object], send: int, log: int, out_dir: Path, turn: Turn
) -> _Running:
    environment = _environment(turn.grant)
    directory, out = str(IMPORT_ROOT), str(out_dir.resolve())
    warm = current_policy().warm
    if warm is not None and task.imports:
        place = Place(task.imports, directory, environment)
        kept = turn.kept(place) if task.shares else None
        worker = kept or (warm.idle(place) if task.shares else None) or warm.forked(place)
        told = {"module": task.module, "out_dir": out, "shares": task.shares, "follows": kept is not None}
        worker.give(json.dumps({**told, "request": request}).encode() + b"\n", send, log)
        return worker
    fresh = _Fresh(
        [*(task.program or (sys.executable, "-m", task.module)), str(send), out],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd=directory,
        env=environment,
        pass_fds=[send],
        start_new_session=True,
    )
    fresh.give(json.dumps(request).encode() + b"\n")
    return fresh


def _environment(grant: Grant) -> dict[str, str]:
    # The package's own directory comes first so that a source's `tritonsmith` cannot stand in for ours.
    environment = dict(os.environ)
    environment["PYTHONPATH"] = python_path(environment)
    # torch.load without weights_only must stay safe whatever the caller's shell says.
    environment.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    if grant.cpus:
        environment.setdefault("OMP_NUM_THREADS", str(grant.cpus))
    if grant.gpu is not None:
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[grant.gpu] if visible else str(grant.gpu)
    return environment


def _answer(
    child: _Running,
    pipe: Any,
    timeout_s: float | None,
    task: ChildTask,
    log_path: Path,
    stop: Callable[[], bool],
) -> _Answer | None:
    """Its answer; None when it leaves without one."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    chunks: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise task.error(
                    f"{task.what} took longer than {timeout_s:g} s and was stopped",
                    code=f"{task.code_prefix}_timeout",
                    where=Where(log_path),
                    fix="allow more time (--timeout), or see the log for what it was doing",
                )
            if stop():
                raise _cancelled(task)
            if selector.select(_POLL_S):
                chunk = pipe.read(1 << 16)
                if not chunk:
                    break
                chunks.append(chunk)
            elif child.poll() is not None and not selector.select(0):
                # Something the source forked may still hold the pipe; the child itself has said all it will.
                break
    try:
        answer: _Answer = json.loads(b"".join(chunks))
    except ValueError:  # none, or the part that it could still write
        answer = {}
    if "stays" not in answer:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    return answer or None


def _cancelled(task: ChildTask) -> BuildError:
    return task.error(f"{task.what} was cancelled", code=f"{task.code_prefix}_cancelled")


def _end(child: _Running) -> None:
    """Ends the child's process group; whatever the source started ends with it."""
    child.leave_alone()
    if child.poll() is None:
        with suppress(ProcessLookupError):
            child.kill_group(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
    with suppress(ProcessLookupError, PermissionError):
        child.kill_group(signal.SIGKILL)
    child.wait()


def _result_from_answer(answer: Mapping[str, Any], task: ChildTask, log_path: Path) -> Mapping[str, Any]:
    if "result" in answer:
        result: Mapping[str, Any] = answer["result"]
        return result
    if "error" in answer:
        raise error_from_form(answer["error"])
    trace = str(answer["bug"])
    raise UnexpectedError(
        f"{task.what} failed unexpectedly: {trace.strip().splitlines()[-1]}",
        code="unexpected",
        where=Where(log_path),
        fix="a bug of tritonsmith or of what it calls: report it with the traceback at the end",
        traceback=trace,
    )


def _error_from_exit(returncode: int, task: ChildTask, log_path: Path) -> BuildError:
    if returncode == -signal.SIGKILL:
        return task.error(
            f"{task.what} was killed by signal 9 (SIGKILL), usually because memory ran out",
            code=f"{task.code_prefix}_killed",
            where=Where(log_path),
            fix="free memory (`dmesg` shows the kernel's reason), or build on a larger machine",
        )
    if returncode < 0:
        how = f"died of signal {-returncode} ({signal.Signals(-returncode).name})"
    else:
        how = f"left with exit status {returncode} without an answer"
    return task.error(
        f"{task.what} {how}",
        code=f"{task.code_prefix}_crashed",
        where=Where(log_path),
        seen=_last_line(log_path),
        fix="the log has all that it printed",
    )


def _last_line(path: Path) -> str | None:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
