"""How the actions of this thread run: their turn, their time limit, who may stop them, and who is told; set once for a build.

It is ambient, as a cancellation scope is: every action, however deep below the build it starts, is one child
process, and builder.base.processes.child alone asks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from tritonsmith.builder.base.files.disk import write_atomically
from tritonsmith.builder.base.processes.budget import Budget, Grant
from tritonsmith.builder.base.processes.warm import Place, WarmWorkers, Worker

_UNKNOWN_BYTES = 1 << 30

_SOON_S = 0.3
"""Until the next action of a turn, for which something is left, an artifact is put into the local cache, as a rule."""


class PeakMemory:
    """Peak memory of actions by their name, as their last runs had it; a hint in a file, like the digests' cache."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._learnt: dict[str, int] = {}
        self._known = self._load()

    def expected_bytes(self, what: str) -> int:
        """What the action used last time, and a quarter; 1 GiB when it never ran here."""
        return int(self._known[what] * 1.25) if what in self._known else _UNKNOWN_BYTES

    def learn(self, what: str, peak_bytes: int) -> None:
        """Notes what the action used."""
        with self._lock:
            self._learnt[what] = peak_bytes

    def save(self) -> None:
        """Writes what was learnt; a full or read-only disk is no error here."""
        with self._lock, suppress(OSError):
            if self._learnt:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(
                    self._path, json.dumps({**self._load(), **self._learnt}, separators=(",", ":"))
                )

    def _load(self) -> dict[str, int]:
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_text())
            if isinstance(found, dict):
                return {k: v for k, v in found.items() if isinstance(v, int)}
        return {}


@dataclass(slots=True)
class Turn:
    """An action's turn, or that of several which follow one another (`in_one_turn`).

    expected_bytes: memory that was asked for.
    warm, worker:   where its processes come from, and that which has something left for the next action.
    used:           names of its actions, and the most memory that one of them used.
    """

    grant: Grant
    expected_bytes: int
    warm: WarmWorkers | None = None
    worker: Worker | None = None
    used: tuple[tuple[str, ...], int] = ((), 0)

    def keep(self, worker: Worker, grown_bytes: int, left: bool) -> None:
        """Takes a process after its action, for the next one where something is left for it, else for whoever comes."""
        worker.grown_bytes = grown_bytes
        if left:
            self.worker = worker
        elif self.warm is not None:
            self.warm.give_back(worker)

    def kept(self, place: Place) -> Worker | None:
        """The process that was kept, where it will do; one that will not is given back."""
        worker, self.worker = self.worker, None
        if worker is None or worker.key == place.key:
            return worker
        if self.warm is not None:
            self.warm.give_back(worker)
        return None


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """What builder.base.processes.child asks of an action.

    stop:    asked a few times a second; true ends the action.
    started, ended: called with the action's name.
    warm:    where workers are forked from; without it each is an interpreter of its own.
    """

    budget: Budget | None = None
    timeout_s: float | None = None
    stop: Callable[[], bool] = field(default=lambda: False)
    started: Callable[[str], None] = field(default=lambda what: None)
    ended: Callable[[str], None] = field(default=lambda what: None)
    peaks: PeakMemory | None = None
    warm: WarmWorkers | None = None

    @contextmanager
    def turn(self, what: str, gpus: Sequence[int] = ()) -> Iterator[Turn | None]:
        """Waits until the action may run; None when it was stopped first. Without a budget it runs at once, on the first
        of the GPUs that will do."""
        expected = _UNKNOWN_BYTES if self.peaks is None else self.peaks.expected_bytes(what)
        with in_one_turn() as sequence, sequence.turn(self, expected, gpus) as turn:
            if turn is not None and self.budget is not None:
                self.started(what)
            try:
                yield turn
            finally:
                if turn is not None and self.budget is not None:
                    self.ended(what)

    @contextmanager
    def held(self, expected_bytes: int, gpus: Sequence[int]) -> Iterator[Turn | None]:
        """A turn of its own, for as long as the block lasts; its process goes to whoever comes next."""
        with ExitStack() as stack:
            if self.budget is None:
                grant: Grant | None = Grant(0, gpus[0] if gpus else None)
            else:
                grant = stack.enter_context(self.budget.hold(expected_bytes, gpus, self.stop))
            turn = None if grant is None else Turn(grant, expected_bytes, self.warm)
            try:
                yield turn
            finally:
                if turn is not None and turn.worker is not None and self.warm is not None:
                    self.warm.give_back(turn.worker)

    def learn(self, turn: Turn, what: str, peak_bytes: int) -> None:
        """Notes what an action used; of those of one turn each is expected to use what the largest did."""
        names, most = turn.used
        turn.used = (*names, what), max(most, peak_bytes)
        if self.peaks is not None:
            for name in turn.used[0]:
                self.peaks.learn(name, turn.used[1])


class _Sequence:
    """Actions that follow one another; the last one's turn is kept until the next one asks for one, or the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._turn: Turn | None = None

    @contextmanager
    def turn(self, policy: RunPolicy, expected_bytes: int, gpus: Sequence[int]) -> Iterator[Turn | None]:
        """As RunPolicy.turn: the one that is kept, when it will do."""
        kept = self._turn
        if kept is None or gpus or kept.expected_bytes < expected_bytes:
            self.end()
            self._turn = self._stack.enter_context(policy.held(expected_bytes, gpus))
        elif policy.budget is not None and not policy.budget.take_back(kept.grant, policy.stop):
            yield None
            return
        try:
            yield self._turn
        finally:
            if self._turn is not None and policy.budget is not None:
                policy.budget.lend(self._turn.grant, _SOON_S if self._turn.worker is not None else 0.0)

    def end(self) -> None:
        """Gives all back."""
        self._turn = None
        self._stack.close()


_sequence: ContextVar[_Sequence | None] = ContextVar("sequence", default=None)


@contextmanager
def in_one_turn() -> Iterator[_Sequence]:
    """Actions of this thread within the block follow one another: they keep memory, and the process where they can share it.

    What the thread does between them, it does without CPUs of the budget. A block within a block is part of it.
    """
    outer = _sequence.get()
    if outer is not None:
        yield outer
        return
    sequence = _Sequence()
    token = _sequence.set(sequence)
    try:
        yield sequence
    finally:
        _sequence.reset(token)
        sequence.end()


_policy: ContextVar[RunPolicy] = ContextVar("run_policy", default=RunPolicy())  # noqa: B039


def current_policy() -> RunPolicy:
    """The policy that this thread runs under."""
    return _policy.get()


@contextmanager
def run_under(policy: RunPolicy) -> Iterator[None]:
    """Actions of this thread run under the policy within the block."""
    token = _policy.set(policy)
    try:
        yield
    finally:
        _policy.reset(token)
