"""CPUs, memory and GPUs of this machine → what each action may use, given out in the order asked."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.2
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """What one action may use: CPUs (threads of its libraries), and the GPU's number where it asked for one.

    Two are never the same, whatever they give.
    """

    cpus: int
    gpu: int | None = None


class Budget:
    """Gives out CPUs, memory and GPUs; first come, first served, so that a large action is not passed over for ever."""

    def __init__(
        self, cpus: int, memory_bytes: int, gpus: Sequence[int] = (), jobs: int | None = None
    ) -> None:
        self.jobs = jobs or cpus
        self.memory_bytes = memory_bytes
        self._threads = max(1, cpus // self.jobs)
        self._running = 0
        self._lent: dict[Grant, float] = {}
        self._returning: list[Grant] = []
        self._memory = memory_bytes
        self._gpus = list(gpus)
        self._all_gpus = frozenset(gpus)
        self._queue: list[object] = []
        self._changed = threading.Condition()

    @contextmanager
    def hold(
        self, memory_bytes: int, gpus: Collection[int] = (), stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Grant | None]:
        """Waits for the action's turn and gives it back at the end; None when `stop` said so first.

        gpus: numbers of those that will do; none of them for an action that needs no GPU, or where there is none.
        An action that wants more memory than there is runs alone.
        """
        wanted = min(memory_bytes, self.memory_bytes)
        fitting = self._all_gpus.intersection(gpus)
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            while not (self._queue[0] is ticket and self._has(wanted, fitting)):
                if stop():
                    self._queue.remove(ticket)
                    self._changed.notify_all()
                    yield None
                    return
                self._changed.wait(_POLL_S)
            self._queue.pop(0)
            self._running += 1
            self._memory -= wanted
            number = next((n for n in self._gpus if n in fitting), None)
            if number is not None:
                self._gpus.remove(number)
            self._changed.notify_all()
        grant = Grant(self._threads, number)
        try:
            yield grant
        finally:
            with self._changed:
                self._running -= grant not in self._lent
                self._lent.pop(grant, None)
                self._memory += wanted
                if number is not None:
                    self._gpus.append(number)
                self._changed.notify_all()

    def lend(self, grant: Grant, in_s: float = 0.0) -> None:
        """Gives the CPUs to others until they are taken back; memory, and a GPU, stay with who holds them.

        in_s: seconds for which nobody gets them yet, as they are soon taken back.
        """
        with self._changed:
            self._lent[grant] = time.monotonic() + in_s
            self._running -= 1
            self._changed.notify_all()

    def take_back(self, grant: Grant, stop: Callable[[], bool] = lambda: False) -> bool:
        """Waits for CPUs again; False, and they stay lent, when `stop` said so first.

        It comes before all who hold nothing yet: they may be waiting for the memory that this one has.
        """
        with self._changed:
            self._returning.append(grant)
            while (is_full := self._taken(grant) >= self.jobs) and not stop():
                self._changed.wait(_POLL_S)
            self._returning.remove(grant)
            if not is_full:
                del self._lent[grant]
                self._running += 1
            self._changed.notify_all()
            return not is_full

    def _taken(self, returning: Grant | None = None) -> int:
        """How many run, or come before one that takes its CPUs back; None: before who holds nothing."""
        now = time.monotonic()
        kept = {grant for grant, since in self._lent.items() if now < since and grant is not returning}
        ahead = self._returning if returning is None else self._returning[: self._returning.index(returning)]
        return self._running + len(kept.difference(self._returning).union(ahead))

    def _has(self, memory_bytes: int, fitting: frozenset[int]) -> bool:
        return (
            self._taken() < self.jobs
            and self._memory >= memory_bytes
            and (not fitting or not fitting.isdisjoint(self._gpus))
        )


def machine_cpus() -> int:
    """CPUs that this process may use: its affinity, and the container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return count


def free_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that new processes may take now: the machine's, or the control group's (v2 or v1) when that is less.

    A group's use counts the files that it read; those that nobody uses any more (inactive_file) give way, as for the
    working set that Kubernetes goes by.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    for group, limit, used, inactive in (
        (cgroup, "memory.max", "memory.current", "inactive_file"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError, KeyError):  # no such group, or no limit ("max")
            most = int((group / limit).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            free = min(free, most - int((group / used).read_text()) + int(stat[inactive]))
    return max(free, 0)
