"""From a space to arms and rounds, and from rounds to a verdict: nothing here touches a server."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.sweep.judge.search import Round, Stop, next_round
from tritonsmith.perf.sweep.judge.verdict import CellFacts, Verdict, decide
from tritonsmith.perf.sweep.plan import (
    Arm,
    SweepSpec,
    check_budget,
    config_path,
    fitted_to_budget,
    plan_arms,
    round_cost_s,
    setting_from_text,
    spec_from_mapping,
    spec_from_yaml,
    trials_of_round,
)

# As Triton 2.51 reports a loaded model, shortened.
CURRENT: dict[str, Any] = {
    "name": "m",
    "backend": "onnxruntime",
    "max_batch_size": 8,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["4"], "is_shape_tensor": False}],
    "instance_group": [{"name": "m_0", "kind": "KIND_CPU", "count": 1, "gpus": [], "passive": False}],
    "dynamic_batching": {"preferred_batch_size": [8], "max_queue_delay_microseconds": 0},
    "optimization": {"input_pinned_memory": {"enable": True}},
}
COUNT, DELAY = "instance_group.count", "dynamic_batching.max_queue_delay_microseconds"


def spec(**changes: Any) -> SweepSpec:
    return SweepSpec.model_validate({"model": "m", "space": {COUNT: [1, 2]}, **changes})


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "value", "where", "what"),
        [
            (COUNT, 3, ["instance_group", 0, "count"], "a path through a repeated message sets each element"),
            ("instance_group[0].count", 3, ["instance_group", 0, "count"], "or the one that is named"),
            (DELAY, 500, ["dynamic_batching", "max_queue_delay_microseconds"], "a nested field"),
            ("max_batch_size", 4, ["max_batch_size"], "a field at the top"),
            (
                "parameters.threads.string_value",
                "2",
                ["parameters", "threads", "string_value"],
                "a map's entry",
            ),
            ("response_cache.enable", True, ["response_cache", "enable"], "a message that was not there"),
            (
                "dynamic_batching.preferred_batch_size",
                [2, 4],
                ["dynamic_batching", "preferred_batch_size"],
                "a list",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) and " " in value else "",
    )
    def test_a_value_is_set_where_the_path_says(
        self, path: str, value: Any, where: list[Any], what: str
    ) -> None:
        changed: Any = config_path.with_values(CURRENT, {path: value})
        for step in where:
            changed = changed[step]
        assert changed == value, what

    def test_the_config_it_starts_from_stays_as_it_is(self) -> None:
        before = repr(CURRENT)
        config_path.with_values(CURRENT, {COUNT: 9, DELAY: None})
        assert repr(CURRENT) == before

    def test_null_takes_a_field_away(self) -> None:
        assert "dynamic_batching" not in config_path.with_values(CURRENT, {"dynamic_batching": None})

    def test_configs_that_mean_the_same_are_one_whatever_the_spelling_and_the_name(self) -> None:
        respelled = config_path.with_values(CURRENT, {COUNT: 1, DELAY: "0"}) | {"name": "other"}
        respelled["instance_group"][0]["name"] = "other_0"
        assert config_path.identity(respelled) == config_path.identity(CURRENT)
        other = config_path.with_values(CURRENT, {COUNT: 2})
        assert config_path.identity(other) != config_path.identity(CURRENT)

    def test_a_config_that_was_not_applied_is_seen(self) -> None:
        meant = config_path.with_values(CURRENT, {COUNT: 2})
        assert config_path.differences(meant, CURRENT, {COUNT: 2}) == [f"{COUNT} is 1, not 2"]
        assert config_path.differences(meant, meant, {COUNT: 2}) == []

    def test_what_a_message_leaves_out_triton_writes_out(self) -> None:
        on: dict[str, Any] = {"dynamic_batching": {}}
        meant = config_path.with_values(CURRENT, {"max_batch_size": 16, **on})
        served = meant | {"dynamic_batching": {"preferred_batch_size": [16]}}
        assert config_path.differences(meant, served, on) == []
        for other in (
            {"preferred_batch_size": [8]},
            {"preferred_batch_size": [16], "max_queue_delay_microseconds": 5},
        ):
            assert config_path.differences(meant, meant | {"dynamic_batching": other}, on) != []
        assert (
            config_path.differences(meant | {"dynamic_batching": {"preferred_batch_size": [8]}}, served, on)
            != []
        )

    def test_kind_auto_may_become_what_triton_chose(self) -> None:
        meant = config_path.with_values(CURRENT, {"instance_group.kind": "KIND_AUTO"})
        assert config_path.differences(meant, CURRENT, {"instance_group.kind": "KIND_AUTO"}) == []


class TestSpec:
    @pytest.mark.parametrize(
        ("data", "code", "text"),
        [
            ({"model": "m", "concurency": [1]}, "unknown_key", "fix:   concurrency"),
            ({"space": {}}, "missing_key", "'model' is missing"),
            ({"model": "m", "space": {COUNT: []}}, "bad_value", "has no values"),
            ({"model": "m", "space": {"instance_group.cuont": [1]}}, "unknown_field", "instance_group.count"),
            ({"model": "m", "space": {COUNT: ["one"]}}, "bad_value", "takes a whole number"),
            ({"model": "m", "concurrency": [0]}, "bad_value", "1 or more"),
            ({"model": "m", "concurrency": []}, "bad_value", "1 or more"),
            ({"model": "m", "rounds": 0}, "bad_value", "rounds"),
            ({"model": "m", "duration_s": -1}, "bad_value", "duration_s"),
            ({"model": "m", "objective": "speed"}, "bad_value", "objective"),
            ({"model": "m", "objective": "p99", "at": 5}, "bad_value", "valid: 1, 8, 32"),
            ({"model": "m", "max_p99_ms": 0}, "bad_value", "max_p99_ms"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_wrong_spec_is_one_clear_error(self, data: dict[str, Any], code: str, text: str) -> None:
        with pytest.raises(TritonsmithError) as error:
            spec_from_mapping(data)
        assert error.value.code == code
        assert text in str(error.value)
        assert error.value.exit_code == 2

    def test_a_yaml_that_is_none_names_file_and_line(self, tmp_path: Path) -> None:
        file = tmp_path / "sweep.yaml"
        file.write_text("model: m\nspace: [\n")
        with pytest.raises(TritonsmithError) as error:
            spec_from_yaml(file)
        assert str(error.value.where).startswith(f"{file}:")
        file.write_text("model: m\nspace: {instance_group.count: [1, 2]}\nconcurrency: [4, 1, 4]\n")
        assert spec_from_yaml(file).concurrency == (1, 4)
        with pytest.raises(TritonsmithError, match="cannot read"):
            spec_from_yaml(tmp_path / "none.yaml")

    def test_deep_values_are_an_error_in_a_file_and_on_the_command_line(self, tmp_path: Path) -> None:
        file = tmp_path / "sweep.yaml"
        file.write_text("model: m\nspace:\n  " + "[" * 100_000)
        with pytest.raises(TritonsmithError, match=r"deeper|nesting depth") as error:
            spec_from_yaml(file)
        assert str(error.value.where) == f"{file}:3"
        with pytest.raises(TritonsmithError, match=r"deeper|nesting depth"):
            setting_from_text(f"dynamic_batching.preferred_batch_size={'[' * 10_000}{']' * 10_000}")


class TestArms:
    def test_the_current_config_is_two_arms_and_the_grid_follows(self) -> None:
        plan = plan_arms(spec(space={COUNT: [1, 2], DELAY: [0, 500]}), CURRENT)
        assert [arm.label for arm in plan.arms] == [
            "current config",
            "current config, again",
            "count 1, max_queue_delay 500 µs",
            "count 2, max_queue_delay 0 µs",
            "count 2, max_queue_delay 500 µs",
        ]
        assert [arm.baseline for arm in plan.arms] == [True, True, False, False, False]
        assert plan.notes == (
            "count 1, max_queue_delay 0 µs: the same as the current config, not measured twice",
        )

    def test_values_that_mean_the_same_are_one_arm_and_it_is_said(self) -> None:
        plan = plan_arms(spec(space={COUNT: [2, "2", 2.0]}), CURRENT)
        assert len(plan.arms) == 3
        assert sum("the same as count 2" in note for note in plan.notes) == 2

    def test_no_arm_carries_the_models_name(self) -> None:
        assert all("name" not in arm.config for arm in plan_arms(spec(), CURRENT).arms)

    @pytest.mark.parametrize(
        ("space", "code"),
        [
            ({}, "empty_space"),
            ({COUNT: [1]}, "empty_space"),
            ({COUNT: list(range(1, 300))}, "space_too_large"),
            ({"instance_group[3].count": [1]}, "bad_path"),
            ({"sequence_batching.max_sequence_idle_microseconds": [1]}, "bad_value"),
        ],
    )
    def test_a_space_that_cannot_be_swept_is_an_error(self, space: dict[str, Any], code: str) -> None:
        with pytest.raises(TritonsmithError) as error:
            plan_arms(spec(space=space, search="grid"), CURRENT)
        assert error.value.code == code


def arms(count: int = 4) -> tuple[Arm, ...]:
    first = (
        Arm("arm00", "current config", {}, {}, True),
        Arm("arm01", "current config, again", {}, {}, True),
    )
    rest = tuple(Arm(f"arm{i:02d}", f"count {i}", {COUNT: i}, {}) for i in range(2, count))
    return (*first, *rest)


class TestRounds:
    @settings(max_examples=50)
    @given(
        st.integers(3, 12), st.lists(st.integers(1, 64), min_size=1, max_size=5, unique=True), st.integers(0, 9),
        st.integers(0, 5), st.sampled_from(["side_by_side", "in_place"]),
    )  # fmt: skip
    def test_a_round_measures_every_arm_once_at_every_load_point(
        self, count: int, points: list[int], seed: int, round_: int, placement: Any
    ) -> None:
        trials = trials_of_round(spec(concurrency=points, seed=seed), arms(count), round_, 7, placement)
        assert Counter((t.arm_id, t.concurrency) for t in trials) == Counter(
            (arm.id, point) for arm in arms(count) for point in points
        )
        assert [t.number for t in trials] == list(range(7, 7 + count * len(points)))

    def test_a_pair_of_rounds_is_an_order_and_its_reverse(self) -> None:
        forth = trials_of_round(spec(), arms(), 2, 0, "side_by_side")
        back = trials_of_round(spec(), arms(), 3, 0, "side_by_side")
        assert [(t.arm_id, t.concurrency) for t in back] == [
            (t.arm_id, t.concurrency) for t in reversed(forth)
        ]

    def test_side_by_side_all_arms_share_a_load_point_and_in_place_an_arm_stays_loaded(self) -> None:
        beside = trials_of_round(spec(), arms(), 0, 0, "side_by_side")
        placed = trials_of_round(spec(), arms(), 0, 0, "in_place")
        assert _changes([t.concurrency for t in beside]) == 2
        assert _changes([t.arm_id for t in placed]) == 3

    def test_the_seed_sets_the_order(self) -> None:
        orders = {
            tuple(t.arm_id for t in trials_of_round(spec(seed=s), arms(8), 0, 0, "side_by_side"))
            for s in range(8)
        }
        assert len(orders) == 8


def _changes(values: Sequence[object]) -> int:
    return sum(a != b for a, b in itertools.pairwise(values))


class TestBudget:
    def test_a_budget_for_one_round_is_enough(self) -> None:
        check_budget(spec(budget_s=60), 5, "side_by_side")
        check_budget(spec(), 100, "in_place")

    def test_a_budget_below_one_round_says_what_fits(self) -> None:
        with pytest.raises(TritonsmithError) as error:
            check_budget(spec(budget_s=20), 5, "side_by_side")
        assert error.value.code == "budget_too_small"
        assert error.value.valid and "--duration" in str(error.value.valid[0])
        assert error.value.fix is not None
        fitting = float(error.value.fix.removeprefix("--budget ").removesuffix("s"))
        check_budget(spec(budget_s=fitting), 5, "side_by_side")

    def test_the_shorter_duration_that_it_names_does_fit(self) -> None:
        with pytest.raises(TritonsmithError) as error:
            check_budget(spec(budget_s=20), 5, "side_by_side")
        duration = float(str(error.value.valid[0]).removeprefix("--duration ").removesuffix("s"))
        check_budget(spec(budget_s=20, duration_s=duration), 5, "side_by_side")


def measured(
    truth: dict[str, dict[int, float]], rounds: int, noise: float = 0.02, seed: int = 1
) -> dict[tuple[str, int, int], float]:
    rng = np.random.default_rng(seed)
    drift = {(point, r): rng.normal(0, 0.2) for point in (1, 8, 32) for r in range(rounds)}
    return {
        (arm, point, r): value * float(np.exp(rng.normal(0, noise) + drift[point, r]))
        for arm, points in truth.items()
        for point, value in points.items()
        for r in range(rounds)
    }


def facts(truth: dict[str, dict[int, float]], p99_ms: float = 5.0) -> dict[tuple[str, int], CellFacts]:
    return {(arm, point): CellFacts(p99_ms, 0.0) for arm, points in truth.items() for point in points}


FLAT = {1: 100.0, 8: 800.0, 32: 1000.0}
ALIKE = {"arm00": FLAT, "arm01": FLAT, "arm02": FLAT, "arm03": FLAT}
BETTER = ALIKE | {"arm02": {1: 100.0, 8: 900.0, 32: 1500.0}}
WORSE = ALIKE | {"arm02": {1: 50.0, 8: 300.0, 32: 500.0}, "arm03": {1: 50.0, 8: 300.0, 32: 400.0}}


class TestVerdict:
    def test_an_arm_that_is_better_wins_with_ratio_and_interval_at_one_load_point(self) -> None:
        verdict = decide(spec(), arms(), measured(BETTER, 4), facts(BETTER))
        assert (verdict.outcome, verdict.arm_id, verdict.concurrency) == ("winner", "arm02", 32)
        assert verdict.ratio is not None and verdict.ratio.interval is not None
        assert verdict.ratio.interval.contains(1.5)
        assert verdict.sentence.startswith("Winner: count 2 gives 1.")
        assert "at concurrency 32 (95 % interval" in verdict.sentence

    def test_arms_that_are_alike_are_equivalent_on_a_calm_machine_and_undecided_on_a_noisy_one(self) -> None:
        verdict = decide(spec(), arms(), measured(ALIKE, 6, 0.005), facts(ALIKE))
        assert verdict.outcome == "equivalent"
        assert verdict.sentence.startswith(
            "Equivalent: no config is better than the current one by 5% or more"
        )
        noisy = decide(spec(), arms(), measured(ALIKE, 4, 0.1), facts(ALIKE))
        assert noisy.outcome == "undecided" and noisy.resolution is not None
        assert noisy.sentence.startswith("Undecided: count ") and "would decide." in noisy.sentence

    def test_arms_that_are_worse_keep_the_current_config(self) -> None:
        verdict = decide(spec(), arms(), measured(WORSE, 4), facts(WORSE))
        assert verdict.outcome == "keep"
        assert verdict.sentence.startswith("Keep the current config: no other config is better at any load; ")

    def test_what_is_worse_at_one_load_and_not_ahead_where_it_is_undecided_is_no_reason_to_change(
        self,
    ) -> None:
        worse = {"arm02": {1: 97.0, 8: 300.0, 32: 200.0}, "arm03": {1: 97.0, 8: 300.0, 32: 200.0}}
        verdict = decide(spec(), arms(), measured(ALIKE | worse, 4, 0.05), facts(ALIKE))
        assert "undecided" in {one.outcome for one in verdict.points[0].arms.values()}
        assert verdict.outcome == "keep", verdict.sentence
        assert verdict.sentence.startswith(
            "Keep the current config: no other config is shown to be better at any load; the closest, count "
        )
        assert "; 0." in verdict.sentence, "where it is worse is told"
        ahead = {"arm02": {1: 112.0, 8: 300.0, 32: 200.0}, "arm03": {1: 50.0, 8: 300.0, 32: 200.0}}
        verdict = decide(spec(), arms(), measured(ALIKE | ahead, 4, 0.08), facts(ALIKE))
        assert verdict.outcome == "undecided", "it may be better at one load"

    def test_identical_arms_name_a_winner_in_at_most_five_of_a_hundred_sweeps(self) -> None:
        named = sum(
            decide(
                spec(), arms(6), measured({a.id: FLAT for a in arms(6)}, 3, 0.1, seed), facts(ALIKE)
            ).outcome
            == "winner"
            for seed in range(200)
        )
        assert named <= 10

    def test_a_planted_truth_is_found_in_ninety_five_of_a_hundred_sweeps(self) -> None:
        found = sum(
            decide(spec(), arms(), measured(BETTER, 4, 0.05, seed), facts(BETTER)).arm_id == "arm02"
            for seed in range(60)
        )
        assert found >= 57

    def test_an_a_a_pair_that_differs_widens_the_band_of_what_is_undecided(self) -> None:
        truth = ALIKE | {"arm01": {1: 100.0, 8: 800.0, 32: 2000.0}, "arm02": {1: 100.0, 8: 800.0, 32: 1500.0}}
        verdict = decide(spec(), arms(), measured(truth, 8), facts(truth))
        assert verdict.concurrency == 32
        assert verdict.resolution == pytest.approx(1.0, rel=0.1)
        assert verdict.outcome != "winner"
        assert any("too noisy" in note for note in verdict.notes)

    def test_one_round_leaves_it_undecided_and_says_what_is_missing(self) -> None:
        verdict = decide(spec(), arms(), measured(BETTER, 1), facts(BETTER))
        assert verdict.outcome == "undecided"
        assert "an interval needs two rounds" in verdict.sentence

    def test_an_arm_that_misses_the_constraint_does_not_win(self) -> None:
        limits = facts(BETTER) | {("arm02", 32): CellFacts(90.0, 0.0)}
        verdict = decide(spec(max_p99_ms=20), arms(), measured(BETTER, 4), limits)
        assert not (verdict.arm_id == "arm02" and verdict.concurrency == 32)
        if verdict.concurrency == 32:
            assert any("Outside the constraints" in note for note in verdict.notes)

    def test_an_arm_whose_requests_fail_does_not_win(self) -> None:
        limits = facts(BETTER) | {("arm02", 32): CellFacts(5.0, 0.2)}
        assert decide(spec(), arms(), measured(BETTER, 4), limits).arm_id != "arm02"

    def test_when_nothing_meets_the_constraint_the_nearest_miss_is_named(self) -> None:
        limits = facts(BETTER, 30.0) | {("arm03", 1): CellFacts(22.0, 0.0)}
        verdict = decide(spec(max_p99_ms=20), arms(), measured(BETTER, 4), limits)
        assert verdict.outcome == "nothing_fits"
        assert verdict.sentence == (
            "Nothing meets p99 ≤ 20 ms: the nearest is count 3 at concurrency 1 with 22.0 ms, 10% above."
        )

    def test_the_objective_p99_is_compared_at_its_own_load_point(self) -> None:
        verdict = decide(spec(objective="p99", at=8), arms(), measured(BETTER, 6, 0.01), facts(BETTER))
        assert (verdict.outcome, verdict.concurrency, verdict.arm_id) == ("winner", 8, "arm02")
        assert "speed at p99" in verdict.sentence

    def test_nothing_measured_is_undecided(self) -> None:
        assert decide(spec(), arms(), {}, {}).outcome == "undecided"

    def test_json_gives_the_same_verdict_back(self) -> None:
        verdict = decide(spec(), arms(), measured(BETTER, 4), facts(BETTER))
        assert typed(Verdict, json_of(verdict)) == verdict


class TestSearch:
    def test_rounds_end_when_all_were_measured(self) -> None:
        decision = next_round(spec(rounds=2), arms(), measured(ALIKE, 2), 2, float("inf"), 1.0)
        assert decision == Stop("all 2 rounds were measured")

    def test_rounds_end_when_the_budget_has_no_room_for_a_useful_part_of_one(self) -> None:
        decision = next_round(spec(budget_s=60), arms(), measured(ALIKE, 3), 3, 1.0, 20.0)
        assert decision == Stop("the budget of 60 s is used")

    def test_a_clear_loser_is_dropped_early_and_the_yardstick_never(self) -> None:
        decision = next_round(spec(rounds=9), arms(), measured(WORSE | {"arm03": FLAT}, 4), 4, 99.0, 1.0)
        assert isinstance(decision, Round)
        assert [arm.id for arm in decision.arms] == ["arm00", "arm01", "arm03"]
        assert decision.dropped["arm02"].startswith("at most 0.")

    def test_an_arm_that_is_good_at_one_load_point_stays(self) -> None:
        truth = ALIKE | {"arm02": {1: 150.0, 8: 300.0, 32: 500.0}}
        decision = next_round(spec(rounds=9), arms(), measured(truth, 4), 4, 99.0, 1.0)
        assert isinstance(decision, Round)
        assert "arm02" in [arm.id for arm in decision.arms]

    def test_nobody_is_dropped_before_two_rounds(self) -> None:
        decision = next_round(spec(), arms(), measured(WORSE, 1), 1, 99.0, 1.0)
        assert isinstance(decision, Round)
        assert not decision.dropped


class TestFitting:
    def test_a_budget_that_two_rounds_would_fill_gets_shorter_measurements_instead(self) -> None:
        fitted = fitted_to_budget(spec(budget_s=40), 5, "side_by_side")
        assert fitted.duration_s == pytest.approx(0.3, abs=0.2)
        assert 4 * round_cost_s(fitted, 5, "side_by_side") < 40

    @pytest.mark.parametrize("changes", [{}, {"budget_s": 4000}, {"budget_s": 40, "duration_s": 1.0}])
    def test_without_need_or_against_a_stated_duration_nothing_changes(self, changes: dict[str, Any]) -> None:
        assert fitted_to_budget(spec(**changes), 5, "side_by_side").duration_s == 1.0

    def test_an_open_loop_fills_any_batch_so_each_max_batch_size_is_an_arm(self) -> None:
        space = {"max_batch_size": [64, 128]}
        closed = plan_arms(spec(space=space, concurrency=[1, 8]), CURRENT)
        opened = plan_arms(spec(space=space, concurrency=[1], objective="rate", slo_p99_ms=20), CURRENT)
        assert [len(plan.arms) for plan in (closed, opened)] == [3, 4]
        assert any("the same as" in note for note in closed.notes)


class TestComposing:
    SPACE: ClassVar[dict[str, Any]] = {COUNT: [1, 2], f"tokenizer:{COUNT}": [1, 2]}

    def test_settings_of_two_composing_models_are_one_grid(self) -> None:
        wanted = spec_from_mapping({"model": "m", "space": self.SPACE, "load_model": "pipe"})
        assert wanted.composing == ("tokenizer",)
        plan = plan_arms(wanted, CURRENT, composing={"tokenizer": CURRENT})
        assert [arm.label for arm in plan.arms[2:]] == [
            "count 1, tokenizer count 2",
            "count 2, tokenizer count 1",
            "count 2, tokenizer count 2",
        ]
        counts = [
            (arm.config["instance_group"][0]["count"], arm.others["tokenizer"]["instance_group"][0]["count"])
            for arm in plan.arms
        ]
        assert counts == [(1, 1), (1, 1), (1, 2), (2, 1), (2, 2)]
        assert plan.notes == (
            "count 1, tokenizer count 1: the same as the current config, not measured twice",
        )

    def test_without_an_ensemble_another_models_settings_are_refused(self) -> None:
        with pytest.raises(TritonsmithError, match="another model") as error:
            spec_from_mapping({"model": "m", "space": self.SPACE})
        assert error.value.fix == "--load-model ENSEMBLE"

    def test_an_unknown_field_of_another_model_is_refused_as_of_its_own(self) -> None:
        with pytest.raises(TritonsmithError) as error:
            spec_from_mapping({"model": "m", "space": {"t:instance_group.cuont": [1]}, "load_model": "pipe"})
        assert error.value.code == "unknown_field"
