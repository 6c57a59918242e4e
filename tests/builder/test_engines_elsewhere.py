"""Engines for GPUs that this machine does not have: planned and grouped here, found by key when others have compiled them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.cache import Cache
from builder.compile import CompileRequest
from builder.compile.sidecar import sidecar, write_sidecar
from builder.context import BuildOptions, context_of
from builder.model_config import model_config_from_text
from builder.observe import engine_key
from builder.plan import EngineTarget
from tests import onnx_models
from tests.conftest import Run

SPEC = """\
target: {triton: "26.02", gpus: [h100, l4, l40s], tensorrt: "10.16"}
models:
  with a space:
    source: {onnx: m.onnx}
    max_batch_size: 4
    variants:
      fp16: {precision: fp16}
      plan: {backend: tensorrt, precision: fp16}
    serve: plan
  plain:
    source: {onnx: m.onnx}
    max_batch_size: 4
"""
TENSORS = [
    {"name": name, "mode": mode, "data_type": "TYPE_FP32", "shape": [-1, 3], "is_shape_tensor": False, "non_linear": False}
    for name, mode in (("x", "input"), ("y", "output"))
]  # fmt: skip

pytestmark = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text(SPEC)
    return tmp_path


def matrix(tritonsmith: Run) -> dict[str, Mapping[str, Any]]:
    text = tritonsmith("plan", "--format", "github-matrix").stdout
    assert text.count("\n") == 1, "a job's output is one line"
    return {job["name"]: job for job in json.loads(text)["include"]}


def compiled_elsewhere(project: Path, cache: Cache, targets: tuple[EngineTarget, ...]) -> None:
    """What machines with these GPUs leave in the cache: an engine and its sidecar under the key that the plan asks for."""
    context = context_of(BuildOptions(project / "models.yaml", cache=cache))
    spec = context.spec.models[0]
    graph = cache.get(str(context.observed[spec.name].variants["plan"].cached_key))
    assert graph is not None
    for target in targets:
        with cache.workspace() as made:
            (made / "model.plan").write_bytes(f"engine for {target.compute_capability}".encode())
            request = CompileRequest(spec.name, "tensorrt", str(graph.directory / "model.onnx"))
            told = sidecar(
                request,
                version="10.16.0.72",
                compute_capability=target.compute_capability,
                gpu=target.gpu,
                tensors=TENSORS,
                engine_bytes=14,
            )
            profiles = [{"x": {"min": [1, 3], "opt": [4, 3], "max": [4, 3]}}]
            profiles *= len(spec.variants["plan"].optimization_profiles) or 1
            write_sidecar(made / "model.plan.json", {**told, "profiles": profiles})
            record = {
                **graph.record,
                "served_files": ["model.plan", "model.plan.json"],
                "engine": {
                    "version": "10.16.0.72",
                    "compute_capability": target.compute_capability,
                    "profiles": len(profiles),
                    "bytes": 14,
                },
            }
            cache.put(engine_key(spec, "plan", graph.key, target), made, record)


def test_they_are_grouped_for_ci_and_laid_out_when_found(
    project: Path, tritonsmith: Run, cache_directory: Path
) -> None:
    before = matrix(tritonsmith)
    assert sorted(before) == ["cpu", "h100 (9.0), TensorRT 10.16", "l4 (8.9), TensorRT 10.16"]
    assert before["cpu"]["models"] == ["with a space", "plain"] and before["cpu"]["gpu"] is None
    made = tritonsmith("build", "--artifacts-only")
    assert made.returncode == 0, made.stderr
    after = matrix(tritonsmith)
    assert sorted(after) == ["h100 (9.0), TensorRT 10.16", "l4 (8.9), TensorRT 10.16"]
    assert after["l4 (8.9), TensorRT 10.16"]["work"] == ["compile with a space/plan"]
    alone = tritonsmith("build")
    assert alone.returncode == 3 and "gpu_missing" in alone.stderr
    assert (project / "model_repository" / "plain").is_dir(), "the other model is laid out all the same"

    targets = (EngineTarget("h100", "9.0", "10.16"), EngineTarget("l4", "8.9", "10.16"))
    compiled_elsewhere(project, Cache(cache_directory), targets)
    assert matrix(tritonsmith) == {}
    built = tritonsmith("build")
    assert built.returncode == 0, built.stderr
    directory = project / "model_repository" / "with a space"
    assert sorted(p.name for p in (directory / "1").iterdir()) == [
        "model_sm89.plan",
        "model_sm89.plan.json",
        "model_sm90.plan",
        "model_sm90.plan.json",
    ]
    config = model_config_from_text((directory / "config.pbtxt").read_text())
    assert dict(config.cc_model_filenames) == {"9.0": "model_sm90.plan", "8.9": "model_sm89.plan"}
    assert tritonsmith("plan", "--exit-code").returncode == 0
    shutil.rmtree(directory)
    assert tritonsmith("build", "--locked").returncode == 0, "the locked engines are in the cache"

    (project / "models.yaml").write_text(SPEC.replace('"10.16"', '"10.15"'))
    plan = json.loads(tritonsmith("plan", "--format", "json").stdout)["actions"]
    stale = {(a["action"], a["reason"]): a["detail"] for a in plan if a["action"] == "compile"}
    assert stale == {("compile", "target_changed"): "tensorrt: 10.16 → 10.15"}
    assert sorted(matrix(tritonsmith)) == ["h100 (9.0), TensorRT 10.15", "l4 (8.9), TensorRT 10.15"]


def test_one_kind_of_gpu_has_one_plan(project: Path, tritonsmith: Run, cache_directory: Path) -> None:
    two = "precision: fp16, optimization_profiles: [{batch: {opt: 1, max: 2}}, {}]}"
    text = SPEC.replace("h100, l4, l40s", "l4, l40s").replace(
        "tensorrt, precision: fp16}", f"tensorrt, {two}"
    )
    (project / "models.yaml").write_text(text)
    assert tritonsmith("build", "--artifacts-only").returncode == 0
    compiled_elsewhere(project, Cache(cache_directory), (EngineTarget("l4", "8.9", "10.16"),))
    built = tritonsmith("build")
    assert built.returncode == 0, built.stderr
    directory = project / "model_repository" / "with a space"
    assert sorted(p.name for p in (directory / "1").iterdir()) == ["model.plan", "model.plan.json"]
    config = model_config_from_text((directory / "config.pbtxt").read_text())
    assert not config.cc_model_filenames
    assert [list(group.profile) for group in config.instance_group] == [["0", "1"]], "both profiles run"
    (project / "models.yaml").write_text(text.replace("opt: 1,", "opt: 2,"))
    plan = json.loads(tritonsmith("plan", "--format", "json").stdout)["actions"]
    stale = {a["action"]: a["reason"] for a in plan if a.get("variant") == "plan" and a["reason"]}
    assert stale == {"compile": "spec_changed"}, "another profile is another engine of the same graph"


def test_the_plan_for_a_pull_request_breaks_no_table(project: Path, tritonsmith: Run) -> None:
    text = tritonsmith("plan", "--format", "markdown").stdout
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6}
    assert "| with a space | compile plan for h100 (9.0), TensorRT 10.16 | to run | new |" in text
