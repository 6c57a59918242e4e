"""The child's side of builder.base.processes.child: a JSON request → one JSON answer on a pipe."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tritonsmith.builder.base.errors import BuildError, TritonsmithError, Where
from tritonsmith.builder.base.processes.own_state import OwnState

Handle = Callable[[Mapping[str, Any], Path], Mapping[str, object]]
"""(request, out_dir) → result; a TritonsmithError travels to the parent, anything else is a bug."""


@dataclass(frozen=True, slots=True)
class Task:
    """One request. answer: the pipe's descriptor. state: of a process that may take another task afterwards."""

    request: Mapping[str, Any]
    out_dir: Path
    answer: int
    state: OwnState | None = None


running: list[Task] = []


def left() -> dict[str, Any]:
    """What the tasks of one turn leave to one another, where they share a process; else an empty one, which is lost."""
    state = running[0].state if running else None
    return {} if state is None else state.left


def serve(handle: Handle, doing: str, task: Task | None = None) -> None:
    """Answers one request, then leaves by os._exit, unless the process is fit for another task.

    task: None for that of standard input; program arguments are then the answer pipe's descriptor and out_dir.
    `doing` is for a full disk's message ("exporting").
    """
    given = task or _task_of_program()
    os.set_inheritable(given.answer, False)
    running[:] = [given]
    if given.state is not None:
        given.state.forget_peak()
    with warnings.catch_warnings():  # else one that was said is in no later task's log
        answered = _answer(handle, given.request, given.out_dir, doing)
    # ru_maxrss counts KiB on Linux.
    answered["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    stays = given.state is not None and "bug" not in answered and given.state.put_back()
    if given.state is not None and stays:
        answered["stays"] = {"grown_bytes": given.state.grown_bytes, "left": bool(given.state.left)}
    message = json.dumps(answered).encode()
    while message:
        message = message[os.write(given.answer, message) :]
    if not stays:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)  # torch's teardown takes a second and changes nothing
    os.close(given.answer)


def _task_of_program() -> Task:
    parent = os.dup(0)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    request = json.loads(_read_line(parent))
    threading.Thread(target=_leave_with_parent, args=(parent,), daemon=True).start()
    return Task(request, Path(sys.argv[2]), int(sys.argv[1]))


def enter_search_path(search_path: Path) -> None:
    """Puts the user's directory first on sys.path and makes it the working directory.

    `-m` put the package's own root first; the user's modules must see their own directory there instead.
    """
    if sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
        del sys.path[0]
    sys.path.insert(0, str(search_path))
    os.chdir(search_path)


def _read_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            os._exit(1)
        line += chunk
    return line


def _leave_with_parent(descriptor: int) -> None:
    """The parent holds the other end until it is done with us; end of file means that nobody waits."""
    while os.read(descriptor, 1):
        pass
    leave_with_all()


def leave_with_all() -> NoReturn:
    """Ends this process and what it started."""
    if os.getpgrp() == os.getpid():  # ours alone: what the source started goes with us
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _answer(handle: Handle, request: Mapping[str, Any], out_dir: Path, doing: str) -> dict[str, object]:
    try:
        return {"result": handle(request, out_dir)}
    except TritonsmithError as error:
        _log_traceback()
        return {"error": error.form()}
    except OSError as error:
        _log_traceback()
        if error.errno == errno.ENOSPC:
            return {"error": disk_full(error, out_dir, doing).form()}
        return {"bug": traceback.format_exc()}
    except BaseException:
        _log_traceback()
        return {"bug": traceback.format_exc()}


def _log_traceback() -> None:
    with suppress(OSError):  # the log may lie on the disk that is full
        traceback.print_exc()


def disk_full(error: OSError, out_dir: Path, doing: str) -> BuildError:
    """An ENOSPC → the error people get."""
    return BuildError(
        f"disk full while {doing}",
        code="disk_full",
        where=Where(Path(str(error.filename)) if error.filename else out_dir),
        fix="free space on that file system; nothing half-written is used",
    )
