"""Objectives, constraints, resuming and the search of large spaces: nothing here touches a server."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.perf.sweep.test_sweep import BETTER, COUNT, CURRENT, DELAY, arms, facts, measured, spec
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.sweep.judge.constraints import CellFacts, misses
from tritonsmith.perf.sweep.judge.propose import OptunaProposer, RandomProposer, proposer_of
from tritonsmith.perf.sweep.judge.search import Round, Stop
from tritonsmith.perf.sweep.judge.strategy import SearchStrategy
from tritonsmith.perf.sweep.judge.verdict import decide
from tritonsmith.perf.sweep.plan import (
    Arm,
    ArmPlanner,
    SweepSpec,
    Trial,
    plan_arms,
    spec_from_mapping,
    trials_of_round,
)
from tritonsmith.perf.sweep.plan.fingerprint import Content
from tritonsmith.perf.sweep.run.resume import Earlier, reusable
from tritonsmith.perf.sweep.trial import TrialResult
from tritonsmith.perf.usage.resource_use import energy_of, gpu_readings_from_metrics


@pytest.mark.parametrize(
    ("changes", "seen", "expected"),
    [
        ({"max_p99_ms": 20}, CellFacts(25.0, 0.0), "25.0 ms, 25% above"),
        ({"max_memory_mib": 100}, CellFacts(5.0, 0.0, None, 150.0), "150 MiB, 50% above"),
        ({"max_failures": 0.01}, CellFacts(5.0, 0.03), "3.00%, 2.0 points above"),
        ({"max_wrong": 0.0}, CellFacts(5.0, 0.0, 0.25), "25.00%, 25.0 points above"),
    ],
)
def test_each_constraint_tells_by_how_much_it_is_missed(
    changes: dict[str, Any], seen: CellFacts, expected: str
) -> None:
    assert [str(miss) for miss in misses(spec(**changes), seen)] == [expected]
    assert misses(spec(**changes), CellFacts(5.0, 0.0, 0.0, 50.0)) == ()


def test_the_nearest_miss_is_the_cell_that_misses_fewest_limits() -> None:
    limits = facts(BETTER, 30.0)
    limits = {
        cell: replace(f, memory_mib=90.0 if cell[0] == "arm03" else 200.0) for cell, f in limits.items()
    }
    verdict = decide(spec(max_p99_ms=20, max_memory_mib=100), arms(), measured(BETTER, 4), limits)
    assert verdict.outcome == "nothing_fits" and verdict.arm_id == "arm03"
    assert verdict.sentence.startswith("Nothing meets p99 ≤ 20 ms: the nearest is count 3")


def test_the_objective_cost_needs_a_price_and_tells_dollars() -> None:
    with pytest.raises(TritonsmithError, match="needs the server's price"):
        spec_from_mapping({"model": "m", "objective": "cost", "space": {COUNT: [1]}})
    # values are inferences a dollar: 1 M, and 1.5 M for arm02 at concurrency 32
    scaled = {cell: value * 1000 for cell, value in measured(BETTER, 4, 0.001).items()}
    wanted = spec(objective="cost", dollars_per_hour=3.6, concurrency=[32])
    verdict = decide(wanted, arms(), {k: v for k, v in scaled.items() if k[1] == 32}, facts(BETTER))
    assert verdict.outcome == "winner" and "inferences per dollar" in verdict.sentence
    assert any(n.startswith("A million inferences at $3.6 an hour cost: count 2 $") for n in verdict.notes)
    by_tokens = wanted.model_copy(update={"isl": 16, "osl": 16})
    verdict = decide(by_tokens, arms(), {k: v for k, v in scaled.items() if k[1] == 32}, facts(BETTER))
    assert any(n.startswith("A million output tokens at $3.6 an hour cost: count 2 $") for n in verdict.notes)


def test_a_limit_on_p99_makes_the_rate_the_objective() -> None:
    wanted = spec_from_mapping({"model": "m", "slo_p99_ms": 20, "space": {COUNT: [2]}})
    assert (wanted.objective, wanted.concurrency) == ("rate", (1,))
    values = {(arm, 1, r): v for arm, v in (("arm00", 90), ("arm01", 91), ("arm02", 150)) for r in range(3)}
    verdict = decide(wanted, arms(3), values, {(a.id, 1): CellFacts(19.0, 0.0) for a in arms(3)})
    assert "the current config's request rate at p99 ≤ 20 ms" in verdict.sentence
    none = decide(wanted, arms(3), {}, {(a.id, 1): CellFacts(30.0, 0.0) for a in arms(3)})
    assert none.outcome == "nothing_fits" and none.sentence.endswith("with 30.0 ms, 50% above.")


def test_energy_is_the_sum_over_gpus() -> None:
    text = '# HELP\nnv_energy_consumption{gpu_uuid="a"} 100.5\nnv_energy_consumption{gpu_uuid="b"} 2e1\n'
    assert energy_of(gpu_readings_from_metrics(text).values()) == 120.5
    assert energy_of(gpu_readings_from_metrics("nv_inference_count{} 3\n").values()) is None


class TestAxes:
    def test_variants_are_combined_with_the_space(self) -> None:
        wanted = spec(space={COUNT: [1, 2]}, variants={"fp16": "x"})
        plan = plan_arms(wanted, CURRENT, {"fp16": {**CURRENT, "backend": "tensorrt"}})
        labels = ["count 2", "fp16, count 1", "fp16, count 2"]
        assert [arm.label for arm in plan.arms[2:]] == labels
        assert plan.arms[3].config["backend"] == "tensorrt"

    def test_a_batch_that_no_load_reaches_is_not_measured_twice(self) -> None:
        plan = plan_arms(spec(space={"max_batch_size": [8, 16, 32]}, concurrency=[2, 8]), CURRENT)
        assert [arm.label for arm in plan.arms[2:]] == ["max_batch_size 16"]
        assert any("the same as max_batch_size 16" in note for note in plan.notes)

    @pytest.mark.parametrize(
        ("preferred", "expected"),
        [([8], []), ([2, 4, 8], [2, 4]), ([2], [2])],
        ids=["filled", "own", "small"],
    )
    def test_preferred_sizes_follow_a_smaller_max_batch_size(
        self, preferred: list[int], expected: list[int]
    ) -> None:
        current = {**CURRENT, "dynamic_batching": {"preferred_batch_size": preferred}}
        plan = plan_arms(spec(space={"max_batch_size": [4]}), current)
        assert plan.arms[2].config["dynamic_batching"]["preferred_batch_size"] == expected

    def test_a_client_batch_above_max_batch_size_is_left_out(self) -> None:
        plan = plan_arms(spec(space={"client.batch_size": [4, 16]}), CURRENT)
        assert [arm.batch_size for arm in plan.arms[2:]] == [4]
        assert any("client batch 16: left out, its max_batch_size 8" in note for note in plan.notes)

    def test_in_place_changes_of_count_alone_neighbour(self) -> None:
        plan = plan_arms(spec(space={COUNT: [1, 2, 3], DELAY: [0, 100, 200]}), CURRENT)
        delay = {
            arm.id: arm.config["dynamic_batching"].get("max_queue_delay_microseconds") for arm in plan.arms
        }
        for round_ in range(4):
            trials = trials_of_round(spec(concurrency=[1]), plan.arms, round_, 0, "in_place")
            delays = [delay[t.arm_id] for t in trials]
            assert sum(a != b for a, b in itertools.pairwise(delays)) == 2


PAIRS = [(arm, point) for point in (1, 8) for arm in arms(3)]


class TestResume:
    content = Content({"the model's files": "a"})
    trials = tuple(Trial(10 + i, 0, arm.id, point) for i, (arm, point) in enumerate(PAIRS))

    def key(self, trial: Trial) -> str:
        return self.content.key(replace(arms(3)[int(trial.arm_id[-1])], config={}), trial)

    def earlier(self, *numbers: int) -> Earlier:
        results = [TrialResult(t, None, None, None, 1.0) for t in self.trials if t.number in numbers]
        return Earlier(finished={self.key(r.trial): r for r in results})

    def test_each_round_load_point_and_twin_has_its_own_key(self) -> None:
        keys = [self.key(t) for t in self.trials] + [self.key(replace(t, round=1)) for t in self.trials]
        assert len(set(keys)) == 12
        assert Content({"the model's files": "b"}).key(arms()[0], self.trials[0]) not in keys

    def test_names_are_no_part_of_a_key(self) -> None:
        one = Arm("arm02", "a", {}, {"name": "x", "max_batch_size": 4})
        two = Arm("arm07", "b", {}, {"name": "y", "max_batch_size": 4})
        assert self.content.key(one, self.trials[2]) == self.content.key(two, self.trials[2])

    def test_a_comparison_that_was_cut_in_two_is_measured_again(self) -> None:
        found = reusable(self.trials, self.key, self.earlier(10, 11, 12, 13), "side_by_side")
        assert set(found) == {10, 11, 12}
        assert set(reusable(self.trials, self.key, self.earlier(10, 13), "in_place")) == {10, 13}


SPACE: dict[str, Any] = {COUNT: list(range(1, 9)), DELAY: [100 * i for i in range(40)]}


class TestSearch:
    def test_auto_is_the_grid_until_it_is_too_large(self) -> None:
        assert spec().is_grid and not spec(space=SPACE).is_grid
        assert isinstance(proposer_of(spec(space=SPACE)), OptunaProposer)
        assert isinstance(proposer_of(spec(space=SPACE, search="random")), RandomProposer)

    @pytest.mark.parametrize("kind", [RandomProposer, OptunaProposer])
    def test_no_combination_is_proposed_twice_and_the_seed_repeats_them(self, kind: Any) -> None:
        axes = {"a": [1, 2, 3], "b": ["x", "y"]}

        def six() -> list[Any]:
            proposer = kind(axes, 3)
            found = []
            for _ in range(4):
                for choice in proposer.ask(2):
                    proposer.tell(choice, choice["a"])
                    found.append(tuple(choice.values()))
            return found

        assert six() == six()
        assert len(set(six())) == len(six()) == 6

    @pytest.mark.parametrize("search", ["optuna", "random"])
    def test_a_search_finds_a_good_arm_of_320_with_24_proposals(self, search: str) -> None:
        wanted = spec(space=SPACE, search=search, concurrency=[8], rounds=2)
        found, stop, per_round = raced(wanted)
        assert stop.reason.startswith("24 combinations")
        assert found >= (0.6 if search == "optuna" else 0.3)
        assert max(per_round) <= 2 + 3 + 6


def raced(wanted: SweepSpec) -> tuple[float, Stop, list[int]]:
    """(share of the best possible value that the best arm has, why it stopped, arms in each round)."""
    planner = ArmPlanner(wanted, CURRENT, {})
    race = SearchStrategy(wanted, planner, proposer_of(wanted))
    rng = np.random.default_rng(0)
    values: dict[tuple[str, int, int], float] = {}
    gone: set[str] = set()
    sizes: list[int] = []

    def truth(arm: Arm) -> float:
        count, delay = int(arm.settings.get(COUNT, 1)), int(arm.settings.get(DELAY, 0))
        return 100.0 / (1 + abs(count - 4)) / (1 + abs(delay - 1500) / 1000)

    while True:
        racing = [arm for arm in planner.arms if arm.id not in gone]
        decision = race.next(racing, values, float("inf"), 1.0)
        if isinstance(decision, Stop):
            best = max(truth(arm) for arm in racing)
            return best / 100.0, decision, sizes
        assert isinstance(decision, Round) and decision.number == len(sizes)
        gone |= decision.dropped.keys()
        sizes.append(len(decision.arms))
        for arm in decision.arms:
            values[arm.id, 8, decision.number] = truth(arm) * float(np.exp(rng.normal(0, 0.05)))


def test_a_winner_that_does_not_win_again_is_undecided() -> None:
    values = measured(BETTER, 4)
    again = {
        (arm, 32, r): v for arm, v in (("arm00", 10), ("arm01", 10.05), ("arm02", 15)) for r in (4, 5, 6)
    }
    rounds = frozenset({4, 5, 6})
    confirmed = decide(spec(), arms(), values | again, facts(BETTER), rounds)
    assert confirmed.outcome == "winner"
    assert "It won again in each of 3 rounds of confirmation." in confirmed.notes
    refuted = decide(spec(), arms(), values | again | {("arm02", 32, 6): 10.01}, facts(BETTER), rounds)
    assert refuted.outcome == "undecided"
    assert all(point.arms["arm02"].outcome != "better" for point in refuted.points), (
        "at no other load point either"
    )
    assert any("did not win again" in note for note in refuted.notes)


def test_another_arm_that_ends_a_hair_higher_takes_nothing_from_the_confirmed_winner() -> None:
    # As seen on two precisions of one model: both 2.5 times as fast, one of them measured in two rounds only.
    values = {
        (arm, 32, r): v
        for arm, rounds in {
            "arm00": (278, 298, 292, 306, 290),
            "arm01": (269, 282, 282, 288, 276),
            "arm02": (702, 758, 678, 702, 740),
            "arm03": (750, 704),
        }.items()
        for r, v in enumerate(rounds)
    }
    only_32 = spec(concurrency=(32,))
    verdict = decide(only_32, arms(), values, facts(BETTER), frozenset({2, 3, 4}))
    assert (verdict.outcome, verdict.arm_id) == ("winner", "arm02")
    here = verdict.at(32)
    assert here is not None and here.having("better") == ["arm02"]
    assert (here.best, here.like_best) == ("arm03", ("arm02",)), (
        "the two cannot be told apart, and the report says so"
    )
