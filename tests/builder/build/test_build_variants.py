"""Variants through `tritonsmith build`: all are made, the gate decides what is served, only what changed is made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests import onnx_models
from tests.conftest import Run
from tritonsmith.builder.actions.accuracy.laid_out import ServedAccuracy, read_accuracy
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples
from tritonsmith.builder.model_config.model_config import model_config_from_text

SPEC = """\
models:
  m:
    source: {onnx: m.onnx}
    max_batch_size: 8
    calibration: calibration.npz
    variants:
      fp32: {}
      fp16: {precision: fp16}
      strict: {precision: fp16, accuracy: {relative_l2: 1.0e-12}}
    serve: [strict, fp16]
    on_fail: next
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(16, 8)).astype(np.float32)}
    proto = onnx_models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], "project"),
            helper.make_node("Tanh", ["h"], ["y"], "squash"),
        ],
        [onnx_models.tensor("x", ["batch", 16])],
        [onnx_models.tensor("y", ["batch", 8])],
        weights,
    )
    onnx_models.save(proto, tmp_path / "m.onnx")
    rows = [Sample({"x": rng.normal(size=(4, 16)).astype(np.float32)}, {}) for _ in range(8)]
    save_samples(SampleSet(tuple(rows)), tmp_path / "calibration.npz")
    (tmp_path / "models.yaml").write_text(SPEC)
    return tmp_path


def built(result: Any) -> dict[str, dict[str, Any]]:
    model = json.loads(result.stdout)["models"][0]
    return {v["variant"]: v for v in model["variants"]}


def test_all_are_made_the_gate_falls_back_and_nothing_is_made_twice(project: Path, tritonsmith: Run) -> None:
    first = tritonsmith("build", "--format", "json")
    assert first.returncode == 0, first.stderr
    variants = built(first)
    assert [v for v, told in variants.items() if told["served"]] == ["fp16"]
    assert 1e-6 < variants["fp16"]["accuracy"]["relative_l2"] < 1e-2
    assert "strict: not accurate enough" in first.stderr and "fp16 is served instead" in first.stderr
    served = (project / "model_repository" / "m" / "1" / "model.onnx").read_bytes()
    assert served != (project / "m.onnx").read_bytes()
    assert "nothing to do" in tritonsmith("build").stdout

    (project / "models.yaml").write_text(SPEC.replace("serve: [strict, fp16]", "serve: fp32"))
    again = tritonsmith("build", "--format", "json")
    assert {v["action"] for v in built(again).values()} == {"the export", "from cache"}, (
        "only another one is laid out"
    )
    assert (project / "model_repository" / "m" / "1" / "model.onnx").read_bytes() == (
        project / "m.onnx"
    ).read_bytes()


def test_a_variant_that_is_converted_in_part_says_how_much(project: Path, tritonsmith: Run) -> None:
    part = SPEC.replace("{precision: fp16}", "{precision: fp16, exclude: [Tanh]}").replace(
        "[strict, fp16]", "fp16"
    )
    (project / "models.yaml").write_text(part)
    result = tritonsmith("build")
    assert result.returncode == 0, result.stderr
    assert "1 of 2 ops, 100 % of weights" in result.stdout
    assert 'not converted: 1 × Tanh: excluded by "Tanh"' in result.stdout
    (project / "models.yaml").write_text(part + "    instance_group: [{count: 2}]\n")
    told = built(tritonsmith("build", "--format", "json"))["fp16"]["coverage"]
    counted = {"nodes": 1, "of_nodes": 2, "weight_bytes": 512, "of_weight_bytes": 512}
    assert told == {**counted, "kept": {'Tanh: excluded by "Tanh"': 1}}
    lock = json.loads((project / "models.lock.json").read_text())
    assert lock["models"]["m"]["variants"]["fp16"]["coverage"] == told


def test_every_variant_can_be_laid_out_as_a_model_of_its_own(project: Path, tritonsmith: Run) -> None:
    result = tritonsmith("build", "--variants", "variants")
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in (project / "variants").iterdir()) == ["m__fp16", "m__fp32", "m__strict"]
    config = model_config_from_text((project / "variants" / "m__fp16" / "config.pbtxt").read_text())
    assert (config.name, config.max_batch_size) == ("m__fp16", 8)
    held = {p.name: read_accuracy(p) for p in (project / "variants").iterdir()}
    assert held["m__fp16"] == ServedAccuracy("fp16")
    assert held["m__strict"] is not None and held["m__strict"].stated == {"relative_l2": 1e-12}
    check = tritonsmith("check", "variants")
    assert check.returncode == 0, check.stdout


