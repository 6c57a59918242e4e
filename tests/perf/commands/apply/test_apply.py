"""A sweep's winner → models.yaml: what changes, what stays, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import onnx_models
from tests.conftest import Run
from tests.perf.report.test_report import run_result, summary
from tests.tiny_gguf import tiny_gguf
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.spec.spec import load_spec
from tritonsmith.perf.commands.apply.chosen import Chosen, chosen_arm, weights_from_text
from tritonsmith.perf.commands.apply.winner import Application, application, write
from tritonsmith.perf.commands.apply.yaml_edit import (
    REMOVE,
    inline,
    plain_with_value,
    with_comment_above,
    with_value,
)
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RunResult, verdict_of, write_run

NOW = datetime(2026, 11, 21, tzinfo=timezone.utc)
SPEC = """\
# Our models.
defaults: {max_batch_size: 8, instance_group: [{kind: KIND_CPU, count: 1}]}

models:
  minilm:   # text
    source: {onnx: "m.onnx"}  # as exported
    dynamic_batching:
      # found by hand
      max_queue_delay_microseconds: 500   # µs

  # The other one.
  other:
    source: { onnx: 'other.onnx' }
"""


def swept(settings: dict[str, Any], gain: float = 1.5) -> RunResult:
    """A sweep of minilm whose third arm has these settings."""
    run = run_result(gain)
    arms = (*run.arms[:2], replace(run.arms[2], settings=settings))
    return replace(run, arms=arms, verdict=verdict_of(run.spec, arms, run.trials))


def by_hand(run: RunResult, arm: Arm) -> Chosen:
    return Chosen(arm, run.verdict.ratio_of(arm.id, 8), "at concurrency 8", False)


def applied(text: str, settings: dict[str, Any], directory: Path) -> Application:
    (directory / "models.yaml").write_text(text)
    run = swept(settings)
    chosen = chosen_arm(run, None)
    assert chosen is not None
    return application(run, chosen, directory / "models.yaml", NOW)


def changed_lines(plan: Application) -> list[str]:
    """Lines of the diff that add or take away, without the comments of apply."""
    rows = [row for row in plan.diff.splitlines()[2:] if row[0] in "+-"]
    return [row for row in rows if "# tritonsmith apply:" not in row]


DELAY = "dynamic_batching.max_queue_delay_microseconds"

CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    (
        "one number changes, its comment stays",
        {DELAY: 0},
        ["-      max_queue_delay_microseconds: 500   # µs", "+      max_queue_delay_microseconds: 0   # µs"],
    ),
    (
        "a list inherited from defaults becomes the model's own, whole",
        {"instance_group.count": 2},
        ["+    instance_group: [{kind: KIND_CPU, count: 2}]"],
    ),
    (
        "a new field goes into the mapping that is there",
        {"dynamic_batching.preferred_batch_size": [4, 8]},
        ["+      preferred_batch_size: [4, 8]"],
    ),
    ("a mapping is made where there is none", {"response_cache.enable": True}, ["+    response_cache: {enable: true}"]),
    (
        "null takes the model's own key away",
        {"dynamic_batching": None},
        ["-    dynamic_batching:", "-      # found by hand", "-      max_queue_delay_microseconds: 500   # µs"],
    ),
    ("null over an inherited key is written out", {"max_batch_size": None}, ["+    max_batch_size: null"]),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "lines"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_only_the_lines_of_the_settings_change(
    settings: dict[str, Any], lines: list[str], tmp_path: Path
) -> None:
    assert changed_lines(applied(SPEC, settings, tmp_path)) == lines


def test_the_evidence_stands_above_the_setting_and_is_replaced_the_next_time(tmp_path: Path) -> None:
    plan = applied(SPEC, {DELAY: 0}, tmp_path)
    (comment,) = [line for line in plan.after.splitlines() if "tritonsmith apply" in line]
    assert comment.startswith("    # tritonsmith apply: 1.")
    for part in (
        "× throughput at concurrency",
        "95 % interval",
        "Triton 2.51.0 embedded",
        "2026-11-21",
        "evidence/minilm.json",
    ):
        assert part in comment
    again = applied(plan.after, {DELAY: 100}, tmp_path)
    assert again.after.count("tritonsmith apply") == 1
    assert applied(again.after, {DELAY: 100}, tmp_path).diff == ""


def test_evidence_lets_a_reviewer_judge(tmp_path: Path) -> None:
    evidence = applied(SPEC, {DELAY: 0}, tmp_path).evidence
    assert evidence["changed"] == {f"models.minilm.{DELAY}": 0}
    assert evidence["ratio"]["low"] < evidence["ratio"]["value"] < evidence["ratio"]["high"]
    assert len(evidence["points"]) == 6 and evidence["environment"]["cpu"] == "A CPU"


def test_writing_keeps_mode_and_line_ends_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_bytes(SPEC.replace("\n", "\r\n").encode())
    path.chmod(0o640)
    run = swept({"instance_group.count": 2})
    write(application(run, by_hand(run, run.arms[2]), path, NOW))
    data = path.read_bytes()
    assert data.count(b"\n") == data.count(b"\r\n") == SPEC.count("\n") + 2
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evidence", "models.yaml"]
    assert (
        json.loads((tmp_path / "evidence" / "minilm.json").read_text())["format"] == "tritonsmith.evidence/1"
    )


FLOW = "models: {minilm: {source: {onnx: m.onnx}}, other: {source: {onnx: o.onnx}}}\n"
BATCHED = "models:\n  minilm: {source: {onnx: m.onnx}, max_batch_size: 4, dynamic_batching: {}, parameters: {a: 1}}\n"


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        (FLOW, {"instance_group.count": 2}, {"instance_group": [{"count": 2}]}),
        (BATCHED, {DELAY: 9}, {"dynamic_batching": {"max_queue_delay_microseconds": 9}}),
        (BATCHED, {"parameters.b.string_value": "x: y"}, {"parameters": {"a": 1, "b": {"string_value": "x: y"}}}),
        ("models:\n  minilm:\n    source: {onnx: m.onnx}", {"max_batch_size": 2}, {"max_batch_size": 2}),
        (FLOW, {"dynamic_batching": None}, {"max_batch_size": 8}),
    ],
    ids=["flow style", "empty mapping", "a neighbour in shorthand", "no newline at the end", "batching chosen unasked"],
)  # fmt: skip
def test_other_spellings(
    text: str, settings: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    model = yaml.safe_load(applied(text, settings, tmp_path).after)["models"]["minilm"]
    assert {key: model[key] for key in expected} == expected


def test_an_alias_that_two_models_share_is_refused(tmp_path: Path) -> None:
    text = (
        "models:\n  other: {source: {onnx: o.onnx}, dynamic_batching: &d {max_queue_delay_microseconds: 1}}\n"
        "  minilm: {source: {onnx: m.onnx}, dynamic_batching: *d}\n"
    )
    with pytest.raises(TritonsmithError, match="mean something else") as error:
        applied(text, {DELAY: 9}, tmp_path)
    assert error.value.code == "cannot_edit"


def test_a_model_that_the_spec_does_not_have_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(TritonsmithError, match="which the spec does not have") as error:
        applied(SPEC.replace("  minilm:", "  minilm2:"), {DELAY: 9}, tmp_path)
    assert (error.value.code, error.value.exit_code) == ("unknown_model", 2)
    assert "minilm2" in str(error.value.fix)


def test_a_spec_that_moved_on_since_the_sweep_is_told(tmp_path: Path) -> None:
    run = swept({DELAY: 0})
    (tmp_path / "models.yaml").write_text(SPEC)
    baseline = tuple(
        replace(a, config={"dynamic_batching": {"max_queue_delay_microseconds": 77}}) for a in run.arms[:2]
    )
    run = replace(run, arms=(*baseline, run.arms[2]))
    (note,) = application(run, by_hand(run, run.arms[2]), tmp_path / "models.yaml", NOW).notes
    out = replace(run, arm_errors={"arm02": "the build refused it: token agreement 0.3 < 0.9"})
    *_, told = application(out, by_hand(out, out.arms[2]), tmp_path / "models.yaml", NOW).notes
    assert told.endswith("out: the build refused it: token agreement 0.3 < 0.9")
    assert "is 500 in the spec" in note and "had 77" in note


def test_without_a_winner_nothing_is_applied_unless_an_arm_is_named() -> None:
    alike = swept({DELAY: 0}, gain=1.0)
    assert alike.verdict.outcome == "equivalent" and chosen_arm(alike, None) is None
    for name in ("arm02", "count 2"):
        chosen = chosen_arm(alike, name)
        assert chosen is not None and chosen.arm.id == "arm02" and not chosen.is_better
    for wrong in ("arm00", "arm2"):
        with pytest.raises(TritonsmithError) as error:
            chosen_arm(alike, wrong)
        assert error.value.code == "no_arm"


def test_what_is_applied_depends_on_the_load_where_an_arm_is_better_at_one_and_worse_at_another() -> None:
    run = run_result(gain=1.5)
    trials = [
        replace(t, summary=summary(300 * (1 + t.trial.round / 10), t.trial.number, 0))
        if t.trial.arm_id == "arm02" and t.trial.concurrency == 8
        else t
        for t in run.trials
    ]
    run = replace(run, trials=tuple(trials), verdict=verdict_of(run.spec, run.arms, trials))
    assert run.verdict.outcome == "depends" and "; 0.33× at 8." in run.verdict.sentence
    chosen = {
        text: chosen_arm(run, None, weights_from_text(text))
        for text in ("1:1", "8:1", "1:0.9,8:0.1", "1:1,8:1")
    }
    assert chosen_arm(run, None) is None and chosen["8:1"] is None and chosen["1:1,8:1"] is None
    alone, mostly = chosen["1:1"], chosen["1:0.9,8:0.1"]
    assert alone is not None and alone.where == "at concurrency 1"
    assert mostly is not None and mostly.where == "over concurrency 1 (90%) and 8 (10%)"
    assert mostly.ratio is not None and mostly.ratio.value == pytest.approx(
        1.5**0.9 * (1 / 3) ** 0.1, rel=0.02
    )
    with pytest.raises(TritonsmithError, match="not compared at that load"):
        chosen_arm(run, None, {16: 1.0})


@pytest.mark.parametrize("text", ["", "1", "1:", "1:0", "1:-1", "a:1", "1:1,1:2", "0:1", "1:nan", "1:inf"])
def test_a_mix_of_loads_that_is_none_is_one_error(text: str) -> None:
    with pytest.raises(TritonsmithError) as error:
        weights_from_text(text)
    assert (error.value.code, error.value.exit_code) == ("bad_weights", 2)


def test_after_apply_the_plan_lays_out_that_model_alone(tmp_path: Path, tritonsmith: Run) -> None:
    for name in ("m", "other"):
        onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / f"{name}.onnx")
    (tmp_path / "models.yaml").write_text(SPEC)
    assert tritonsmith("build").returncode == 0
    (tmp_path / "run").mkdir()
    write_run(swept({"instance_group.count": 2}), tmp_path / "run")
    dry = tritonsmith("apply", "run", "--dry-run")
    assert "+    instance_group: [{kind: KIND_CPU, count: 2}]" in dry.stdout
    assert (tmp_path / "models.yaml").read_text() == SPEC and not (tmp_path / "evidence").exists()
    done = tritonsmith("apply", "run", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["applied"] is True
    stale = [
        (a["model"], a["action"], a["reason"])
        for a in json.loads(tritonsmith("plan", "--format", "json").stdout)["actions"]
        if a["state"] != "up-to-date"
    ]
    assert {model for model, _, _ in stale} == {"minilm"}
    assert ("minilm", "lay_out", "spec_changed") in stale
    assert "already" in tritonsmith("apply", "run").stdout


# The editor alone: any place in any document.

KEYS = st.sampled_from(["a", "b", "c d", "x"])
SCALARS = st.one_of(
    st.integers(-9, 9), st.booleans(), st.none(), st.sampled_from(["", "x", "a: b", "#", "[", "ü", "1"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=3)


@settings(deadline=None)
@example({"a": {"b": "long " * 20}, "c d": {"x": 1}}, "c d", "x", 2, True)
@given(DOCUMENTS, KEYS, KEYS, st.one_of(VALUES, st.just(REMOVE)), st.sampled_from([None, True, False]))
def test_an_edit_changes_the_parsed_document_in_that_place_only(
    document: dict[str, Any], first: str, second: str, value: Any, flow: bool | None
) -> None:
    text = yaml.safe_dump(document, default_flow_style=flow, allow_unicode=True)
    edited = with_value(text, (first, second), value)
    expected = yaml.safe_load(text)
    if value is not REMOVE or second in expected.get(first, {}):
        plain_with_value(expected, (first, second), value)
    assert yaml.safe_load(edited) == expected
    if value is not REMOVE:
        assert yaml.safe_load(with_comment_above(edited, (first, second), "mark: x", "mark:")) == expected


def test_a_value_on_one_line_may_stand_in_a_flow_collection() -> None:
    assert [inline(v) for v in (1, "a, b", None, [1, {"k": "v"}])] == ["1", "'a, b'", "null", "[1, {k: v}]"]


def test_load_spec_takes_what_the_table_wrote(tmp_path: Path) -> None:
    plan = applied(SPEC, {"instance_group.count": 2, DELAY: 0}, tmp_path)
    write(plan)
    model = load_spec(tmp_path / "models.yaml").models[0]
    assert model.config.as_proto_json()["instance_group"] == [{"kind": "KIND_CPU", "count": 2}]


VARIANTS = """\
models:
  minilm:
    source: {onnx: m.onnx}
    variants:          # all are built
      fp32: {}
      fp16: {precision: fp16}
      int8: {precision: int8}
    SERVE
    max_batch_size: 8
