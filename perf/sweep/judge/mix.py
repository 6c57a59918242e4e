"""A verdict at every load point + how often each load occurs → each arm's ratio over the mix, and the best arm; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tritonsmith.perf.stats import Interval, Ratio
from tritonsmith.perf.sweep.judge.verdict import Verdict

Weights = Mapping[int, float]
"""Load point → its share of the time; shares need not add up to 1."""


@dataclass(frozen=True, slots=True)
class MixedRatio:
    """One arm over a mix of loads. is_better: its interval lies above 1 by more than the A/A pair differed."""

    arm_id: str
    ratio: Ratio
    is_better: bool


def mixed_ratio(verdict: Verdict, arm_id: str, weights: Weights) -> MixedRatio | None:
    """The geometric mean of the arm's ratios, weighted; None where it is not compared at one of the loads, or does not count.

    The load points are measured apart, so the half-widths of the logarithms add as squares. They hold for all arms and load
    points together already, and so do these.
    """
    total = sum(weights.values())
    centre = squares = band = 0.0
    level = 0.95
    for concurrency, weight in weights.items():
        point, found = verdict.at(concurrency), verdict.of(arm_id, concurrency)
        if point is None or found is None or found.outcome in ("broken", "outside"):
            return None
        ratio = found.ratio
        if ratio is None or ratio.value is None or ratio.interval is None:
            return None
        share = weight / total
        centre += share * math.log(ratio.value)
        squares += (share * math.log(ratio.interval.high / ratio.interval.low) / 2) ** 2
        band += share * math.log1p(point.resolution or 0.0)
        level = ratio.interval.level
    half = math.sqrt(squares)
    interval = Interval(math.exp(centre - half), math.exp(centre + half), level)
    return MixedRatio(arm_id, Ratio(math.exp(centre), interval), centre - half > band)


def best_of_mix(verdict: Verdict, weights: Weights) -> MixedRatio | None:
    """The arm with the highest ratio over the mix; None where none can be compared at each of its loads."""
    arms = dict.fromkeys(arm for point in verdict.points for arm in point.arms)
    found = [mixed for arm in arms if (mixed := mixed_ratio(verdict, arm, weights))]
    return max(found, key=lambda mixed: mixed.ratio.value or 0.0, default=None)
