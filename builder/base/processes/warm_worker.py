"""The process that workers are forked from: modules imported once → a child for each request of builder.base.processes.warm."""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
import warnings
from contextlib import suppress

_MOST_BYTES = 1 << 16


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
            message, descriptors, _, _ = socket.recv_fds(control, _MOST_BYTES, 4)
            if not message:
                os._exit(0)
            *given, tell = descriptors
            child = os.fork()
            if child == 0:
                control.close()
                signal.set_wakeup_fd(-1)
                for descriptor in (woken, wake, tell, *children.values()):
                    os.close(descriptor)
                _become(json.loads(message), *given)
            for descriptor in given:
                os.close(descriptor)
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


def _become(arguments: list[str], requests: int, answer: int, log: int) -> None:
    """This process as the worker that a fresh interpreter would be; does not return."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(requests, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(requests)
        os.close(log)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed()  # else every child would draw the same
        module, *rest = arguments
        sys.argv = [module, str(answer), *rest]
        importlib.import_module(module).main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
