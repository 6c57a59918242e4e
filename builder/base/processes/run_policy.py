"""How the actions of this thread run: their turn, their time limit, who may stop them, and who is told; set once for a build.

It is ambient, as a cancellation scope is: every action, however deep below the build it starts, is one child
process, and builder.base.processes.child alone asks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from tritonsmith.builder.base.files.disk import write_atomically
from tritonsmith.builder.base.processes.budget import Budget, Grant
from tritonsmith.builder.base.processes.warm import WarmWorkers

_UNKNOWN_BYTES = 1 << 30


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
    def turn(self, what: str, gpus: Sequence[int] = ()) -> Iterator[Grant | None]:
        """Waits until the action may run; None when it was stopped first. Without a budget it runs at once, on the first
        of the GPUs that will do."""
        if self.budget is None:
            yield Grant(0, gpus[0] if gpus else None)
            return
        expected = _UNKNOWN_BYTES if self.peaks is None else self.peaks.expected_bytes(what)
        with self.budget.hold(expected, gpus, self.stop) as grant:
            if grant is not None:
                self.started(what)
            try:
                yield grant
            finally:
                if grant is not None:
                    self.ended(what)


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
