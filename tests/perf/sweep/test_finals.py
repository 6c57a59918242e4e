"""Extra rounds for the arm that is ahead: they settle a lead that is real and do not make one of luck."""

from __future__ import annotations

import numpy as np
import pytest

from tests.perf.sweep.test_sweep import ALIKE, BETTER, arms, facts, spec
from tritonsmith.perf.sweep.judge.confirmation import SETTLING_LOOKS, final_trials, is_worth_settling
from tritonsmith.perf.sweep.judge.verdict import Verdict, decide
from tritonsmith.perf.sweep.plan import Trial

Truth = dict[str, dict[int, float]]


class Machine:
    """A noisy one: every trial's value is its arm's true one times noise."""

    def __init__(self, truth: Truth, noise: float, seed: int) -> None:
        self.truth, self.noise, self.random = truth, noise, np.random.default_rng(seed)
        self.values: dict[tuple[str, int, int], float] = {}
        self.settling: set[int] = set()
        self.confirming: set[int] = set()

    def measure(self, trials: list[Trial]) -> None:
        for t in trials:
            noise = float(np.exp(self.random.normal(0, self.noise)))
            self.values[t.arm_id, t.concurrency, t.round] = self.truth[t.arm_id][t.concurrency] * noise
            self.settling |= {t.round} if t.settles else set()
            self.confirming |= {t.round} if t.confirms else set()

    def verdict(self) -> Verdict:
        return decide(
            spec(concurrency=[32]),
            arms(),
            self.values,
            facts(self.truth),
            frozenset(self.confirming),
            frozenset(self.settling),
        )


def swept(truth: Truth, noise: float, seed: int, *, settle: bool) -> Verdict:
    machine = Machine(truth, noise, seed)
    machine.measure([Trial(0, r, arm.id, 32) for r in range(3) for arm in arms()])
    rounds = 3
    for _ in range(SETTLING_LOOKS if settle else 0):
        if is_worth_settling(machine.verdict(), rounds):
            machine.measure(final_trials(arms(), machine.verdict(), rounds, 100, confirms=False))
            rounds += 3
    if machine.verdict().outcome == "winner":
        machine.measure(final_trials(arms(), machine.verdict(), rounds, 200, confirms=True))
    return machine.verdict()


def share(truth: Truth, noise: float, *, settle: bool, sweeps: int = 200) -> float:
    found = [swept(truth, noise, seed, settle=settle) for seed in range(sweeps)]
    return sum(v.outcome == "winner" and v.arm_id == "arm02" for v in found) / sweeps


def test_a_real_lead_on_a_noisy_machine_is_settled_where_three_rounds_leave_it_open() -> None:
    assert share(BETTER, 0.12, settle=False) < 0.75
    assert share(BETTER, 0.12, settle=True) > 0.9


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_identical_arms_still_name_a_winner_in_at_most_five_of_a_hundred_sweeps(noise: float) -> None:
    found = [swept(ALIKE, noise, seed, settle=True) for seed in range(300)]
    assert sum(v.outcome == "winner" for v in found) / len(found) <= 0.05


def test_a_final_is_the_leader_beside_the_pair_in_alternating_order() -> None:
    verdict = swept(BETTER, 0.02, 0, settle=False)
    trials = final_trials(arms(), verdict, 7, 40, confirms=True)
    rounds = [[t.arm_id for t in trials if t.round == r] for r in (7, 8, 9)]
    assert all(sorted(one) == ["arm00", "arm01", "arm02"] for one in rounds) and rounds[0] != rounds[1]
    assert [t.number for t in trials] == list(range(40, 49)) and all(t.confirms for t in trials)


def test_what_is_open_is_only_settled_when_someone_is_ahead_and_an_answer_that_holds_was_asked_for() -> None:
    tied = swept(ALIKE, 0.01, 1, settle=False)
    assert tied.outcome == "equivalent" and not is_worth_settling(tied, 3)
    ahead = swept(BETTER, 0.3, 5, settle=False)
    assert ahead.outcome == "undecided" and is_worth_settling(ahead, 3) and not is_worth_settling(ahead, 2)
