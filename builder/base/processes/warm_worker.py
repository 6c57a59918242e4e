"""The process that workers are forked from: modules imported once → a worker whenever builder.base.processes.warm asks."""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from tritonsmith.builder.base.processes.child_worker import Task, leave_with_all
from tritonsmith.builder.base.processes.own_state import OwnState

_MOST_BYTES = 1 << 16
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def main() -> None:
    """Program arguments: the control socket's descriptor, the modules to import. Ends with the socket's other end."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        # What is missing or broken, the worker itself says, in its log.
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector's marks would copy the pages that children share
    # numpy's OpenBLAS keeps threads, and takes care of forks itself.
    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            with suppress(BlockingIOError):
                os.read(woken, 1 << 10)
            _tell_ended(children)
        if control.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
            if not message:
                os._exit(0)
            tasks, tell = descriptors
            child = os.fork()
            if child == 0:
                control.close()
                signal.set_wakeup_fd(-1)
                for descriptor in (woken, wake, tell, *children.values()):
                    os.close(descriptor)
                _become(tasks)
            os.close(tasks)
            children[child] = tell
            _say(tell, child)


def _tell_ended(children: dict[int, int]) -> None:
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        tell = children.pop(child)
        _say(tell, os.waitstatus_to_exitcode(status))
        os.close(tell)


def _say(tell: int, number: int) -> None:
    with suppress(BrokenPipeError):
        os.write(tell, b"%d\n" % number)


def _become(tasks: int) -> None:
    """This process as the worker that a fresh interpreter would be, for one task after another; does not return."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        given: SimpleQueue[tuple[bytes, int, int]] = SimpleQueue()
        threading.Thread(target=_receive, args=(socket.socket(fileno=tasks), given), daemon=True).start()
        state = OwnState()
        while True:
            line, answer, log = given.get()
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            told = json.loads(line)
            if not told["follows"]:
                state.left.clear()
            sys.argv = [told["module"]]
            task = Task(told["request"], Path(told["out_dir"]), answer, state if told["shares"] else None)
            importlib.import_module(told["module"]).main(task)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _receive(tasks: socket.socket, given: SimpleQueue[tuple[bytes, int, int]]) -> None:
    """A line a task, with the descriptors of its answer and its log; their end means that nobody waits for us."""
    line = b""
    descriptors: list[int] = []
    while True:
        chunk, more, _, _ = socket.recv_fds(tasks, _MOST_BYTES, 2, _CLOSED_ON_EXEC)
        if not chunk:
            leave_with_all()
        line, descriptors = line + chunk, [*descriptors, *more]
        if line.endswith(b"\n"):
            answer, log = descriptors
            given.put((line, answer, log))
            line, descriptors = b"", []


if __name__ == "__main__":
    main()
