"""Values of all arms at one load point → how each arm stands to the current config there; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tritonsmith.perf.stats import Ratio, RoundTable, arm_ratio, more_rounds
from tritonsmith.perf.sweep.plan import Arm

Outcome = Literal["better", "worse", "equivalent", "undecided", "outside", "broken"]
"""Of one arm at one load point, beside the current config there.

better, worse: the interval of the ratio lies beyond 1 by more than the A/A pair differed.
equivalent:    the interval lies inside the margin: whatever the difference is, it is smaller than that. This is a finding
               (two one-sided tests), not a failure to find a difference.
undecided:     neither; more rounds may decide.
outside:       a stated limit (p99, memory) is missed.
broken:        refused, died, failed requests or answered differently: never ranked.
"""


@dataclass(frozen=True, slots=True)
class ArmVerdict:
    """One arm at one load point.

    ratio:       to the current config, at a level that holds for all arms and load points together; None where there is none.
    why:         of `broken` and `outside` the reason, of `undecided` what is missing, where it is not more rounds.
    more_rounds: of `undecided`: so many more would decide, if the arm stays where it is; None where none would.
    """

    outcome: Outcome
    ratio: Ratio | None = None
    why: str | None = None
    more_rounds: int | None = None


@dataclass(frozen=True, slots=True)
class PointVerdict:
    """All arms at one load point.

    arms:         arm id → how it stands, of all but the current config.
    resolution:   by what factor minus 1 the two arms of the A/A pair differed here; None without both.
    current_fits: whether the current config meets the constraints here.
    best:         the highest of those that meet them, the current config among them; None when none does.
    like_best:    those that cannot be told from it.
    """

    concurrency: int
    arms: Mapping[str, ArmVerdict]
    resolution: float | None = None
    current_fits: bool = True
    best: str | None = None
    like_best: tuple[str, ...] = field(default=())

    def having(self, outcome: Outcome) -> list[str]:
        """Ids of the arms that are so here."""
        return [arm for arm, found in self.arms.items() if found.outcome == outcome]


@dataclass(frozen=True, slots=True)
class PointComparison:
    """The arms at one load point; they are named by their place in `arms`.

    table:       their values there, a row an arm.
    out:         place → (broken or outside, the reason) of those that do not count there.
    refuted:     places of arms that looked better, here or elsewhere, and did not win again there.
    comparisons: how many ratios are looked at in the whole sweep; the intervals hold for all of them together.
    margin:      a difference below it does not matter.
    """

    concurrency: int
    arms: Sequence[Arm]
    table: RoundTable
    out: Mapping[int, tuple[Outcome, str]]
    refuted: frozenset[int]
    comparisons: int
    margin: float

    def verdict(self) -> PointVerdict:
        """See PointVerdict."""
        current = [i for i, arm in enumerate(self.arms) if arm.baseline and self._is_measured(i)]
        others = [i for i, arm in enumerate(self.arms) if not arm.baseline]
        apart = self._apart(current)
        fits = any(i not in self.out for i in current)
        fitting = [i for i in (*current, *others) if i not in self.out and self._is_measured(i)]
        best = max(fitting, key=lambda i: self._height(i, current), default=None)
        return PointVerdict(
            self.concurrency,
            {self.arms[i].id: self._judge(i, current, apart or 0.0, fits) for i in others},
            apart,
            fits,
            None if best is None else self.arms[best].id,
            tuple(
                self.arms[i].id
                for i in fitting
                if best not in (None, i) and self._is_like(i, best, apart or 0.0)
            ),
        )

    def _apart(self, current: Sequence[int]) -> float | None:
        """By what factor minus 1 the A/A pair differed; None without a pair."""
        if len(current) < 2:
            return None
        return math.expm1(abs(float(self.table.effect[current[0]] - self.table.effect[current[1]])))

    def _judge(self, arm: int, current: Sequence[int], apart: float, current_fits: bool) -> ArmVerdict:
        """current: places of the current config; apart: what its two arms differed by."""
        ratio = self._ratio(arm, current) if current else None
        if arm in self.out:
            outcome, why = self.out[arm]
            return ArmVerdict(outcome, None if outcome == "broken" else ratio, why)
        if not self._is_measured(arm):
            return ArmVerdict("undecided", None, "not measured")
        if not current_fits:
            return ArmVerdict("better", ratio, "the current config does not meet the constraints")
        assert ratio is not None
        interval = ratio.interval
        if interval is None:
            return ArmVerdict("undecided", ratio, ratio.why)
        band, beyond = 1 + apart, 1 + self.margin
        if interval.low >= 1 / beyond and interval.high <= beyond:
            return ArmVerdict("equivalent", ratio)
        if interval.high < 1 / band:
            return ArmVerdict("worse", ratio)
        if interval.low > band:
            again = "it looked better and did not win again"
            return (
                ArmVerdict("undecided", ratio, again) if arm in self.refuted else ArmVerdict("better", ratio)
            )
        rounds = int(np.isfinite(self.table.logs[arm]).sum())
        return ArmVerdict("undecided", ratio, None, more_rounds(ratio, rounds, apart, self.margin))

    def _ratio(self, arm: int, to: Sequence[int]) -> Ratio:
        return arm_ratio(self.table, arm, to, comparisons=self.comparisons)

    def _is_measured(self, arm: int) -> bool:
        return not math.isnan(self.table.effect[arm])

    def _height(self, arm: int, current: Sequence[int]) -> float:
        """The current config counts by the mean of its pair."""
        return float(np.mean(self.table.effect[list(current) if arm in current else [arm]]))

    def _is_like(self, arm: int, best: int | None, apart: float) -> bool:
        interval = None if best is None else self._ratio(arm, [best]).interval
        return interval is None or interval.high >= 1 / (1 + apart)
