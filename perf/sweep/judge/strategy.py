"""The course of a sweep, round by round: over the whole grid, or over what a search proposes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tritonsmith.perf.stats import fit_rounds
from tritonsmith.perf.sweep.judge.propose import Proposer, proposer_of
from tritonsmith.perf.sweep.judge.search import Round, Stop, Values, clear_losers, next_round, values_table
from tritonsmith.perf.sweep.plan import DEFAULT_ROUNDS, MOST_ROUNDS, Arm, ArmPlanner, Choice, SweepSpec

GENERATION = 6
ROUNDS_A_GENERATION = 2
SURVIVORS = 3
FINAL_SHARE = 0.35
"""Of the budget, kept for measuring the best ones more."""


def strategy_of(spec: SweepSpec, planner: ArmPlanner) -> GridStrategy | SearchStrategy:
    """How the space is gone through."""
    return GridStrategy(spec) if spec.is_grid else SearchStrategy(spec, planner, proposer_of(spec))


class GridStrategy:
    """All arms from the first round on; clear losers drop out."""

    def __init__(self, spec: SweepSpec) -> None:
        self._spec = spec
        self._round = 0

    def next(self, arms: Sequence[Arm], values: Values, left_s: float, round_s: float) -> Round | Stop:
        """The next round; arms: those still in the race."""
        decision = next_round(self._spec, arms, values, self._round, left_s, round_s)
        if isinstance(decision, Stop):
            return decision
        self._round += 1
        return replace(decision, number=self._round - 1)


class SearchStrategy:
    """Generations of proposed arms, two rounds each beside the A/A pair and the best so far, then a final.

    The A/A pair is in every round, so arms of different generations are compared through it (the round
    model of perf.stats.ratio). Values of cells outside the constraints are not in `values`: an arm that has
    none scores below all others.
    """

    def __init__(self, spec: SweepSpec, planner: ArmPlanner, proposer: Proposer) -> None:
        self._spec = spec
        self._planner = planner
        self._proposer = proposer
        self._choices: dict[str, list[Choice]] = {}
        self._proposed = 0
        self._round = 0
        self._left_in_generation = 0
        self._final_rounds: int | None = None
        self._first_left_s: float | None = None
        self.load_arm_s = 0.0
        """What loading an arm takes, as far as is known."""

    def next(self, arms: Sequence[Arm], values: Values, left_s: float, round_s: float) -> Round | Stop:
        """The next round; arms: those still in the race."""
        spec = self._spec
        self._first_left_s = left_s if self._first_left_s is None else self._first_left_s
        if self._left_in_generation:
            self._left_in_generation -= 1
            return self._go(arms, {}, ())
        dropped = self._end_generation(arms, values) if self._round else {}
        remaining = tuple(arm for arm in arms if arm.id not in dropped)
        room = left_s - self.load_arm_s > FINAL_SHARE * self._first_left_s
        room = room or math.isinf(left_s) or not self._proposed
        joining = self._propose(self._generation(left_s)) if self._final_rounds is None and room else ()
        if joining:
            self._left_in_generation = ROUNDS_A_GENERATION - 1
            return self._go((*remaining, *joining), dropped, joining)
        if self._final_rounds is None:
            self._final_rounds = 0
        most = spec.rounds or (DEFAULT_ROUNDS if spec.budget_s is None else MOST_ROUNDS)
        if self._final_rounds >= most:
            return Stop(f"{self._proposed} combinations and {most} final rounds of the best were measured")
        if left_s < round_s / 4:
            return Stop(f"the budget of {spec.budget_s:g} s is used")
        self._final_rounds += 1
        return self._go(remaining, dropped, ())

    def _go(self, arms: Sequence[Arm], dropped: dict[str, str], joining: tuple[Arm, ...]) -> Round:
        self._round += 1
        return Round(tuple(arms), dropped, joining, self._round - 1)

    def _generation(self, left_s: float) -> int:
        """How many arms join at once: fewer where loading them would take more than half of what is left."""
        if math.isinf(left_s) or self.load_arm_s <= 0:
            return GENERATION
        return min(GENERATION, max(1, int(left_s / 2 / self.load_arm_s)))

    def _propose(self, most: int) -> tuple[Arm, ...]:
        """New arms, at most so many; those that turn out to be known ones are asked for again."""
        joining: list[Arm] = []
        while len(joining) < most and self._proposed < self._spec.proposals:
            choices = self._proposer.ask(min(most - len(joining), self._spec.proposals - self._proposed))
            if not choices:
                break
            for choice in choices:
                before = len(self._planner.arms)
                arm = self._planner.add(choice)
                if arm is not None:
                    self._choices.setdefault(arm.id, []).append(choice)
                if arm is not None and len(self._planner.arms) > before:
                    joining.append(arm)
                    self._proposed += 1
        return tuple(joining)

    def _end_generation(self, arms: Sequence[Arm], values: Values) -> dict[str, str]:
        scores = scores_of(self._spec, self._planner.arms, values)
        for arm_id, choices in self._choices.items():
            for choice in choices:
                self._proposer.tell(choice, scores[arm_id])
        dropped = clear_losers(self._spec, arms, values)
        others = [arm for arm in arms if not arm.baseline and arm.id not in dropped]
        others.sort(key=lambda arm: scores[arm.id], reverse=True)
        for arm in others[SURVIVORS:]:
            dropped[arm.id] = f"not among the {SURVIVORS} best of those proposed so far"
        return dropped


def scores_of(spec: SweepSpec, arms: Sequence[Arm], values: Values) -> dict[str, float]:
    """Arm id → log value at its best load point in an average round; 1 below the worst without any value.

    Of a latency the least is always at the least load, so there it is the mean over all load points.
    """
    found: dict[str, list[float]] = {}
    for point in spec.objective_points:
        effect = fit_rounds(values_table(arms, values, point)).effect
        for arm, score in zip(arms, effect, strict=True):
            if not np.isnan(score):
                found.setdefault(arm.id, []).append(float(score))
    is_latency = spec.objective.startswith("p")
    of = {arm: sum(s) / len(spec.objective_points) if is_latency else max(s) for arm, s in found.items()}
    of = {arm: s for arm, s in of.items() if not is_latency or len(found[arm]) == len(spec.objective_points)}
    worst = min(of.values(), default=0.0) - 1.0
    return {arm.id: of.get(arm.id, worst) for arm in arms}