def test_a_refused_variant_is_not_laid_out_and_the_error_says_why(project: Path, tritonsmith: Run) -> None:
    (project / "models.yaml").write_text(SPEC.replace("    on_fail: next\n", ""))
    result = tritonsmith("build")
    assert result.returncode == 4
    assert "m/strict: not accurate enough" in result.stderr and "models.yaml:9" in result.stderr
    assert not (project / "model_repository" / "m").exists()


def test_new_calibration_data_make_anew_what_depends_on_them(project: Path, tritonsmith: Run) -> None:
    assert tritonsmith("build").returncode == 0
    rows = [
        Sample({"x": np.random.default_rng(1).normal(size=(4, 16)).astype(np.float32)}, {}) for _ in range(8)
    ]
    save_samples(SampleSet(tuple(rows)), project / "calibration.npz")
    actions = json.loads(tritonsmith("plan", "--format", "json").stdout)["actions"]
    stale = {a.get("variant"): a["reason"] for a in actions if a["action"] == "convert" and a["reason"]}
    assert stale == {"fp16": "calibration_changed", "strict": "calibration_changed"}


BAD = [
    ("an unknown precision", "precision: fp16}", "precision: fp61}", 2, "did you mean 'fp16'"),
    (
        "a variant to serve that is not stated",
        "serve: [strict, fp16]",
        "serve: fp61",
        2,
        "did you mean 'fp16'",
    ),
    ("calibration data that are not there", "calibration: calibration.npz", "calibration: c.npz", 2, "c.npz"),
]


