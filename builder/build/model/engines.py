"""(a variant's graph) → its TensorRT engine where there is a GPU; elsewhere TensorRT-RTX's proof, and an error that says so."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.builder.build.model.artifacts import log_path
from tritonsmith.builder.cache.cache import Artifact, Cache
from tritonsmith.builder.actions.compile import (CompileRequest, CompileResult, OptimizationProfile, run_compile)
from tritonsmith.builder.actions.compile.identity import AskedEngine, differences, refuse_other
from tritonsmith.builder.actions.compile.compilers.tensorrt import PLAN, TENSORRT_FIX
from tritonsmith.builder.plan.engine_profiles import engine_options, engine_profiles
from tritonsmith.builder.plan.engine_targets import can_compile, engine_targets
from tritonsmith.builder.base.errors import ToolError
from tritonsmith.builder.base.machine import Machine, this_machine
from tritonsmith.builder.plan.observe import engine_key, engine_tools, variant_request
from tritonsmith.builder.plan.plan import EngineTarget, action_key
from tritonsmith.builder.base.releases import tensorrt_requirement
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec
from tritonsmith.builder.base.tensors import tensor_from_dict
from tritonsmith.builder.base.toolchain import this_toolchain
from tritonsmith.builder.base.files.untrusted import json_value, read_bounded

_ELSEWHERE = (
    "tritonsmith build --artifacts-only on a machine with that GPU, with the --remote-cache of this one"
)


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """One engine of a variant: model.plan and its sidecar, for one kind of GPU."""

    target: EngineTarget
    artifact: Artifact
    was_cached: bool


def engine_artifacts(
    spec: ModelSpec,
    name: str,
    converted: Artifact,
    repository: RepositorySpec,
    cache: Cache,
    machine: Machine | None = None,
) -> tuple[BuiltEngine, ...]:
    """One engine a GPU kind of the target, from the cache or compiled here; machine: None for this one.

    What was compiled, here or elsewhere, is compared with what is asked for. One that is not in the cache and that the
    machine cannot compile: ToolError gpu_missing, tensorrt_missing or gpu_other, after TensorRT-RTX has shown, where it is
    installed, that the graph parses and lowers; BuildError when it does not.
    """
    machine = machine or this_machine()
    targets = engine_targets(repository, machine)
    # Those that this machine can compile are compiled even where another is missing, for the cache.
    tried = [_tried(spec, name, converted, repository, cache, target, machine) for target in targets]
    for result in tried:
        if isinstance(result, ToolError):
            raise result
    return tuple(result for result in tried if isinstance(result, BuiltEngine))


def _tried(
    spec: ModelSpec,
    name: str,
    converted: Artifact,
    repository: RepositorySpec,
    cache: Cache,
    target: EngineTarget,
    machine: Machine,
) -> BuiltEngine | ToolError:
    try:
        return _engine(spec, name, converted, repository, cache, target, machine)
    except ToolError as error:
        return error


def _engine(
    spec: ModelSpec,
    name: str,
    converted: Artifact,
    repository: RepositorySpec,
    cache: Cache,
    target: EngineTarget,
    machine: Machine,
) -> BuiltEngine:
    key = engine_key(spec, name, converted.key, target)
    request = _request(spec, name, converted, repository, cache, "tensorrt", target.compute_capability)
    asked = _asked(request, target, converted)
    cached = cache.get(key, "compile")
    if cached is not None:
        other = differences(asked, cached.directory / PLAN, _sidecar(cached.directory))
        if not other:
            return BuiltEngine(target, cached, True)
        cache.refuse(key, f"{spec.name}/{name} for {target.name}: {'; '.join(other)}")
    if not can_compile(target, machine):
        raise _with_proof(_not_here(target, machine), spec, name, converted, repository, cache)
    with cache.workspace() as made:
        log = log_path(cache, repository, f"{spec.name}/{name}/engine/{target.compute_capability}")
        result = run_compile(request, made, log)
        refuse_other(asked, made / PLAN, _sidecar(made), request.model)
        record = {
            **converted.record,
            "tools": engine_tools(target),
            "served_files": [result.engine_path, result.sidecar_path],
            "engine": _told(result, request.profiles),
            "notes": [*converted.record["notes"], *result.notes],
        }
        what = f"compile {spec.name}/{name} for {target.name}"
        return BuiltEngine(target, cache.put(key, made, record, what), False)


def _asked(request: CompileRequest, target: EngineTarget, converted: Artifact) -> AskedEngine:
    tensors = [tensor_from_dict(t) for kind in ("inputs", "outputs") for t in converted.record[kind]]
    return AskedEngine(
        "tensorrt",
        target.tensorrt,
        target.compute_capability,
        target.platform,
        request.options,
        request.profiles,
        tuple((t.name, t.dtype.config, t.wire_shape) for t in tensors),
    )


def _sidecar(directory: Path) -> Mapping[str, Any]:
    """What lies beside the plan; nothing where it cannot be read, which differs from all that was asked."""
    try:
        told = json_value(read_bounded(directory / f"{PLAN}.json"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _not_here(target: EngineTarget, machine: Machine) -> ToolError:
    """Why the machine cannot compile the engine."""
    if not machine.gpus:
        return ToolError(
            f"the engine for {target.name} is in no cache, and TensorRT compiles on a GPU only, and this machine has none",
            code="gpu_missing",
            seen=machine.why_no_gpu,
            fix=f"{_ELSEWHERE}; or serve a variant with backend onnxruntime",
        )
    if machine.tensorrt is None and machine.gpus_of(target.compute_capability):
        return ToolError(
            f"the engine for {target.name} is in no cache, and TensorRT is not installed",
            code="tensorrt_missing",
            fix=f"pip install '{tensorrt_requirement(target.tensorrt)}'" if target.tensorrt else TENSORRT_FIX,
        )
    return ToolError(
        f"an engine for {target.name} is not compiled on another GPU, by another TensorRT or on another platform",
        code="gpu_other",
        seen=f"{', '.join(f'{g.name} ({g.compute_capability})' for g in machine.gpus)} with TensorRT "
        f"{machine.tensorrt} on {machine.platform}",
        valid=(f"{target.name}, {target.platform}",),
        fix=_ELSEWHERE,
    )


def _with_proof(
    error: ToolError,
    spec: ModelSpec,
    name: str,
    converted: Artifact,
    repository: RepositorySpec,
    cache: Cache,
) -> ToolError:
    """The same error with what TensorRT-RTX could show of the graph on this machine."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        shown = "not proved: TensorRT-RTX is not installed (pip install 'tritonsmith[rtx]')"
    else:
        shown = _proof(spec, name, converted, repository, cache)
    return ToolError(
        f"{error.message}; {shown}", code=error.code, seen=error.seen, valid=error.valid, fix=error.fix
    )


