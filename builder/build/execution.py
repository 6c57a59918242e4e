"""(stale models, budget) → Made of each, several at a time, on this machine; one that fails does not stop the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from tritonsmith.builder.base.machine.cuda import gpus
from tritonsmith.builder.base.processes.budget import Budget, free_memory_bytes, machine_cpus
from tritonsmith.builder.base.processes.run_policy import PeakMemory, RunPolicy, run_under
from tritonsmith.builder.base.processes.warm import WarmWorkers
from tritonsmith.builder.build.context import BuildOptions
from tritonsmith.builder.build.model.make import Made, make_model
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.plan.plan import Action
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec

# Models whose actions may be waiting at once; what runs at once is the budget's.
_LEAST_THREADS = 8


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """Models settled, models in all, and the actions that run now."""

    done: int
    total: int
    running: tuple[str, ...] = ()

    @property
    def doing(self) -> str:
        """One phrase."""
        return ", ".join(self.running) or "laying out"


Tell = Callable[[BuildProgress], None]


class Watch:
    """Gathers what runs, from several threads, into one BuildProgress at a time."""

    def __init__(self, total: int, tell: Tell) -> None:
        self._tell = tell
        self._total = total
        self._done = 0
        self._running: list[str] = []
        self._lock = threading.Lock()

    def settled(self) -> None:
        """One model more is done with."""
        with self._lock:
            self._done += 1
            self._say()

    def started(self, what: str) -> None:
        """An action begins."""
        with self._lock:
            self._running.append(what.removeprefix("the "))
            self._say()

    def ended(self, what: str) -> None:
        """An action has ended."""
        with self._lock:
            self._running.remove(what.removeprefix("the "))
            self._say()

    def _say(self) -> None:
        self._tell(BuildProgress(self._done, self._total, tuple(self._running)))


class Executor(Protocol):
    """Where models are made: the threads of this machine, or a cluster."""

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called: nothing more is made."""
        ...

    def submit(self, spec: ModelSpec, planned: Sequence[Action]) -> Future[Made]:
        """Makes one model; the future has its Made, or the TritonsmithError that it ended with."""
        ...

    def stop(self) -> None:
        """Ends what runs and drops what waits; returns when all has ended."""
        ...


class LocalExecutor:
    """Threads of this process; each action they start is a child process that waits for its share of the budget."""

    def __init__(
        self, repository: RepositorySpec, cache: Cache, options: BuildOptions, watch: Watch, models: int
    ) -> None:
        jobs = options.jobs or max(1, min(machine_cpus(), models))
        memory = options.memory_bytes or free_memory_bytes()
        found, _ = gpus()
        self._repository, self._cache = repository, cache
        self._stopped = threading.Event()
        self._peaks = PeakMemory(cache.root / "peaks.json")
        self._warm = WarmWorkers()
        self._policy = RunPolicy(
            Budget(machine_cpus(), memory, [gpu.index for gpu in found], jobs),
            options.timeout_s,
            self._stopped.is_set,
            watch.started,
            watch.ended,
            self._peaks,
            self._warm,
        )
        self._threads = ThreadPoolExecutor(max(_LEAST_THREADS, 2 * jobs), thread_name_prefix="make")

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def submit(self, spec: ModelSpec, planned: Sequence[Action]) -> Future[Made]:
        """Makes one model in a thread."""
        return self._threads.submit(self._make, spec, planned)

    def _make(self, spec: ModelSpec, planned: Sequence[Action]) -> Made:
        with run_under(self._policy):
            return make_model(spec, planned, self._repository, self._cache)

    def stop(self) -> None:
        """Ends the running actions; at the end of a build there are none."""
        self._stopped.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._warm.close()
        self._peaks.save()
