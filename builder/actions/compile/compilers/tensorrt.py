"""CompileRequest → model.plan and its sidecar, by the TensorRT and the GPU of this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.compile.compilers.failures import BuildLog
from tritonsmith.builder.actions.compile.compilers.network import build_engine, import_compiler, logger_of
from tritonsmith.builder.actions.compile.compilers.timing_cache import TimingCache
from tritonsmith.builder.actions.compile.request import CompileRequest, CompileResult
from tritonsmith.builder.actions.compile.sidecar import finished, triton_type
from tritonsmith.builder.base.errors import BuildError, ToolError
from tritonsmith.builder.base.machine.cuda import Gpu, gpus

if TYPE_CHECKING:
    import tensorrt

PLAN = "model.plan"
_STRIPPED = "its weights are stripped: Triton cannot serve it before a refit"
TENSORRT_FIX = (
    "pip install 'tritonsmith[tensorrt]' in the version of the target's Triton image, "
    "or run the build inside that image"
)
OLDEST = 10
"""The oldest major whose strongly typed networks this code is written for."""


def require_tensorrt(compute_capability: str | None = None) -> tuple[Gpu, ...]:
    """The GPUs of that compute capability that an engine can be built on, any without one; ToolError (gpu_missing,
    gpu_other, tensorrt_missing) with what to do. Imports nothing heavy."""
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
            fix=TENSORRT_FIX,
        )
    fitting = tuple(gpu for gpu in found if compute_capability in (None, gpu.compute_capability))
    if not fitting:
        raise ToolError(
            f"an engine for compute capability {compute_capability} is built on such a GPU only",
            code="gpu_other",
            seen=", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in found),
            valid=(compute_capability,),
            fix="build it on a machine with that GPU",
        )
    return fitting


def compile_tensorrt(request: CompileRequest, out_dir: Path, cancelled: Callable[[], bool]) -> CompileResult:
    """Builds out_dir/model.plan on the first GPU that CUDA shows, and loads it once: what the sidecar says of it is read
    back from the engine."""
    gpu = _current_gpu(request)
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
        read_back=_read_back(trt, path, request, log),
        notes=(_STRIPPED,) if request.options.strip else (),
    )


def _current_gpu(request: CompileRequest) -> Gpu:
    """The builder works on CUDA's current device, which is the first that the environment shows."""
    first = require_tensorrt()[0]
    if request.compute_capability not in (None, first.compute_capability):
        raise ToolError(
            f"the engine is for compute capability {request.compute_capability}, and CUDA's first GPU here is another",
            code="gpu_other",
            seen=f"{first.name} ({first.compute_capability})",
            valid=(request.compute_capability,),
            fix="set CUDA_VISIBLE_DEVICES to the GPU of that kind",
        )
    return first


def import_tensorrt() -> Any:
    """The module; ToolError when it cannot be loaded or is too old."""
    trt = import_compiler("tensorrt", "TensorRT", "tensorrt")
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


def _read_back(trt: Any, path: Path, request: CompileRequest, log: BuildLog) -> dict[str, Any]:
    """engine_rows of the plan; BuildError engine_load when it cannot be loaded where it was built."""
    logger = logger_of(trt, log)
    trt.init_libnvinfer_plugins(logger, "")
    runtime: tensorrt.Runtime = trt.Runtime(logger)
    # A version-compatible engine brings code along; it is our own, built a moment ago.
    runtime.engine_host_code_allowed = request.options.version_compatible
    engine: tensorrt.ICudaEngine | None = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BuildError(
            f"{request.model}: the engine was built and cannot be loaded here: "
            + (log.errors[-1] if log.errors else "TensorRT gives no reason"),
            code="engine_load",
            fix="the log has all that TensorRT said",
        )
    return engine_rows(trt, engine)


def engine_rows(trt: Any, engine: tensorrt.ICudaEngine) -> dict[str, Any]:
    """What an engine tells of itself, in the sidecar's words."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    numbers = range(engine.num_optimization_profiles)
    return {
        "tensors": [_tensor(trt, engine, name) for name in names],
        "profiles": [_profile(trt, engine, names, number) for number in numbers],
        "hardware_compatibility": engine.hardware_compatibility_level.name.lower(),
        "device_memory_bytes": [int(engine.get_device_memory_size_for_profile_v2(n)) for n in numbers],
    }


def _tensor(trt: Any, engine: tensorrt.ICudaEngine, name: str) -> dict[str, Any]:
    numbers = range(engine.num_optimization_profiles)
    formats = [engine.get_tensor_format(name, number) for number in numbers]
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    return {
        "name": name,
        "mode": "input" if is_input else "output",
        "data_type": triton_type(engine.get_tensor_dtype(name).name),
        "shape": _sizes(engine.get_tensor_shape(name)),
        "is_shape_tensor": bool(engine.is_shape_inference_io(name)),
        "non_linear": any(found != trt.TensorFormat.LINEAR for found in formats),
    }


def _profile(
    trt: Any, engine: tensorrt.ICudaEngine, names: Sequence[str], number: int
) -> dict[str, dict[str, list[int]]]:
    """Sizes of the dynamic inputs; a shape tensor's are its values."""
    profile: dict[str, dict[str, list[int]]] = {}
    for name in names:
        if engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT:
            continue
        if engine.is_shape_inference_io(name) and engine.get_tensor_location(name) == trt.TensorLocation.HOST:
            values: Any = engine.get_tensor_profile_values(number, name)
            profile[name] = dict(zip(("min", "opt", "max"), map(list, values), strict=True))
        elif -1 in _sizes(engine.get_tensor_shape(name)):
            shapes: Any = engine.get_tensor_profile_shape(name, number)
            profile[name] = dict(zip(("min", "opt", "max"), map(_sizes, shapes), strict=True))
    return profile


def _sizes(shape: tensorrt.Dims) -> list[int]:
    return [int(shape[axis]) for axis in range(len(shape))]
