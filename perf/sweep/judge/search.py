"""Results so far → the next round's arms, or why to stop; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tritonsmith.perf.stats import arm_ratio, fit_rounds
from tritonsmith.perf.sweep.plan import DEFAULT_ROUNDS, MOST_ROUNDS, Arm, SweepSpec

Values = Mapping[tuple[str, int, int], float]
"""(arm id, concurrency, round) → the objective's value, larger is better; a failed trial has none."""

ROUNDS_BEFORE_RACING = 2


@dataclass(frozen=True, slots=True)
class Round:
    """Measure these arms next.

    dropped: arms left out from now on, with the reason, a sentence each. joining: those of `arms` that are
    new. number: of the round, from 0.
    """

    arms: tuple[Arm, ...]
    dropped: Mapping[str, str]
    joining: tuple[Arm, ...] = ()
    number: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """Enough was measured."""

    reason: str


def next_round(
    spec: SweepSpec, arms: Sequence[Arm], values: Values, round_: int, left_s: float, round_s: float
) -> Round | Stop:
    """What to do after `round_` rounds.

    arms:    still in the race. left_s: of the budget, infinite without one. round_s: what a round takes.
    """
    most = spec.rounds or (DEFAULT_ROUNDS if spec.budget_s is None else MOST_ROUNDS)
    if round_ >= most:
        return Stop(f"all {most} rounds were measured")
    if round_ and left_s < round_s / 4:
        return Stop(f"the budget of {spec.budget_s:g} s is used")
    losers = clear_losers(spec, arms, values) if round_ >= ROUNDS_BEFORE_RACING else {}
    return Round(tuple(arm for arm in arms if arm.id not in losers), losers)


def clear_losers(spec: SweepSpec, arms: Sequence[Arm], values: Values) -> dict[str, str]:
    """Arms that are below the best one at every load point, beyond an interval that holds for all of them.

    The A/A pair stays to the end: it is the yardstick.
    """
    points = spec.objective_points
    comparisons = max(1, len(arms) * len(points))
    worst: dict[str, float] = {arm.id: -math.inf for arm in arms if not arm.baseline}
    for point in points:
        table = fit_rounds(values_table(arms, values, point))
        if np.isnan(table.effect).all():
            return {}
        best = int(np.nanargmax(table.effect))
        for index, arm in enumerate(arms):
            if arm.id not in worst:
                continue
            ratio = arm_ratio(table, index, [best], comparisons=comparisons)
            high = math.inf if ratio.interval is None or index == best else ratio.interval.high
            worst[arm.id] = max(worst[arm.id], high)
    return {
        arm_id: f"at most {high:.2f}× the best arm at every load point"
        for arm_id, high in worst.items()
        if high < 1.0
    }


def values_table(
    arms: Sequence[Arm], values: Values, concurrency: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """float64 (arms, rounds) at one load point; NaN where there is no value."""
    rounds = 1 + max((key[2] for key in values), default=0)
    table = np.full((len(arms), rounds), np.nan)
    for row, arm in enumerate(arms):
        for round_ in range(rounds):
            table[row, round_] = values.get((arm.id, concurrency, round_), np.nan)
    return table
