"""(a TensorRT module, ONNX, profiles, options) → a serialised engine: one code for TensorRT 10, 11 and RTX.

The module is an argument: `import_compiler` alone imports one. Only names that TensorRT 10, 11 and RTX all have
are used; precision is the graph's (the network is strongly typed), never a builder flag.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.compile.compilers.failures import BuildLog, build_failed, parse_failed
from tritonsmith.builder.actions.compile.compilers.timing_cache import TimingCache
from tritonsmith.builder.actions.compile.profiles import OptimizationProfile
from tritonsmith.builder.actions.compile.request import CompileOptions, CompileRequest, SerialisedEngine
from tritonsmith.builder.actions.compile.sidecar import triton_type
from tritonsmith.builder.base.errors import BuildError, SpecError, ToolError

if TYPE_CHECKING:
    import tensorrt


def import_compiler(module: str, name: str, extra: str) -> Any:
    """The compiler's module; ToolError MODULE_unusable when it cannot be loaded."""
    try:
        return import_module(module)
    except (ImportError, OSError) as error:
        raise ToolError(
            f"{name} is installed and cannot be loaded",
            code=f"{module}_unusable",
            seen=str(error),
            fix=f"pip install --force-reinstall 'tritonsmith[{extra}]'",
        ) from None


def logger_of(trt: Any, log: BuildLog) -> tensorrt.ILogger:
    """An ILogger that writes to the log."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            log.write(severity.name, message)

    logger: tensorrt.ILogger = Logger()
    return logger


def build_engine(
    trt: Any,
    request: CompileRequest,
    engine_path: Path,
    log: BuildLog,
    cancelled: Callable[[], bool],
    cache: TimingCache,
) -> SerialisedEngine:
    """Parses, checks and builds; the engine is written to engine_path.

    Raises BuildError (engine_parse, engine_empty, engine_workspace, engine_build, compile_cancelled), SpecError
    for profiles that do not fit the network, ToolError when the builder cannot start here.
    """
    logger = logger_of(trt, log)
    started = time.monotonic()
    # As Triton's backend does at its start (tensorrt_backend, src/tensorrt.cc): without it the parser knows none of
    # TensorRT's own plugins. TensorRT-RTX has none.
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")
    builder = _builder(trt, logger, log)
    network: tensorrt.INetworkDefinition = builder.create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    _parse(trt, network, logger, request)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    _check_network(network, inputs, request)
    parsed = time.monotonic()
    config: tensorrt.IBuilderConfig = builder.create_builder_config()
    set_options(trt, config, request.options)
    if request.compute_capability is not None:
        _set_compute_capability(trt, config, request.compute_capability)
    for number, profile in enumerate(request.profiles):
        _add_profile(builder, config, profile, inputs, number, request, log)
    cache.attach(config)
    config.progress_monitor = _monitor(trt, log, cancelled)
    plan: tensorrt.IHostMemory | None = builder.build_serialized_network(network, config)
    if cancelled():
        raise BuildError(f"{request.model}: the build was cancelled", code="compile_cancelled")
    if plan is None:
        raise build_failed(request, log, network)
    with engine_path.open("wb") as file:
        engine_bytes = file.write(plan)
    cache.keep(config)
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    tensors = [_tensor(t, "input") for t in inputs] + [_tensor(t, "output") for t in outputs]
    return SerialisedEngine(
        engine_bytes, tuple(tensors), parsed - started, time.monotonic() - parsed, cache.outcome
    )


def _builder(trt: Any, logger: tensorrt.ILogger, log: BuildLog) -> tensorrt.Builder:
    try:
        builder: tensorrt.Builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # pybind11 says TypeError when the factory returns nothing
        raise ToolError(
            "TensorRT's builder does not start on this machine",
            code="tensorrt_unusable",
            seen=log.errors[0] if log.errors else str(error),
            fix="compile on a machine with the target's GPU and a driver that fits this TensorRT",
        ) from None
    return builder


def _parse(
    trt: Any, network: tensorrt.INetworkDefinition, logger: tensorrt.ILogger, request: CompileRequest
) -> None:
    path = Path(request.onnx)
    # Empty bytes parse without an error; what is missing then shows only as a network without outputs.
    if not path.is_file() or path.stat().st_size == 0:
        raise BuildError(
            f"{request.model}: the ONNX file is {'empty' if path.is_file() else 'not there'}",
            code="engine_empty",
            fix="export the model again",
        )
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise parse_failed([parser.get_error(index) for index in range(parser.num_errors)], request)


def _check_network(
    network: tensorrt.INetworkDefinition, inputs: Sequence[tensorrt.ITensor], request: CompileRequest
) -> None:
    """What TensorRT says nothing about, or only at the end of the build."""
    if network.num_layers == 0 or network.num_outputs == 0:
        raise BuildError(
            f"{request.model}: the ONNX model has no {'nodes' if network.num_outputs else 'outputs'}",
            code="engine_empty",
            fix="export the model again",
        )
    names = {tensor.name for tensor in inputs}
    dynamic = {tensor.name for tensor in inputs if -1 in _shape(tensor)}
    for number, profile in enumerate(request.profiles):
        unknown = sorted(set(profile.shapes) - names)
        missing = sorted(dynamic - set(profile.shapes))
        if unknown or missing:
            what = "names an input that the graph does not have" if unknown else "lacks a dynamic input"
            raise SpecError(
                f"{request.model}: optimization profile {number} {what}: {', '.join(unknown or missing)}",
                code="profile_unknown_input" if unknown else "profile_missing_input",
                seen=", ".join(profile.shapes),
                valid=sorted(names),
            )
    if dynamic and not request.profiles:
        raise SpecError(
            f"{request.model}: dynamic inputs and no optimization profile: {', '.join(sorted(dynamic))}",
            code="profile_missing_input",
            fix="give dynamic_dims in the spec",
        )


def set_options(trt: Any, config: tensorrt.IBuilderConfig, options: CompileOptions) -> None:
    """Hands the options to the builder. SpecError for a hardware compatibility level that this TensorRT has not."""
    flags = (
        (options.version_compatible, trt.BuilderFlag.VERSION_COMPATIBLE),
        (options.exclude_lean_runtime, trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME),
        (options.refit, trt.BuilderFlag.REFIT),
        (options.strip, trt.BuilderFlag.STRIP_PLAN),
        (options.sparsity, trt.BuilderFlag.SPARSE_WEIGHTS),
        (options.weight_streaming, trt.BuilderFlag.WEIGHT_STREAMING),
    )
    for wanted, flag in flags:
        if wanted:
            config.set_flag(flag)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.builder_optimization_level is not None:
        config.builder_optimization_level = options.builder_optimization_level
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
    if options.hardware_compatibility != "none":
        # By name: TensorRT 10.4 lacks the last of them.
        levels = trt.HardwareCompatibilityLevel.__members__
        level = levels.get(options.hardware_compatibility.upper())
        if level is None:
            raise SpecError(
                f"this TensorRT has no hardware compatibility level {options.hardware_compatibility!r}",
                code="hardware_compatibility",
                seen=options.hardware_compatibility,
                valid=[name.lower() for name in levels],
            )
        config.hardware_compatibility_level = level


def _set_compute_capability(trt: Any, config: Any, compute_capability: str) -> None:
    """TensorRT-RTX only: compile for GPUs that are not here."""
    known = {
        f"{name[2:-1]}.{name[-1]}": member
        for name, member in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    if compute_capability not in known:
        raise SpecError(
            f"TensorRT-RTX does not compile for compute capability {compute_capability}",
            code="compute_capability",
            seen=compute_capability,
            valid=sorted(known),
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[compute_capability], 0)


def _add_profile(
    builder: tensorrt.Builder,
    config: tensorrt.IBuilderConfig,
    given: OptimizationProfile,
    inputs: Sequence[tensorrt.ITensor],
    number: int,
    request: CompileRequest,
    log: BuildLog,
) -> None:
    profile: tensorrt.IOptimizationProfile = builder.create_optimization_profile()
    shape_tensors = {tensor.name for tensor in inputs if tensor.is_shape_tensor}
    try:
        for name, shape in given.shapes.items():
            if name in shape_tensors:
                profile.set_shape_input(name, list(shape.min), list(shape.opt), list(shape.max))
            else:
                # Any sequence of int serves as Dims; the stubs name only the class.
                sizes: Any = (shape.min, shape.opt, shape.max)
                profile.set_shape(name, *sizes)
        refused = config.add_optimization_profile(profile) < 0
    except ValueError as error:
        log.write("ERROR", str(error))
        refused = True
    if refused:
        raise SpecError(
            f"{request.model}: TensorRT refuses optimization profile {number}: "
            + (log.errors[-1] if log.errors else "it gives no reason"),
            code="profile_refused",
            seen=given.as_dict(),
        )


def _monitor(trt: Any, log: BuildLog, cancelled: Callable[[], bool]) -> tensorrt.IProgressMonitor:
    steps: dict[str, int] = {}

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                steps[phase_name] = num_steps
                log.write("PROGRESS", f"{phase_name}: {num_steps} steps")

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in steps:
                log.write("PROGRESS", f"{phase_name}: {step + 1} of {steps[phase_name]}")
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            pass

    monitor: tensorrt.IProgressMonitor = Monitor()
    return monitor


def _tensor(tensor: tensorrt.ITensor, mode: str) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "mode": mode,
        "data_type": triton_type(tensor.dtype.name),
        "shape": _shape(tensor),
        "is_shape_tensor": bool(tensor.is_shape_tensor),
        "non_linear": False,
    }


def _shape(tensor: tensorrt.ITensor) -> list[int]:
    shape: tensorrt.Dims = tensor.shape
    return [int(shape[axis]) for axis in range(len(shape))]
