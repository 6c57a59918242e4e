"""What a build knew about an engine → `model.plan.json` beside it, and back; the plan itself hides all of this.

    {"format": 1, "engine": "tensorrt", "tensorrt": "10.16.0.72", "compute_capability": "9.0", "gpu": "…",
     "platform": "linux_x86_64", "version_compatible": false,
     "hardware_compatibility": "none", "stripped": false, "plugins": [], "devices": 1,
     "tensors": [{"name": "x", "mode": "input", "data_type": "TYPE_FP32", "shape": [-1, 4],
                  "is_shape_tensor": false, "non_linear": false}],
     "profiles": [{"x": {"min": [1, 4], "opt": [8, 4], "max": [32, 4]}}],
     "engine_bytes": 123, "device_memory_bytes": [4096], "options": {…}}

What the engine itself tells is read back from it where it can be loaded (TensorRT, on its GPU).

builder.lint.read.engine reads the same names. device_memory_bytes has one number an optimization profile, what one
execution context needs there beside the engine; empty when it was not measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.compile.identity import AskedEngine, refuse_other
from tritonsmith.builder.actions.compile.request import CompileRequest, CompileResult, SerialisedEngine
from tritonsmith.builder.base.files.disk import write_atomically
from tritonsmith.builder.base.machine.toolchain import this_platform
from tritonsmith.builder.base.tensors import DTYPES

FORMAT = 1
_CONFIG_BY_TENSORRT = {d.tensorrt: d.config for d in DTYPES if d.tensorrt is not None}


def triton_type(tensorrt_name: str) -> str:
    """`FLOAT` → `TYPE_FP32`; a type that Triton cannot carry (FP8) keeps TensorRT's own name."""
    return _CONFIG_BY_TENSORRT.get(tensorrt_name, tensorrt_name)


def sidecar(
    request: CompileRequest,
    *,
    version: str,
    compute_capability: str | None,
    gpu: str | None,
    tensors: Sequence[Mapping[str, Any]],
    engine_bytes: int,
    platform: str | None = None,
    read_back: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The sidecar's content; read_back: what the engine said of itself, in place of what was asked."""
    options = request.options
    return {
        "format": FORMAT,
        "engine": request.engine,
        request.engine: version,
        "compute_capability": compute_capability,
        "gpu": gpu,
        "platform": platform,
        "version_compatible": options.version_compatible,
        "hardware_compatibility": options.hardware_compatibility,
        "stripped": options.strip,
        "plugins": [],
        "devices": 1,
        "tensors": [dict(tensor) for tensor in tensors],
        "profiles": [profile.as_dict() for profile in request.profiles],
        "engine_bytes": engine_bytes,
        "device_memory_bytes": [],
        "options": options.as_dict(),
        **(read_back or {}),
    }


def write_sidecar(path: Path, content: Mapping[str, Any]) -> None:
    """Writes it, whole or not at all."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def finished(
    request: CompileRequest,
    built: SerialisedEngine,
    path: Path,
    *,
    version: str,
    compute_capability: str | None,
    gpu: str | None = None,
    read_back: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> CompileResult:
    """Writes the sidecar beside the engine at `path`; what the build came to. BuildError engine_other when the engine is
    not the one that was asked for."""
    content = sidecar(
        request,
        version=version,
        compute_capability=compute_capability,
        gpu=gpu,
        tensors=built.tensors,
        engine_bytes=built.engine_bytes,
        platform=this_platform(),
        read_back=read_back,
    )
    asked = AskedEngine(
        request.engine,
        version,
        request.compute_capability,
        None,
        request.options,
        request.profiles,
    )
    refuse_other(asked, path, content, request.model)
    beside = path.with_name(f"{path.name}.json")
    write_sidecar(beside, content)
    return CompileResult(
        engine=request.engine,
        engine_path=path.name,
        sidecar_path=beside.name,
        engine_bytes=built.engine_bytes,
        version=version,
        compute_capability=compute_capability,
        parse_seconds=built.parse_seconds,
        build_seconds=built.build_seconds,
        timing_cache=built.timing_cache,
        notes=notes,
    )
