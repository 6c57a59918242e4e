"""Modules that workers import → a process that has them, from which each worker is forked: its own process in milliseconds."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

# Of a process that nothing but its parent's end of a socket keeps alive.
_END_S = 2.0


class WarmWorkers:
    """Forks workers for one build. Each set of modules, and each environment, has a process that imported it.

    A worker is a process group of its own, as a fresh interpreter would be: what kills one kills no other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nurseries: dict[tuple[object, ...], _Nursery] = {}

    def start(
        self,
        module: str,
        imports: Sequence[str],
        answer: int,
        arguments: Sequence[str],
        log: int,
        directory: str,
        environment: Mapping[str, str],
    ) -> Worker:
        """A worker that runs `module`'s main; sys.argv has the answer pipe's descriptor, then the arguments."""
        key = (*imports, directory, *environment.items())
        with self._lock:
            for _ in range(2):  # one that died in between is replaced once
                nursery = self._nurseries.get(key)
                if nursery is None:
                    nursery = self._nurseries[key] = _Nursery(imports, directory, environment)
                with suppress(OSError):
                    return nursery.fork(module, answer, arguments, log)
                nursery.end()
                del self._nurseries[key]
        raise ChildProcessError(f"no process for {module} could be started")

    def close(self) -> None:
        """Ends the processes that workers are forked from; the workers themselves have ended before."""
        with self._lock:
            for nursery in self._nurseries.values():
                nursery.end()
            self._nurseries.clear()


class _Nursery:
    """One process of builder.base.processes.warm_worker."""

    def __init__(self, imports: Sequence[str], directory: str, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tritonsmith.builder.base.processes.warm_worker",
                    str(theirs.fileno()),
                    *imports,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=directory,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def fork(self, module: str, answer: int, arguments: Sequence[str], log: int) -> Worker:
        """OSError when the process is gone."""
        told, tell = os.pipe()
        requests, request = os.pipe()
        try:
            message = json.dumps([module, *arguments]).encode()
            socket.send_fds(self._control, [message], [requests, answer, log, tell])
        except OSError:
            os.close(told)
            os.close(request)
            raise
        finally:
            os.close(requests)
            os.close(tell)
        return Worker(os.fdopen(request, "wb"), told, self._process.pid)

    def end(self) -> None:
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._process.kill()
        self._process.wait()


class Worker:
    """A forked worker, asked as a subprocess.Popen is; a parent that is not its own tells how it ended."""

    def __init__(self, stdin: IO[bytes], told: int, nursery: int) -> None:
        self.stdin: IO[bytes] | None = stdin
        self.returncode: int | None = None
        self._told, self._nursery = told, nursery
        self._pid: int | None = None
        self._text = b""

    def poll(self) -> int | None:
        """The exit status as Popen gives it, None while the worker runs; -9 when nobody is left to tell."""
        while self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self._read()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """As Popen.wait: subprocess.TimeoutExpired after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._told], [], [], left)[0]:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            self._read()
        return self.returncode

    def kill_group(self, with_signal: signal.Signals) -> None:
        """To the worker and all that it started; ProcessLookupError when there is nothing of them."""
        self.poll()
        # Before it is forked, what stands in the way is the import of its modules.
        os.killpg(self._nursery if self._pid is None else self._pid, with_signal)

    def _read(self) -> None:
        chunk = os.read(self._told, 64)
        self._text += chunk
        pid, _, status = self._text.partition(b"\n")
        if b"\n" in self._text:
            self._pid = int(pid)
        if status.endswith(b"\n"):
            self.returncode = int(status)
        elif not chunk:
            self.returncode = -signal.SIGKILL
        if self.returncode is not None:
            os.close(self._told)
