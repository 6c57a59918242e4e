"""A sweep's budget, and what its trials took so far → the time that is left, and what of it is kept back."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tritonsmith.perf.sweep.judge.confirmation import CONFIRMING_ROUNDS
from tritonsmith.perf.sweep.judge.verdict import SETTLING_ROUNDS
from tritonsmith.perf.sweep.plan import END_S, SweepSpec, trial_cost_s
from tritonsmith.perf.sweep.trial import TrialResult

FINALS_SHARE = 0.2


class Budget:
    """Wall-clock time from `started_s` (time.monotonic)."""

    def __init__(self, spec: SweepSpec, started_s: float) -> None:
        self.spec = spec
        self._started_s = started_s

    def used_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started_s

    def left_s(self) -> float:
        """For trials; infinite without a budget."""
        if self.spec.budget_s is None:
            return float("inf")
        return self.spec.budget_s - END_S - self.used_s()

    def trial_s(self, results: Sequence[TrialResult]) -> float:
        """What a trial takes: the mean so far, else as planned."""
        took = [r.took_s for r in results if r.error is None]
        return sum(took) / len(took) if took else trial_cost_s(self.spec)

    def reserve_s(self, results: Sequence[TrialResult]) -> float:
        """Kept for the finals of perf.sweep.judge.confirmation, as far as they are a small part of the budget."""
        if self.spec.budget_s is None:
            return 0.0
        trial_s = self.trial_s(results)
        wanted = [3 * (SETTLING_ROUNDS + CONFIRMING_ROUNDS) * trial_s, 3 * CONFIRMING_ROUNDS * trial_s]
        return next((s for s in wanted if s <= FINALS_SHARE * self.spec.budget_s), 0.0)
