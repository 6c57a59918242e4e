"""Engines for GPUs that this machine does not have: planned and grouped here, found by key when others have compiled them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import onnx_models
from tests.conftest import Run
from tritonsmith.builder.actions.action import Artifact, Subject
from tritonsmith.builder.actions.compile import CompileRequest
from tritonsmith.builder.actions.compile.action import engine_identity
from tritonsmith.builder.actions.compile.sidecar import sidecar, write_sidecar
from tritonsmith.builder.actions.compile.target import EngineTarget, can_compile
from tritonsmith.builder.base.errors import ToolError
from tritonsmith.builder.base.machine.cuda import Gpu
from tritonsmith.builder.base.machine.machine import Machine
from tritonsmith.builder.build.context import BuildOptions, Context, context_of
from tritonsmith.builder.build.model.engines import engine_artifacts
from tritonsmith.builder.build.model.make import make_model
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.builder.plan.engine_profiles import engine_options, engine_profiles
from tritonsmith.builder.spec.spec import load_spec

TENSORRT = "10.16.0.72"
SPEC = """\
target: {triton: "26.02", gpus: [h100, l4, l40s], tensorrt: "10.16.0.72"}
models:
  with a space:
    source: {onnx: m.onnx}
    max_batch_size: 4
    variants:
      fp16: {precision: fp16}
      plan: {backend: tensorrt, precision: fp16, engine: {hardware_compatibility: same_compute_capability}}
    serve: plan
  plain:
    source: {onnx: m.onnx}
    max_batch_size: 4
