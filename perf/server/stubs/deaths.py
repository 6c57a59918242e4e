"""The process of a running server → its Python stubs, and how those ended that died without the server's order.

Triton itself notices a dead stub only when a request comes, never starts another, and goes on calling the model ready.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from tritonsmith.perf.server import control

POLL_S = 0.2
LOOKS = 3


@dataclass(frozen=True, slots=True)
class Stub:
    """A process that runs one instance of a model; model is its directory's name where no loaded model's fits."""

    pid: int
    command: tuple[str, ...]

    @property
    def instance(self) -> str:
        """The instance's name, as Triton's own messages have it."""
        return self.command[-2]

    def model_of(self, names: Sequence[str]) -> str:
        """Which of the server's models it runs."""
        found = [name for name in names if control.is_instance_of(name, self.command)]
        return max(found, key=len) if found else PurePath(self.command[1]).parent.parent.name


@dataclass(frozen=True, slots=True)
class Death:
    """A stub that ended without the server's order. status: as os.waitpid gives it."""

    stub: Stub
    status: int

    @property
    def how(self) -> str:
        """In words."""
        if not os.WIFSIGNALED(self.status):
            return f"ended with exit code {os.WEXITSTATUS(self.status)}"
        number = os.WTERMSIG(self.status)
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        hint = (
            ": killed by somebody, or by the kernel when memory ran out" if number == signal.SIGKILL else ""
        )
        return f"was ended by {name}{hint}"

    @property
    def sentence(self) -> str:
        """Who died, and how."""
        return f"the Python stub of instance {self.stub.instance!r} (pid {self.stub.pid}) {self.how}"


class Stubs:
    """The stubs of a server between one look and the next."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._alive: dict[int, Stub] = {}
        self._ended: dict[int, int] = {}

    def look(self) -> list[Death]:
        """Stubs that have died.

        One that ends by the server's order is waited for by the server at once, so what has ended and is still there
        some looks later ended by itself. One that lived too short a time to be seen is left to the server's log.
        """
        present = {pid: status for pid in _children(self._pid) if (status := _status(pid)) is not None}
        for pid, (state, _) in present.items():
            if state != "Z" and pid not in self._alive:
                command = _command(pid)
                if len(command) >= 3 and command[0].endswith("triton_python_backend_stub"):
                    self._alive[pid] = Stub(pid, command)
        self._alive = {pid: stub for pid, stub in self._alive.items() if pid in present}
        ended = [pid for pid in self._alive if present[pid][0] == "Z"]
        self._ended = {pid: self._ended.get(pid, 0) + 1 for pid in ended}
        died = [pid for pid, looks in self._ended.items() if looks >= LOOKS]
        return [Death(self._alive.pop(pid), present[pid][1]) for pid in died]

    def settled(self) -> list[Death]:
        """As look, when it is known of each that has ended whether it died."""
        died = self.look()
        while any(looks < LOOKS for looks in self._ended.values()):
            time.sleep(POLL_S)
            died += self.look()
        return died


# /proc by hand: psutil reads all processes of the machine for one's children, and this is asked all the time.


def _children(pid: int) -> Iterator[int]:
    """Of every thread: a process belongs to the one that started it."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - hundreds of threads, five times a second
            yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())


def _status(pid: int) -> tuple[str, int] | None:
    """(state, exit status as os.waitpid gives it, once the state is Z); None for a process that is gone."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    # The first and the last: proc(5), state and exit_code.
    return (fields[0].decode(), int(fields[-1])) if fields else None


def _command(pid: int) -> tuple[str, ...]:
    return tuple(os.fsdecode(word) for word in _read(f"/proc/{pid}/cmdline").split(b"\0")[:-1])


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as above: half of what a Path takes
            return file.read()
    except OSError:
        return b""
