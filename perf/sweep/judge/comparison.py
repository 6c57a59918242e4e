"""Values of all arms → how each stands to the current config at the one load point where that is asked; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tritonsmith.perf.stats import Ratio, RoundTable, arm_ratio, fit_rounds
from tritonsmith.perf.sweep.judge.search import Values, values_table
from tritonsmith.perf.sweep.plan import Arm

Outcome = Literal["winner", "tie", "keep", "nothing_fits", "undecided"]


def load_point(
    points: Sequence[int], arms: Sequence[Arm], values: Values, fits: Mapping[tuple[str, int], bool]
) -> int | None:
    """The load point where the best arm that meets the constraints has the highest value; None when none does."""
    best: tuple[float, int] | None = None
    for point in points:
        rows = [i for i, arm in enumerate(arms) if fits[arm.id, point]]
        effect = fit_rounds(values_table(arms, values, point)).effect[rows]
        if effect.size and not np.isnan(effect).all():
            height = float(np.nanmax(effect))
            if best is None or height > best[0]:
                best = (height, point)
    return None if best is None else best[1]


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """The arms at one load point; they are named by their place in `arms`.

    table:       their values there, a row an arm.
    fits:        places of the arms that meet the constraints there.
    comparisons: in how many the best is looked for; the intervals hold for all of them together.
    """

    arms: Sequence[Arm]
    table: RoundTable
    fits: frozenset[int]
    comparisons: int

    @property
    def baselines(self) -> list[int]:
        """The current config, once or as the A/A pair, as far as it was measured."""
        return [i for i, arm in enumerate(self.arms) if arm.baseline and self._is_measured(i)]

    @property
    def others(self) -> list[int]:
        """All that are not the current config."""
        return [i for i, arm in enumerate(self.arms) if not arm.baseline]

    @property
    def fitting(self) -> list[int]:
        """Those that were measured and meet the constraints, the current config first."""
        return [i for i in (*self.baselines, *self.others) if i in self.fits and self._is_measured(i)]

    @property
    def resolution(self) -> float | None:
        """By what factor minus 1 the A/A pair differed; None without a pair."""
        pair = self.baselines
        if len(pair) < 2:
            return None
        return math.expm1(abs(float(self.table.effect[pair[0]] - self.table.effect[pair[1]])))

    @property
    def best(self) -> int:
        """The highest of those that fit; the current config counts by the mean of its pair."""
        return max(self.fitting, key=self._height)

    @property
    def like_best(self) -> tuple[int, ...]:
        """Those that fit and cannot be told from the best."""
        best = self.best
        return tuple(i for i in self.fitting if i != best and self._is_like(self.ratio(i, [best])))

    def ratio(self, arm: int, to: Sequence[int] | None = None) -> Ratio:
        """An arm to the current config, or to other arms."""
        return arm_ratio(self.table, arm, self.baselines if to is None else to, comparisons=self.comparisons)

    def highest(self, among: Sequence[int]) -> int | None:
        """The highest of these arms."""
        return max(among, key=lambda i: float(self.table.effect[i]), default=None)

    def outcome(self, chosen: int | None) -> Outcome:
        """What can be said of the arm that came out highest; None: no other arm fits."""
        if chosen is None:
            return "keep"
        interval = self.ratio(chosen).interval
        if interval is None:
            return "undecided"
        band = 1 + (self.resolution or 0.0)
        if interval.low > band:
            return "winner"
        if self.fits.isdisjoint(self.baselines):
            return "winner"  # the current config does not meet the constraints here; this one does
        intervals = [self.ratio(i).interval for i in self.others]
        all_worse = all(found is not None and found.high < 1 / band for found in intervals)
        return "keep" if all_worse and self.arms[self.best].baseline else "tie"

    def _is_measured(self, arm: int) -> bool:
        return not math.isnan(self.table.effect[arm])

    def _height(self, arm: int) -> float:
        effect, baselines = self.table.effect, self.baselines
        return float(np.mean(effect[baselines])) if arm in baselines else float(effect[arm])

    def _is_like(self, ratio: Ratio) -> bool:
        return ratio.interval is None or ratio.interval.high >= 1 / (1 + (self.resolution or 0.0))