"""


def swept_variant(variant: str, settings: dict[str, Any]) -> RunResult:
    run = swept(settings)
    arms = (*run.arms[:2], replace(run.arms[2], variant=variant, label=variant))
    return replace(run, arms=arms)


@pytest.mark.parametrize(
    ("serve", "variant", "lines"),
    [
        ("serve: fp32  # for now", "fp16", ["-    serve: fp32  # for now", "+    serve: fp16  # for now"]),
        ("serve: [int8, fp32]", "fp16", ["-    serve: [int8, fp32]", "+    serve: [fp16, int8, fp32]"]),
        ("serve: [int8, fp16]", "fp16", ["-    serve: [int8, fp16]", "+    serve: [fp16, int8]"]),
        ("# none", "minilm__int8", ["+    serve: int8"]),
        ("# none", "fp32", []),
    ],
    ids=["a name", "a list", "a list that has it", "not stated", "served already"],
)
def test_a_variant_that_wins_is_served_and_what_else_was_liked_stays_behind_it(
    serve: str, variant: str, lines: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(VARIANTS.replace("SERVE", serve))
    run = swept_variant(variant, {})
    plan = application(run, by_hand(run, run.arms[2]), path, NOW)
    assert changed_lines(plan) == lines
    assert plan.evidence["arm"]["variant"] == variant
    if lines:
        above = plan.after.splitlines()
        at = next(i for i, line in enumerate(above) if line.strip().startswith("serve:"))
        assert above[at - 1].strip().startswith("# tritonsmith apply: 1.")
        write(plan)
        assert load_spec(path).models[0].preference[0] == variant.removeprefix("minilm__")


def test_a_variant_and_its_settings_are_written_together(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(VARIANTS.replace("SERVE", "serve: fp32"))
    run = swept_variant("fp16", {"max_batch_size": 32})
    plan = application(run, by_hand(run, run.arms[2]), path, NOW)
    assert set(plan.edits) == {("models", "minilm", "serve"), ("models", "minilm", "max_batch_size")}
    assert plan.after.count("# tritonsmith apply:") == 2


def test_a_variant_that_the_spec_does_not_state_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(VARIANTS.replace("SERVE", "serve: fp32"))
    run = swept_variant("fp61", {})
    with pytest.raises(TritonsmithError) as error:
        application(run, by_hand(run, run.arms[2]), path, NOW)
    assert error.value.code == "unknown_variant" and "fp16" in str(error.value.fix)


def test_settings_of_another_composing_model_are_written_into_that_model(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(SPEC)
    run = swept({DELAY: 0})
    arm = replace(
        run.arms[2],
        others={"other": {"max_batch_size": 8}},
        other_settings={"other": {"instance_group.count": 2}},
    )
    run = replace(run, arms=(*run.arms[:2], arm))
    plan = application(run, by_hand(run, arm), tmp_path / "models.yaml", NOW)
    assert plan.edits == {
        ("models", "minilm", "dynamic_batching", "max_queue_delay_microseconds"): 0,
        ("models", "other", "instance_group"): [{"kind": "KIND_CPU", "count": 2}],
    }
    assert plan.after.count("# tritonsmith apply:") == 2
    assert plan.evidence["arm"]["settings"] == {DELAY: 0, "other:instance_group.count": 2}


def test_an_engines_argument_is_written_beside_the_others(tmp_path: Path) -> None:
    text = """\
models:
  minilm:
    source: {llm: tiny.gguf}
    engine: {max_model_len: 2048, max_num_seqs: 32}  # as measured in May
"""
    tiny_gguf(tmp_path / "tiny.gguf")
    plan = applied(text, {"engine.max_num_seqs": 8, "engine.enable_prefix_caching": True}, tmp_path)
    assert yaml.safe_load(plan.after)["models"]["minilm"]["engine"] == {
        "max_model_len": 2048,
        "max_num_seqs": 8,
        "enable_prefix_caching": True,
    }
    assert "# as measured in May" in plan.after
