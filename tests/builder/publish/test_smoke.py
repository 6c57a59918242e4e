"""Recorded requests: small, in the types and shapes that the served model takes, with bounds that its precision keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import onnx_models
from tests.builder.publish.projects import Project
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, load_samples, save_samples
from tritonsmith.builder.base.errors import GateError, SpecError
from tritonsmith.builder.build.build import build
from tritonsmith.builder.build.context import context_of
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.builder.publish.gates import accuracy_gate
from tritonsmith.builder.publish.smoke import smoke_bounds, smoke_bytes, smoke_samples, stated_samples
from tritonsmith.builder.repository.lock import LockedModel
from tritonsmith.builder.spec.spec import load_spec

PLAIN = """
name: "m" backend: "onnxruntime" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""


def samples(path: Path, rows: int = 4, width: int = 3, count: int = 5) -> Path:
    """`count` batches: x, y and an output that no config below declares."""
    rng = np.random.default_rng(0)
    made = [
        Sample(
            {"x": rng.normal(size=(rows, width)).astype(np.float32)},
            {"y": rng.normal(size=(rows, width)).astype(np.float32), "hidden": np.zeros((rows, 1), np.int64)},
            f"batch {i}",
        )
        for i in range(count)
    ]
    save_samples(SampleSet(tuple(made), "seed 0"), path)
    return path


def test_a_few_first_rows(tmp_path: Path) -> None:
    path = samples(tmp_path / "s.npz")
    kept, why = smoke_samples(path, model_config_from_text(PLAIN))
    assert kept is not None and why == ""
    assert [s.label for s in kept.samples] == ["batch 0", "batch 1", "batch 2"]
    first, whole = kept.samples[0], load_samples(path).samples[0]
    assert first.inputs["x"].shape == (1, 3) and list(first.outputs) == ["y"], "what clients can see"
    assert np.array_equal(first.outputs["y"], whole.outputs["y"][:1])
    (tmp_path / "again.npz").write_bytes(smoke_bytes(kept, tmp_path))
    assert np.array_equal(
        load_samples(tmp_path / "again.npz").samples[2].inputs["x"], kept.samples[2].inputs["x"]
    )


def test_in_the_types_and_shapes_that_are_served(tmp_path: Path) -> None:
    half = PLAIN.replace("TYPE_FP32", "TYPE_FP16").replace(
        "dims: [ 3 ]", "dims: [ 1, 3 ] reshape { shape: [ 3 ] }"
    )
    kept, _ = smoke_samples(samples(tmp_path / "s.npz"), model_config_from_text(half))
    assert kept is not None
    first = kept.samples[0].inputs["x"]
    assert (first.dtype.name, first.shape) == ("float16", (1, 1, 3))
    assert kept.samples[0].outputs["y"].shape == (1, 1, 3)


NONE = [
    ("too large", PLAIN, {"width": 3 << 20}, "8 MiB"),
    ("state", PLAIN + "sequence_batching { }", {}, "single answer"),
    ("decoupled", PLAIN + "model_transaction_policy { decoupled: true }", {}, "single answer"),
    ("a type that NumPy lacks", PLAIN.replace("TYPE_FP32", "TYPE_BF16"), {}, "NumPy has no BF16"),
    ("no samples", PLAIN, {"count": 0}, "no samples"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "config", "made", "why"), NONE, ids=[n[0] for n in NONE])
def test_no_recorded_request_has_its_reason(
    sentence: str, config: str, made: dict[str, int], why: str, tmp_path: Path
) -> None:
    kept, told = smoke_samples(samples(tmp_path / "s.npz", **made), model_config_from_text(config))
    assert kept is None and why in told


STATED = """\
models:
  m:
    source: {directory: sources/m}
    smoke: smoke.npz
"""
X, Y = np.ones((2, 3), np.float32), np.full((2, 3), 3.0, np.float32)


