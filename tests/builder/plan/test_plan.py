"""What is stale and why: one row a story, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tritonsmith.builder.actions.convert.action import conversion_identity
from tritonsmith.builder.actions.export.action import source_identity
from tritonsmith.builder.base.machine.toolchain import VERSION_PACKAGES, Toolchain
from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.builder.plan.observation import Observation
from tritonsmith.builder.plan.plan import StaleReason, State, make_plan
from tritonsmith.builder.repository.lock import Lock, LockedModel
from tritonsmith.builder.spec.spec import load_spec

LOCKED = LockedModel(
    parameters={"opset": 20},
    tools={"torch": "2.13.0"},
    dependencies={"m.py": "a" * 64},
    key="k",
    config={"spec": "s", "template": "t", "accuracy": "b"},
    files={"1/model.onnx": "f" * 64, "config.pbtxt": "c" * 64},
    accuracy={},
)
SAME = Observation(
    parameters=LOCKED.parameters,
    tools=LOCKED.tools,
    dependencies=LOCKED.dependencies,
    cached_key="k",
    config=LOCKED.config,
    files=LOCKED.files,
)


def test_nothing_changed_is_nothing_to_do() -> None:
    assert make_plan({"m": SAME}, Lock({"m": LOCKED})).stale == ()


# a sentence, what differs, the export's reason (None: up to date), the laying out's reason, a word of the detail
STORIES = [
    ("another opset in the spec", {"parameters": {"opset": 18}}, "spec_changed", "export_changed", "opset: 20 → 18"),
    ("a newer torch", {"tools": {"torch": "2.14.0"}}, "tool_changed", "export_changed", "2.13.0 → 2.14.0"),
    ("an edited source", {"dependencies": {"m.py": "b" * 64}}, "source_changed", "export_changed", "m.py"),
    ("a source that is gone", {"dependencies": {"m.py": None}}, "source_changed", "export_changed", "→ none"),
    ("a deleted model file", {"files": {"config.pbtxt": "c" * 64}}, "missing_artifact", "export_changed", "model.onnx"),
    ("a damaged model file", {"files": {**LOCKED.files, "1/model.onnx": "0"}}, "corrupt_artifact", "export_changed", "1/"),
    ("another queue delay", {"config": {**LOCKED.config, "spec": "S"}}, None, "spec_changed", "spec"),
    ("an edited template", {"config": {**LOCKED.config, "template": "T"}}, None, "template_changed", "template"),
    ("another bound", {"config": {**LOCKED.config, "accuracy": "B"}}, None, "accuracy_bound_changed", "b → B"),
    ("a config.pbtxt edited by hand", {"files": {**LOCKED.files, "config.pbtxt": "0"}}, None, "corrupt_artifact", "config"),
    ("a deleted config.pbtxt", {"files": {"1/model.onnx": "f" * 64}}, None, "missing_artifact", "config"),
    ("a stray file in the model's directory", {"files": {**LOCKED.files, "x": "0"}}, None, "corrupt_artifact", "x"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "export", "lay_out", "word"), [s[1:] for s in STORIES], ids=[s[0] for s in STORIES]
)
def test_each_change_has_its_reason(
    change: dict[str, object], export: str | None, lay_out: str, word: str
) -> None:
    plan = make_plan({"m": replace(SAME, **change), "other": SAME}, Lock({"m": LOCKED, "other": LOCKED}))  # type: ignore[arg-type]
    exported, laid_out = plan.of("m", "export"), plan.of("m", "lay_out")
    assert (exported.reason.value if exported.reason else None) == export
    assert laid_out.reason is StaleReason(lay_out)
    assert word in exported.detail + laid_out.detail
    assert {a.model for a in plan.stale} == {"m"}


def test_a_new_model_runs_or_comes_from_the_cache() -> None:
    plan = make_plan({"a": replace(SAME, cached_key=None), "b": SAME}, Lock())
    assert (plan.of("a", "export").state, plan.of("a", "export").reason) == (State.TO_RUN, StaleReason.NEW)
    assert plan.of("b", "export").state is State.CACHED


def test_what_the_cache_has_lost_is_run_again_only_where_its_model_is_laid_out_anew() -> None:
    """A build does what the plan says: it fetches what has a key and runs the rest, so that the plan has to say it."""
    lost, lock = replace(SAME, cached_key=None), Lock({"m": LOCKED})
    assert make_plan({"m": lost}, lock).stale == ()
    other = {**LOCKED.config, "spec": "S"}
    export = make_plan({"m": replace(lost, config=other)}, lock).of("m", "export")
    assert (export.state, export.reason) == (State.TO_RUN, StaleReason.MISSING_ARTIFACT)
    kept = make_plan({"m": replace(SAME, config=other)}, lock).of("m", "export")
    assert (kept.state, kept.key) == (State.UP_TO_DATE, "k")


def test_a_model_that_left_the_spec_is_removed() -> None:
    plan = make_plan({}, Lock({"old": LOCKED}))
    assert [(a.model, a.kind, a.reason) for a in plan.actions] == [
        ("old", "remove", StaleReason.REMOVED_FROM_SPEC)
    ]


PRECISIONS_MADE_BY = {
    "onnx": set(precision_rows()) - {"fp32"},
    "onnxruntime": set(precision_rows()) - {"fp32"},
    "ml_dtypes": {"bf16", "fp8", "int4", "nvfp4"},
    "onnx-ir": {"int4"},
}
EXPORTED_BY = {"torch", "onnxscript", "onnx-ir", "onnx"}


@pytest.mark.parametrize("upgraded", sorted({*VERSION_PACKAGES, *PRECISIONS_MADE_BY, *EXPORTED_BY}))
def test_an_upgraded_tool_makes_anew_what_it_made_and_nothing_else(tmp_path: Path, upgraded: str) -> None:
    backend = {p: "tensorrt" if row.no_onnxruntime else "onnxruntime" for p, row in precision_rows().items()}
    variants = "".join(f"      {p}: {{precision: {p}, backend: {backend[p]}}}\n" for p in backend)
    (tmp_path / "models.yaml").write_text(
        "models:\n  m:\n    source: {torch: 'm:load'}\n    calibration: c.npz\n    serve: fp32\n    variants:\n"
        + variants
    )
    spec = load_spec(tmp_path / "models.yaml").models[0]
    old = Toolchain(tuple((name, "1.0") for name in VERSION_PACKAGES))
    new = Toolchain(tuple((name, "2.0" if name == upgraded else "1.0") for name in VERSION_PACKAGES))

    def keys(toolchain: Toolchain) -> dict[str, str | None]:
        return {p: conversion_identity(spec, p, "base", toolchain).request for p in precision_rows()}

    assert {p for p in precision_rows() if keys(old)[p] != keys(new)[p]} == PRECISIONS_MADE_BY.get(
        upgraded, set()
    )
    exported = source_identity(spec, old).request != source_identity(spec, new).request
    assert exported == (upgraded in EXPORTED_BY)