"""
H100 = EngineTarget("h100", "9.0", TENSORRT)
L4 = EngineTarget("l4", "8.9", TENSORRT)
CPU_MACHINE = Machine(why_no_gpu="the NVIDIA driver is not installed")
L4_MACHINE = Machine((Gpu(0, "NVIDIA L4", "8.9", 24 << 30, "GPU-4"),), tensorrt=TENSORRT)
BOTH_MACHINE = Machine((Gpu(0, "NVIDIA H100", "9.0", 80 << 30, "GPU-9"), *L4_MACHINE.gpus), tensorrt=TENSORRT)

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


def plan_bytes(version: str) -> bytes:
    """The head of a plan, as trtexec reads it, and nothing behind it."""
    return b"ftrt" + bytes(20) + bytes(int(n) for n in version.split("."))


def compiled_elsewhere(
    project: Path, cache: Cache, targets: tuple[EngineTarget, ...], version: str = TENSORRT
) -> None:
    """What machines with these GPUs leave in the cache: an engine and its sidecar under the key that the plan asks for."""
    context = context_of(BuildOptions(project / "models.yaml", cache=cache))
    spec = context.spec.models[0]
    graph = cache.get(str(context.observed[spec.name].variants["plan"].cached_key))
    assert graph is not None
    profiles = engine_profiles(spec, "plan", graph.record, context.spec)
    tensors = [
        {"name": t["name"], "mode": mode, "data_type": t["data_type"], "shape": [-1, 3],
         "is_shape_tensor": False, "non_linear": False}
        for mode in ("input", "output") for t in graph.record[f"{mode}s"]
    ]  # fmt: skip
    for target in targets:
        with cache.workspace() as made:
            (made / "model.plan").write_bytes(plan_bytes(version))
            request = CompileRequest(
                spec.name,
                "tensorrt",
                str(graph.directory / "model.onnx"),
                profiles,
                engine_options(spec.variants["plan"]),
            )
            told = sidecar(
                request,
                version=version,
                compute_capability=target.compute_capability,
                gpu=target.gpu,
                tensors=tensors,
                engine_bytes=len(plan_bytes(version)),
                platform=target.platform,
            )
            write_sidecar(made / "model.plan.json", told)
            record = {
                **graph.record,
                "served_files": ["model.plan", "model.plan.json"],
                "engine": {
                    "version": version,
                    "compute_capability": target.compute_capability,
                    "profiles": len(profiles),
                    "bytes": len(plan_bytes(version)),
                },
            }
            cache.put(engine_identity(spec, "plan", graph.key, target).key(), made, record)


@pytest.mark.nightly
def test_they_are_grouped_for_ci_and_laid_out_when_found(
    project: Path, tritonsmith: Run, cache_directory: Path
) -> None:
    before = matrix(tritonsmith)
    assert sorted(before) == ["cpu", "h100 (9.0), TensorRT 10.16.0.72", "l4 (8.9), TensorRT 10.16.0.72"]
    assert before["cpu"]["models"] == ["with a space", "plain"] and before["cpu"]["gpu"] is None
    made = tritonsmith("build", "--artifacts-only")
    assert made.returncode == 0, made.stderr
    after = matrix(tritonsmith)
    assert sorted(after) == ["h100 (9.0), TensorRT 10.16.0.72", "l4 (8.9), TensorRT 10.16.0.72"]
    l4 = after["l4 (8.9), TensorRT 10.16.0.72"]
    assert (l4["work"], l4["install"]) == (["compile with a space/plan"], "tensorrt==10.16.0.72.*")
    assert before["cpu"]["install"] == ""
    alone = tritonsmith("build")
    assert alone.returncode == 3 and "gpu_missing" in alone.stderr
    assert (project / "model_repository" / "plain").is_dir(), "the other model is laid out all the same"

    # One of the two comes from a machine whose TensorRT was another build: it is no such engine, whatever its key says.
    compiled_elsewhere(project, Cache(cache_directory), (H100,))
    compiled_elsewhere(project, Cache(cache_directory), (L4,), version="10.16.1.11")
    refused = tritonsmith("build")
    assert refused.returncode == 3, refused.stderr
    assert "version 10.16.1.11 is in the file, 10.16.0.72 was asked for" in refused.stderr
    compiled_elsewhere(project, Cache(cache_directory), (L4,))
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

    (project / "models.yaml").write_text(SPEC.replace(TENSORRT, "10.15.1.29"))
    plan = json.loads(tritonsmith("plan", "--format", "json").stdout)["actions"]
    stale = {(a["action"], a["reason"]): a["detail"] for a in plan if a["action"] == "compile"}
    assert stale == {("compile", "target_changed"): "tensorrt: 10.16.0.72 → 10.15.1.29"}
    assert sorted(matrix(tritonsmith)) == ["h100 (9.0), TensorRT 10.15.1.29", "l4 (8.9), TensorRT 10.15.1.29"]


def test_several_kinds_are_planned_fetched_and_missed_on_any_machine(
    project: Path, cache_directory: Path
) -> None:
    """A runner with one kind of GPU neither refuses the other kinds nor takes them for its own."""
    cache = Cache(cache_directory)
    options = BuildOptions(project / "models.yaml", cache=cache)
    context = context_of(options)
    graph, variant = converted(context, cache), Subject(context.spec.models[0], context.spec, "plan")
    for machine in (CPU_MACHINE, L4_MACHINE, BOTH_MACHINE):
        actions = context_of(options, machine).plan().actions
        assert [a.engine for a in actions if a.kind == "compile"] == [H100, L4]

    compiled_elsewhere(project, cache, (L4,))
    with pytest.raises(ToolError) as other:
        engine_artifacts(variant, graph, (H100, L4), cache, L4_MACHINE)
    assert other.value.code == "gpu_other" and "h100 (9.0)" in other.value.message
    assert "NVIDIA L4 (8.9) with TensorRT 10.16.0.72 on linux_x86_64" in str(other.value.seen)
    with pytest.raises(ToolError) as none:
        engine_artifacts(variant, graph, (H100, L4), cache, CPU_MACHINE)
    assert none.value.code == "gpu_missing"

    compiled_elsewhere(project, cache, (H100,))
    for machine in (CPU_MACHINE, L4_MACHINE, BOTH_MACHINE):
        fetched = engine_artifacts(variant, graph, (H100, L4), cache, machine)
        assert [(e.target, e.was_cached) for e in fetched] == [(H100, True), (L4, True)]


@pytest.mark.parametrize(
    ("target", "machine", "can"),
    [
        (L4, L4_MACHINE, True),
        (H100, L4_MACHINE, False),
        (H100, BOTH_MACHINE, True),
        (L4, CPU_MACHINE, False),
        # Another patch, another build, another platform; what the package does not say is asked of the engine itself.
        (replace(L4, tensorrt="10.16.1.11"), L4_MACHINE, False),
        (replace(L4, tensorrt="10.16.0.71"), L4_MACHINE, False),
        (L4, replace(L4_MACHINE, tensorrt="10.16.0.post1"), True),
        (replace(L4, platform="linux_aarch64"), L4_MACHINE, False),
        (L4, replace(L4_MACHINE, platform="linux_aarch64"), False),
        (L4, replace(L4_MACHINE, tensorrt=None), False),
    ],
)
def test_whose_engines_a_machine_can_compile(target: EngineTarget, machine: Machine, can: bool) -> None:
    assert can_compile(target, machine) is can


def test_an_engine_is_known_by_all_that_ties_it_to_a_machine(project: Path) -> None:
    spec = load_spec(project / "models.yaml").models[0]
    others = [
        L4,
        H100,
        replace(L4, tensorrt="10.16.0.71"),
        replace(L4, platform="linux_aarch64"),
    ]

    def key(target: EngineTarget) -> str:
        return engine_identity(spec, "plan", "the graph", target).key()

    assert len({key(target) for target in others}) == len(others)
    assert key(replace(L4, gpu="NVIDIA L4")) == key(L4), "what the spec calls the GPU is no part of it"


def converted(context: Context, cache: Cache) -> Artifact:
    """The variant's graph: made once in this process's cache."""
    spec = context.spec.models[0]
    made = make_model(spec, context.plan().actions_of(spec.name), context.spec, cache)
    variant = next(v for v in made.variants if v.name == "fp16")
    assert variant.artifact is not None, variant.error
    key = context_of(context.options).observed[spec.name].variants["plan"].cached_key
    found = cache.get(str(key))
    assert found is not None
    return found


def test_one_kind_of_gpu_has_one_plan(project: Path, tritonsmith: Run, cache_directory: Path) -> None:
    two = "precision: fp16, optimization_profiles: [{batch: {opt: 1, max: 2}}, {}]"
    text = SPEC.replace("h100, l4, l40s", "l4, l40s").replace(
        "tensorrt, precision: fp16, ", f"tensorrt, {two}, "
    )
    (project / "models.yaml").write_text(text)
    assert tritonsmith("build", "--artifacts-only").returncode == 0
    compiled_elsewhere(project, Cache(cache_directory), (L4,))
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


def test_jobs_need_to_know_the_gpus(project: Path, tritonsmith: Run) -> None:
    text = SPEC.replace("gpus: [h100, l4, l40s], ", "")
    (project / "models.yaml").write_text(text)
    refused = tritonsmith("plan", "--format", "github-matrix")
    assert refused.returncode == 2 and "error[target_gpus]" in refused.stderr
    assert tritonsmith("plan").returncode == 0, "for this machine itself it is known"


def test_the_plan_for_a_pull_request_breaks_no_table(project: Path, tritonsmith: Run) -> None:
    text = tritonsmith("plan", "--format", "markdown").stdout
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6}
    assert "| with a space | compile plan for h100 (9.0), TensorRT 10.16.0.72 | to run | new |" in text
