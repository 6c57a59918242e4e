"""(a variant's graph) → its TensorRT engine where there is a GPU; elsewhere TensorRT-RTX's proof, and an error that says so."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.artifacts import log_path
from builder.cache import Artifact, Cache
from builder.compile import (
    CompileRequest,
    CompileResult,
    OptimizationProfile,
    derive_profiles,
    options_from_dict,
    run_compile,
)
from builder.compile.tensorrt import require_tensorrt
from builder.errors import ToolError
from builder.observe import variant_parameters, variant_request, variant_tools
from builder.plan import action_key
from builder.spec import ModelSpec, RepositorySpec
from builder.tensors import tensor_from_dict
from builder.toolchain import this_toolchain


def engine_artifact(
    spec: ModelSpec, name: str, base: Artifact, converted: Artifact, repository: RepositorySpec, cache: Cache
) -> Artifact:
    """model.plan and its sidecar as an artifact.

    Without a GPU: ToolError gpu_missing, after TensorRT-RTX has shown, where it is installed, that the graph
    parses and lowers; BuildError when it does not.
    """
    try:
        require_tensorrt()
    except ToolError as error:
        if error.code == "gpu_missing":
            raise _with_proof(error, spec, name, converted, repository, cache) from None
        raise
    parameters, tools = variant_parameters(spec, name), variant_tools(spec, name, this_toolchain())
    identity = variant_request(base.key, parameters, tools)
    dependencies: Mapping[str, str] = converted.record["dependencies"]
    with cache.workspace() as made:
        request = _request(spec, name, converted, repository, cache, "tensorrt")
        result = run_compile(request, made, log_path(cache, repository, f"{spec.name}/{name}/engine"))
        key = action_key(identity, dependencies)
        record = {
            **converted.record,
            "tools": tools,
            "served_files": [result.engine_path, result.sidecar_path],
            "engine": _told(result, request.profiles),
            "notes": [*converted.record["notes"], *result.notes],
        }
        artifact = cache.put(key, made, record)
        cache.remember(identity, dependencies, key)
    return artifact


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
    parameters = {
        "proof": 1,
        "options": request.options.as_dict(),
        "profiles": [p.as_dict() for p in request.profiles],
    }
    identity = variant_request(converted.key, parameters, this_toolchain().fingerprint("tensorrt-rtx"))
    key = action_key(identity, {})
    artifact = cache.get(key)
    if artifact is None:
        with cache.workspace() as made:
            result = run_compile(request, made, log_path(cache, repository, f"{spec.name}/{name}/proof"))
            artifact = cache.put(key, made, {"engine": _told(result, request.profiles)})
    engine: Mapping[str, Any] = artifact.record["engine"]
    return f"but TensorRT-RTX {engine['version']} parses and lowers this graph here ({engine['bytes'] / 1e6:.1f} MB)"


def _request(
    spec: ModelSpec, name: str, converted: Artifact, repository: RepositorySpec, cache: Cache, engine: Any
) -> CompileRequest:
    where = repository.where(spec.name, "variants", name)
    batching = spec.config.as_proto_json().get("dynamic_batching", {})
    profiles = derive_profiles(
        [tensor_from_dict(t) for t in converted.record["inputs"]],
        max_batch_size=spec.max_batch_size or 0,
        dynamic_dims={n: (d.min, d.opt or d.max, d.max) for n, d in spec.dynamic_dims.items()},
        preferred_batch_sizes=batching.get("preferred_batch_size", ()),
        model=spec.name,
        where=where,
    )
    onnx = next(n for n in converted.record["served_files"] if n.endswith(".onnx"))
    return CompileRequest(
        model=f"{spec.name}/{name}",
        engine=engine,
        onnx=str(converted.directory / onnx),
        profiles=profiles,
        options=options_from_dict(spec.variants[name].engine, where),
        opset=converted.record["opset"],
        timing_cache_directory=str(Path(cache.root) / "timing"),
    )


def _told(result: CompileResult, profiles: tuple[OptimizationProfile, ...]) -> dict[str, Any]:
    return {
        "version": result.version,
        "compute_capability": result.compute_capability,
        "profiles": len(profiles),
        "bytes": result.engine_bytes,
    }
