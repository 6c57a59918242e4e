"""Modules that workers import → a process that has them, from which each worker is forked: its own process in milliseconds."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

# Of a process that nothing but its parent's end of a socket keeps alive.
_END_S = 2.0
_MOST_BYTES = 1 << 16

MOST_TASKS = 100
_MOST_GROWN_BYTES = 64 << 20
"""Of a worker that waits for its next task, beyond what it had when it was forked: no budget counts it."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker is before its first task: the modules it has, its working directory, its environment."""

    imports: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]

    @property
    def key(self) -> tuple[str, ...]:
        """Of equal places equal."""
        return (*self.imports, self.directory, *(f"{k}={v}" for k, v in self.environment.items()))


class WarmWorkers:
    """Forks workers for one build. Each set of modules, and each environment, has a process that imported it.

    A worker is a process group of its own, as a fresh interpreter would be: what kills one kills no other. One that gave
    its answer and can take another task waits for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nurseries: dict[tuple[str, ...], _Nursery] = {}
        self._idle: list[Worker] = []

    def idle(self, place: Place) -> Worker | None:
        """One that waits for a task, if there is one."""
        with self._lock:
            fitting = [worker for worker in self._idle if worker.key == place.key]
            for worker in reversed(fitting):  # the last one's pages are still warm
                self._idle.remove(worker)
                if worker.poll() is None:
                    return worker
                worker.end()
        return None

    def forked(self, place: Place) -> Worker:
        """A new one, which has done nothing yet."""
        with self._lock:
            for _ in range(2):  # one that died in between is replaced once
                nursery = self._nurseries.get(place.key)
                if nursery is None:
                    nursery = self._nurseries[place.key] = _Nursery(place)
                with suppress(OSError):
                    return nursery.fork()
                nursery.end()
                del self._nurseries[place.key]
        raise ChildProcessError("no process could be started")

    def give_back(self, worker: Worker) -> None:
        """Takes one that is fit for another task, and ends it when it has done many or kept much memory."""
        if worker.tasks >= MOST_TASKS or worker.grown_bytes > _MOST_GROWN_BYTES or worker.poll() is not None:
            worker.end()
            return
        with self._lock:
            self._idle.append(worker)

    def close(self) -> None:
        """Ends the workers that wait, and the processes that they are forked from; no worker has a task any more."""
        with self._lock:
            for worker in self._idle:
                worker.end()
            self._idle.clear()
            for nursery in self._nurseries.values():
                nursery.end()
            self._nurseries.clear()


class _Nursery:
    """One process of builder.base.processes.warm_worker."""

    def __init__(self, place: Place) -> None:
        self._key = place.key
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tritonsmith.builder.base.processes.warm_worker",
                    str(theirs.fileno()),
                    *place.imports,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=place.directory,
                env=place.environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def fork(self) -> Worker:
        """OSError when the process is gone."""
        told, tell = os.pipe()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [b"1"], [theirs.fileno(), tell])
        except OSError:
            os.close(told)
            ours.close()
            raise
        finally:
            os.close(tell)
        return Worker(self._key, ours, told, self._process.pid)

    def end(self) -> None:
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._process.kill()
        self._process.wait()


class Worker:
    """A forked worker, asked as a subprocess.Popen is; a parent that is not its own tells how it ended.

    tasks: how many it was given. grown_bytes: what it holds after the last one beyond what it had before the first.
    """

    def __init__(self, key: tuple[str, ...], tasks: socket.socket, told: int, nursery: int) -> None:
        self.key = key
        self.tasks = 0
        self.grown_bytes = 0
        self.returncode: int | None = None
        self._tasks = tasks
        self._told, self._nursery = told, nursery
        self._pid: int | None = None
        self._text = b""

    def give(self, task: bytes, answer: int, log: int) -> None:
        """A line that builder.base.processes.warm_worker reads, with the descriptors of its answer and its log."""
        self.tasks += 1
        with suppress(OSError):  # it is gone, as its missing answer will say
            sent = socket.send_fds(self._tasks, [task[:_MOST_BYTES]], [answer, log])
            self._tasks.sendall(task[sent:])

    def leave_alone(self) -> None:
        """Tells it that nobody waits: it ends by itself, and what it started with it."""
        self._tasks.close()

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

    def end(self) -> None:
        """Ends one that has no task."""
        self.leave_alone()
        with suppress(ProcessLookupError, PermissionError):
            self.kill_group(signal.SIGKILL)
        self.wait()

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
