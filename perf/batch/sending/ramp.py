"""Rows done at each number of requests in flight → the next number, until more bring nothing; pure but for its clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

LEVEL_S = 0.6
"""The least time that a level is measured."""
REQUESTS_A_LEVEL = 6
"""Requests in flight times this are done before a level is judged."""
LEVEL_LIMIT_S = 5.0
GAIN = 1.04
"""A level that does not bring this much more than the best before it brings nothing."""
LEVELS_IN_VAIN = 2
"""One after another end the search: a single one may have met a busy moment."""


@dataclass(slots=True)
class Ramp:
    """1, 2, 4, 8 … requests in flight, each measured on the job's own requests; the fewest that are as good as the best stay.

    fixed: that many from the start, nothing is tried. clock_s: a monotonic time.
    The first requests of a level were sent under the level before and are not counted.
    """

    clock_s: Callable[[], float]
    most: int = 64
    fixed: int | None = None
    width: int = 1
    is_settled: bool = False
    levels: list[tuple[int, float]] = field(default_factory=list)  # (in flight, rows a second)
    _begun_s: float | None = None
    _skipped: int = 0
    _requests: int = 0
    _rows: int = 0
    _in_vain: int = 0

    def __post_init__(self) -> None:
        if self.fixed is not None:
            self.width, self.is_settled = self.fixed, True

    def done(self, rows: int) -> bool:
        """A request is answered; True when the width changed."""
        if self.is_settled:
            return False
        now = self.clock_s()
        if self._begun_s is None:
            self._skipped += 1
            if self._skipped >= self.width:
                self._begun_s = now
            return False
        self._requests += 1
        self._rows += rows
        took_s = now - self._begun_s
        enough = took_s >= LEVEL_S and self._requests >= REQUESTS_A_LEVEL * self.width
        if not enough and took_s < LEVEL_LIMIT_S:
            return False
        self._judge(self._rows / max(took_s, 1e-9))
        return True

    def _judge(self, rows_per_s: float) -> None:
        best = max((rate for _, rate in self.levels), default=0.0)
        self.levels.append((self.width, rows_per_s))
        self._in_vain = 0 if rows_per_s > best * GAIN else self._in_vain + 1
        if self._in_vain < LEVELS_IN_VAIN and 2 * self.width <= self.most:
            self.width *= 2
        else:
            best = max(rate for _, rate in self.levels)
            self.width = min(width for width, rate in self.levels if rate * GAIN >= best)
            self.is_settled = True
        self._begun_s, self._skipped, self._requests, self._rows = None, 0, 0, 0
