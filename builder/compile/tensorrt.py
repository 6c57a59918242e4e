"""CompileRequest → model.plan and its sidecar, by the TensorRT and the GPU of this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.compile.cuda import Gpu, gpus
from builder.compile.failures import BuildLog
from builder.compile.network import build_engine, logger_of
from builder.compile.request import CompileRequest, CompileResult
from builder.compile.sidecar import finished
from builder.compile.timing_cache import TimingCache
from builder.errors import BuildError, ToolError

if TYPE_CHECKING:
    import tensorrt

PLAN = "model.plan"
_STRIPPED = "its weights are stripped: Triton cannot serve it before a refit"
OLDEST = 10
"""The oldest major whose strongly typed networks this code is written for."""


def require_tensorrt() -> Gpu:
    """The GPU to build on; ToolError (gpu_missing, tensorrt_missing) with what to do. Imports nothing heavy."""
    found, reason = gpus()
    if not found:
        raise ToolError(
            "TensorRT compiles on a GPU only, and this machine has none",
            code="gpu_missing",
            seen=reason,
            fix="build on a machine with the target's GPU, or serve this variant with backend onnxruntime; "
            "`tritonsmith build` elsewhere proves with TensorRT-RTX that the graph parses and lowers",
        )
    if importlib.util.find_spec("tensorrt") is None:
        raise ToolError(
            "TensorRT is not installed",
            code="tensorrt_missing",
            fix="pip install 'tritonsmith[tensorrt]' in the version of the target's Triton image, "
            "or run the build inside that image",
        )
    return found[0]


def compile_tensorrt(request: CompileRequest, out_dir: Path, cancelled: Callable[[], bool]) -> CompileResult:
    """Builds out_dir/model.plan; the engine is loaded once, which also tells its memory needs."""
    gpu = require_tensorrt()
    trt = import_tensorrt()
    version = str(trt.__version__)
    log = BuildLog()
    cache = TimingCache(
        None if request.timing_cache_directory is None else Path(request.timing_cache_directory),
        request.engine,
        version,
        f"{gpu.name}-{gpu.compute_capability}",
    )
    path = out_dir / PLAN
    built = build_engine(trt, request, path, log, cancelled, cache)
    return finished(
        request,
        built,
        path,
        version=version,
        compute_capability=gpu.compute_capability,
        gpu=gpu.name,
        device_memory_bytes=_device_memory(trt, path, request, log),
        notes=(_STRIPPED,) if request.options.strip else (),
    )


def import_tensorrt() -> Any:
    """The module; ToolError when it cannot be loaded or is too old."""
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:
        raise ToolError(
            "TensorRT is installed and cannot be loaded",
            code="tensorrt_unusable",
            seen=str(error),
            fix="pip install --force-reinstall 'tritonsmith[tensorrt]'",
        ) from None
    version = str(trt.__version__)
    if int(version.split(".")[0]) < OLDEST:
        raise ToolError(
            "TensorRT is too old for strongly typed networks",
            code="tensorrt_old",
            seen=version,
            valid=(f"{OLDEST} and newer",),
            fix="use the TensorRT of the target's Triton image",
        )
    return trt


def _device_memory(trt: Any, path: Path, request: CompileRequest, log: BuildLog) -> list[int]:
    """Bytes that one execution context needs in each optimization profile."""
    runtime: tensorrt.Runtime = trt.Runtime(logger_of(trt, log))
    # A version-compatible engine brings code along; it is our own, built a moment ago.
    runtime.engine_host_code_allowed = request.options.version_compatible
    engine: tensorrt.ICudaEngine | None = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BuildError(
            f"{request.model}: the engine was built and cannot be loaded here: "
            + (log.errors[-1] if log.errors else "TensorRT says no reason"),
            code="engine_load",
            fix="the log has all that TensorRT said",
        )
    return [
        int(engine.get_device_memory_size_for_profile_v2(index))
        for index in range(engine.num_optimization_profiles)
    ]