def _proof(spec: ModelSpec, name: str, converted: Artifact, repository: RepositorySpec, cache: Cache) -> str:
    """One phrase; the proof is kept in the cache and never laid out: it is no Triton plan."""
    request = _request(spec, name, converted, repository, cache, "tensorrt_rtx")
    tools = this_toolchain().fingerprint("tensorrt-rtx")
    identity = variant_request(converted.key, request.identity(), tools)
    key = action_key(identity, {})
    artifact = cache.get(key, "proof")
    if artifact is None:
        with cache.workspace() as made:
            result = run_compile(request, made, log_path(cache, repository, f"{spec.name}/{name}/proof"))
            told = {"engine": _told(result, request.profiles)}
            artifact = cache.put(key, made, told, f"prove {spec.name}/{name}")
    engine: Mapping[str, Any] = artifact.record["engine"]
    return f"but TensorRT-RTX {engine['version']} parses and lowers this graph here ({engine['bytes'] / 1e6:.1f} MB)"


def _request(
    spec: ModelSpec,
    name: str,
    converted: Artifact,
    repository: RepositorySpec,
    cache: Cache,
    engine: Any,
    compute_capability: str | None = None,
) -> CompileRequest:
    where = repository.where(spec.name, "variants", name)
    onnx = next(n for n in converted.record["served_files"] if n.endswith(".onnx"))
    return CompileRequest(
        model=f"{spec.name}/{name}",
        engine=engine,
        onnx=str(converted.directory / onnx),
        profiles=engine_profiles(spec, name, converted.record, repository),
        options=engine_options(spec.variants[name], where),
        opset=converted.record["opset"],
        timing_cache_directory=str(Path(cache.root) / "timing"),
        compute_capability=compute_capability,
    )


def _told(result: CompileResult, profiles: tuple[OptimizationProfile, ...]) -> dict[str, Any]:
    return {
        "version": result.version,
        "compute_capability": result.compute_capability,
        "profiles": len(profiles),
        "bytes": result.engine_bytes,
    }