def stated(tmp_path: Path, arrays: dict[str, Any], config: str = PLAIN) -> SampleSet:
    (tmp_path / "models.yaml").write_text(STATED)
    np.savez(tmp_path / "smoke.npz", **arrays)
    spec = load_spec(tmp_path / "models.yaml")
    return stated_samples(spec.models[0], spec, model_config_from_text(config))


def test_requests_and_answers_of_ones_own(tmp_path: Path) -> None:
    one = stated(tmp_path, {"x": X, "y": Y})
    assert [(list(s.inputs), list(s.outputs)) for s in one.samples] == [(["x"], ["y"])]
    assert one.samples[0].outputs["y"].shape == (1, 3), "one row is enough"
    two = stated(tmp_path, {"0/x": X, "0/y": Y, "1/x": 2 * X, "1/y": 2 * Y})
    assert two.samples[1].inputs["x"][0, 0] == 2.0


REFUSED = [
    ("an unknown name", {"x": X, "z": Y}, PLAIN, ("no such input or output", "seen:  z", "valid: x, y")),
    ("no input", {"y": Y}, PLAIN, ("no array for the input 'x'",)),
    ("no answer", {"x": X}, PLAIN, ("no answer to compare", "valid: y")),
    ("another shape", {"x": X[0], "y": Y}, PLAIN, ("'x' does not fit", "shape [3]", "[batch, 3]")),
    ("state", {"x": X, "y": Y}, PLAIN + "sequence_batching { }", ("single answer",)),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "arrays", "config", "told"), REFUSED, ids=[r[0] for r in REFUSED])
def test_a_file_that_does_not_go_with_the_model_names_its_line(
    sentence: str, arrays: dict[str, np.ndarray[Any, Any]], config: str, told: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        stated(tmp_path, arrays, config)
    assert caught.value.code == "smoke_file"
    text = str(caught.value)
    assert "models.yaml:4: m: smoke.npz: " in text and all(part in text for part in told), text


SPEC = """
models:
  m:
    source: {onnx: m.onnx}
    variants: {plain: {}, half: {precision: fp16}, stated: {precision: fp16, accuracy: {cosine: 0.9}}}
    serve: [plain, half, stated]
"""
# (variant, relative L2, cosine) of a float output
BOUNDS = [("plain", 5e-3, 0.9999), ("half", 1e-2, 0.9999), ("stated", None, 0.9)]


@pytest.mark.parametrize(("variant", "relative_l2", "cosine"), BOUNDS, ids=[b[0] for b in BOUNDS])
def test_bounds_of_live_answers(
    variant: str, relative_l2: float | None, cosine: float, tmp_path: Path
) -> None:
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text(SPEC)
    (spec,) = load_spec(tmp_path / "models.yaml").models
    one = SampleSet((Sample({}, {"y": np.zeros((1, 3), np.float32), "n": np.zeros(1, np.int64)}),))
    bounds = smoke_bounds(spec, variant, one)
    assert (bounds["y"]["relative_l2"], bounds["y"]["cosine"]) == (relative_l2, cosine)
    if variant == "plain":
        assert (bounds["n"]["relative_l2"], bounds["n"]["max_abs"]) == (0.0, 0.0), "integers have to be equal"


def test_accuracy_is_a_gate_without_the_cache_too(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    text = "models:\n  m:\n    source: {onnx: m.onnx}\n    accuracy: {relative_l2: 0.001}\n"
    (tmp_path / "models.yaml").write_text(text)
    project = Project(tmp_path, "")
    assert not build(project.options).errors
    context = context_of(project.options)
    (spec,), locked = context.spec.models, context.lock.models["m"]
    accuracy_gate(context, spec, locked)
    elsewhere = context_of(Project(tmp_path, "").options)
    worse = {**{f: getattr(locked, f) for f in LockedModel.__dataclass_fields__}, "key": "0" * 64}
    worse["accuracy"] = {"relative_l2": 0.002, "cosine": 1.0, "max_abs": 0.1, "samples": 3}
    with pytest.raises(GateError, match=r"relative L2 0\.002 > 0\.001") as caught:
        accuracy_gate(elsewhere, spec, LockedModel(**worse))
    assert caught.value.code == "accuracy"