@pytest.mark.parametrize(("old", "new", "code", "word"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_variants_are_one_error(
    project: Path, tritonsmith: Run, old: str, new: str, code: int, word: str
) -> None:
    (project / "models.yaml").write_text(SPEC.replace(old, new))
    result = tritonsmith("build")
    assert result.returncode == code, result.stderr
    assert word in result.stderr and "models.yaml:" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_without_a_gpu_tensorrt_is_exit_3_and_the_served_variant_is_laid_out_all_the_same(
    project: Path, tritonsmith: Run
) -> None:
    spec = SPEC.replace("      strict:", "      plan: {backend: tensorrt, precision: fp16}\n      strict:")
    (project / "models.yaml").write_text(spec)
    result = tritonsmith("build", "--format", "json")
    assert result.returncode == 3
    assert built(result)["plan"]["error"]["code"] == "gpu_missing"
    assert (project / "model_repository" / "m" / "1" / "model.onnx").is_file()


def outliers(project: Path) -> None:
    """A model whose second product reads one channel 300 times as large as the others: int8 loses it."""
    from tests.builder.actions.convert.models import outlier_mlp, rows, save_model, save_rows

    save_model(outlier_mlp(), project / "m.onnx")
    save_rows(rows((8, 16), 77), project / "calibration.npz")


REFUSED = """\
models:
  m:
    source: {onnx: m.onnx}
    max_batch_size: 8
    calibration: calibration.npz
    variants:
      fp32: {}
      int8: {precision: int8}
      strict: {precision: fp16, accuracy: {relative_l2: 1.0e-12}}
    serve: SERVED
"""


@pytest.mark.parametrize("served", ["int8", "strict"])
def test_a_refusal_shows_which_layers_lose_most_and_what_to_exclude(
    project: Path, tritonsmith: Run, served: str
) -> None:
    """Layers are compared when the variant is made, or later when stated bounds refuse what the usual ones let through."""
    outliers(project)
    (project / "models.yaml").write_text(REFUSED.replace("SERVED", served))
    result = tritonsmith("build")
    assert result.returncode == 4
    lines = result.stderr.splitlines()
    table = next(i for i, line in enumerate(lines) if "layers that lose most" in line)
    assert lines[table + 1].split() == ["node", "operator", "by", "itself", "in", "sum"]
    worst = lines[table + 2].split()
    assert worst[:2] == (["down", "MatMul"] if served == "int8" else worst[:2]) and float(worst[2]) > 0
    assert len(lines[table + 1 :]) <= 8, "a terminal gets the five worst"
    assert f"exclude: [{'down' if served == 'int8' else ''}" in result.stderr
    assert [line.split()[-1] for line in result.stdout.splitlines()[2:4]] == ["refused", "refused"]

    told = built(tritonsmith("build", "--format", "json"))
    assert not any(v["served"] for v in told.values())
    assert told["fp32"]["judged"]["passed"] and not told[served]["judged"]["passed"]
    rows = {row["node"]: row for row in told["int8"]["judged"]["layers"]}
    assert rows["down"]["own_loss"] > 10 * rows["up"]["own_loss"]
    assert told["int8"]["judged"]["exclude"] == ["down"]


def test_what_optimisations_change_is_told(project: Path, tritonsmith: Run) -> None:
    """ONNX Runtime fuses fp8's Q/DQ into operators that it cannot load: a finding, and for a variant it serves a failure."""
    outliers(project)
    (project / "models.yaml").write_text(
        REFUSED.replace("precision: int8", "precision: fp8").replace("SERVED", "int8")
    )
    result = tritonsmith("build", "--format", "json")
    judged = built(result)["int8"]["judged"]
    assert any("optimisations" in finding for finding in judged["findings"]), judged
    if not judged["passed"]:
        assert "finding: ONNX Runtime" in result.stderr


ENGINES = """\
models:
  m:
    source: {onnx: m.onnx}
    max_batch_size: 8
    calibration: calibration.npz
    variants:
      fp32: {}
      nv: {backend: tensorrt, precision: nvfp4}
      tight: {backend: tensorrt, engine: {workspace_bytes: 1}}
      uncovered: {backend: tensorrt, precision: fp16, optimization_profiles: [{batch: {max: 4}}]}
      option: {backend: tensorrt, engine: {workspace: 1}}
  volume:
    source: {onnx: volume.onnx}
    max_batch_size: 8
    variants:
      fp32: {}
      det: {backend: tensorrt}
      uncalibrated: {precision: int8}
"""
EXPECTED = {
    "nv": ("gpu_missing", 8, "TensorRT-RTX", "parses and lowers this graph here"),
    "tight": ("engine_workspace", 9, "the workspace is too small", "raise workspace_bytes"),
    "uncovered": ("profile_coverage", 10, "no optimization profile takes batch 5", "lower max_batch_size"),
    "option": ("unknown_key", 11, "unknown TensorRT option 'workspace'", "did you mean 'workspace_bytes'"),
    "det": ("engine_parse", 17, "node volume (Det): UNSUPPORTED_NODE", "without that operator"),
    "uncalibrated": (
        "calibration_missing",
        18,
        "precision int8 needs calibration samples",
        "calibration: in the spec",
    ),
}


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_what_keeps_an_engine_from_being_built_is_one_error_each(project: Path, tritonsmith: Run) -> None:
    """All in one build: a variant that fails leaves the others alone, and the models are laid out."""
    pytest.importorskip("tensorrt_rtx", reason="pip install 'tritonsmith[rtx]'")
    proto = onnx_models.model(
        [
            helper.make_node("Det", ["x"], ["d"], "volume"),
            helper.make_node("Unsqueeze", ["d", "one"], ["y"], "column"),
        ],
        [onnx_models.tensor("x", ["batch", 4, 4])],
        [onnx_models.tensor("y", ["batch", 1])],
        {"one": np.array([1], np.int64)},
    )
    onnx_models.save(proto, project / "volume.onnx")
    (project / "models.yaml").write_text(ENGINES)
    result = tritonsmith("build", "--format", "json")
    assert result.returncode == 3
    models = json.loads(result.stdout)["models"]
    told = {v["variant"]: v for model in models for v in model["variants"] if v["error"]}
    assert told.keys() == EXPECTED.keys()
    for variant, (code, line, message, fix) in EXPECTED.items():
        error = told[variant]["error"]
        assert error["code"] == code
        assert f"models.yaml:{line}" in f"{error['where']} {error['message']}", error
        assert message in error["message"] and fix in f"{error['fix']} {error['message']}", error
    assert told["nv"]["judged"]["findings"], "its graph was judged all the same"
    assert "Traceback" not in result.stderr
    assert all(
        (project / "model_repository" / name / "1" / "model.onnx").is_file() for name in ("m", "volume")
    )


def test_a_variant_that_nothing_could_judge_says_so(project: Path, tritonsmith: Run) -> None:
    """No inputs can be made up for a model that takes seven columns and says any number of them."""
    proto = onnx_models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        [onnx_models.tensor("x", ["batch", "columns"])],
        [onnx_models.tensor("y", ["batch", 2])],
        {"w": np.ones((7, 2), np.float32)},
    )
    onnx_models.save(proto, project / "m.onnx")
    (project / "models.yaml").write_text(
        "models:\n  m: {source: {onnx: m.onnx}, max_batch_size: 8, variants: {fp16: {precision: fp16}}}\n"
    )
    result = tritonsmith("build")
    assert result.returncode == 0, result.stderr
    assert "not judged: there are no samples" in result.stdout
