"""Rules about optimization settings and the parameters of the ONNX Runtime and TensorRT backends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonsmith.builder.base.errors import nearest
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule

_ORT = "onnxruntime_backend/src/onnxruntime.cc"
_TRT = "tensorrt_backend/src"

# Parameters of the accelerator `tensorrt` and the kind of their values: ModelState::LoadModel in _ORT.
_TRT_PARAMETERS: dict[str, str] = {
    "precision_mode": "precision",
    "max_workspace_size_bytes": "number",
    "int8_calibration_table_name": "text",
    "int8_use_native_calibration_table": "flag",
    **dict.fromkeys(
        (
            "trt_max_partition_iterations",
            "trt_min_subgraph_size",
            "trt_dla_core",
            "trt_builder_optimization_level",
            "trt_auxiliary_streams",
            "trt_ep_context_embed_mode",
        ),
        "number",
    ),
    **dict.fromkeys(
        (
            "trt_dla_enable",
            "trt_engine_cache_enable",
            "trt_dump_subgraphs",
            "trt_force_sequential_engine_build",
            "trt_context_memory_sharing_enable",
            "trt_layer_norm_fp32_fallback",
            "trt_timing_cache_enable",
            "trt_force_timing_cache",
            "trt_detailed_build_log",
            "trt_build_heuristics_enable",
            "trt_sparsity_enable",
            "trt_cuda_graph_enable",
            "trt_dump_ep_context_model",
        ),
        "flag",
    ),
    **dict.fromkeys(
        (
            "trt_engine_cache_path",
            "trt_engine_cache_prefix",
            "trt_timing_cache_path",
            "trt_tactic_sources",
            "trt_extra_plugin_lib_paths",
            "trt_profile_min_shapes",
            "trt_profile_max_shapes",
            "trt_profile_opt_shapes",
            "trt_ep_context_file_path",
        ),
        "text",
    ),
}
_PRECISIONS = ("FP32", "FP16", "BF16", "INT8")
_CUDA_FLAGS = ("do_copy_in_default_stream", "use_ep_level_unified_stream")
# Of CUDA's options, those that LoadModel sets after the accelerator's.
_SET_AFTERWARDS = (
    "device_id",
    "gpu_mem_limit",
    "cudnn_conv_algo_search",
    "arena_extend_strategy",
    "do_copy_in_default_stream",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "execution_mode": ("0", "1"),
    "arena_extend_strategy": ("0", "1"),
    "cudnn_conv_algo_search": ("0", "1", "2"),
}


def _accelerator(text: str, kind: str = "gpu") -> str:
    return (
        f'backend: "onnxruntime"\noptimization {{ execution_accelerators {{ {kind}_execution_accelerator {{\n'
        f"  {text} }} }} }}"
    )


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


@rule(
    "OPT001",
    "error",
    "load",
    then="the onnxruntime backend refuses the model",
    fix="use an accelerator and a parameter that it knows",
    source=f"{_ORT}:492,705,777,944",
    bad=_accelerator('name: "openvino"'),
    good=_accelerator('name: "tensorrt" parameters { key: "precision_mode" value: "FP16" }'),
)
def unknown_accelerator(model: Model, context: Context) -> Iterator[Hit]:
    """An ONNX model names an execution accelerator, a parameter or a value that the backend does not know."""
    if model.config.backend != "onnxruntime":
        return
    for kind, known in (("gpu", ("tensorrt", "cuda")), ("cpu", ("openvino",))):
        for field, accelerator in _accelerators(model, kind):
            if accelerator.name not in known:
                yield Hit(
                    f"'{accelerator.name}' is no {kind} accelerator here; known: {', '.join(known)}",
                    f"{field}.name",
                    accelerator.name,
                )
                continue
            for key in sorted(accelerator.parameters):
                wrong = _wrong_parameter(accelerator.name, key, accelerator.parameters[key])
                if wrong is not None:
                    yield Hit(wrong, f'{field}.parameters["{key}"]', accelerator.parameters[key])


@rule(
    "OPT002",
    "error",
    "load",
    then="the TensorRT backend refuses the model",
    fix="give each graph a batch size up to max_batch_size and its inputs' dims; lower bounds below them",
    source=f"{_TRT}/instance_state.cc:3807-3856",
    bad='backend: "tensorrt"\nmax_batch_size: 8\n'
    "optimization { cuda { graphs: true graph_spec { batch_size: 16 } } }",
    good='backend: "tensorrt"\nmax_batch_size: 8\n'
    "optimization { cuda { graphs: true graph_spec { batch_size: 8 } } }",
)
def graph_spec(model: Model, context: Context) -> Iterator[Hit]:
    """A CUDA graph_spec's batch size does not fit max_batch_size, or its lower bound is above it."""
    if model.config.backend != "tensorrt":
        return
    limit = model.config.max_batch_size
    for index, spec in enumerate(model.config.optimization.cuda.graph_spec):
        field = f"optimization.cuda.graph_spec[{index}]"
        if (spec.batch_size == 0) != (limit == 0):
            yield Hit(f"batch_size {spec.batch_size}, max_batch_size {limit}", field, spec.batch_size)
        elif spec.batch_size > limit or spec.batch_size < 0:
            yield Hit(
                f"batch_size {spec.batch_size}, max_batch_size {limit}",
                f"{field}.batch_size",
                spec.batch_size,
            )
        yield from _lower_bound(field, spec)
        for name in sorted(spec.input):
            if not len(spec.input[name].dim):
                yield Hit(f"the input '{name}' has no dim", f'{field}.input["{name}"]', "[]")


@rule(
    "OPT003",
    "error",
    "load",
    then="the onnxruntime backend refuses the model",
    fix="use one of the known values",
    source=f"{_ORT}:252,824,858",
    bad='backend: "onnxruntime"\n' + _parameter("execution_mode", "2"),
    good='backend: "onnxruntime"\n' + _parameter("execution_mode", "1"),
)
def onnxruntime_parameters(model: Model, context: Context) -> Iterator[Hit]:
    """A parameter of the onnxruntime backend has a value that it does not know."""
    if model.config.backend != "onnxruntime":
        return
    for key, choices in _CHOICES.items():
        value = _value(model, key)
        if value is not None and value not in choices:
            yield Hit(f"{key} is '{value}', known: {', '.join(choices)}", f'parameters["{key}"]', value)
    for key in ("intra_op_thread_count", "inter_op_thread_count"):
        value = _value(model, key)
        if value is not None and not _is_number(value):
            yield Hit(f"{key} is '{value}', not a number", f'parameters["{key}"]', value)


@rule(
    "OPT004",
    "error",
    "load",
    then="the TensorRT backend refuses the model",
    fix="write STATIC or ON_PROFILE_CHANGE",
    source=f"{_TRT}/model_state.cc:319",
    bad='backend: "tensorrt"\n' + _parameter("execution_context_allocation_strategy", "DYNAMIC"),
    good='backend: "tensorrt"\n' + _parameter("execution_context_allocation_strategy", "ON_PROFILE_CHANGE"),
)
def allocation_strategy(model: Model, context: Context) -> Iterator[Hit]:
    """execution_context_allocation_strategy has a value that the TensorRT backend does not know."""
    key = "execution_context_allocation_strategy"
    value = _value(model, key)
    if (
        model.config.backend == "tensorrt"
        and value is not None
        and value not in ("STATIC", "ON_PROFILE_CHANGE")
    ):
        yield Hit(f"{key} is '{value}'", f'parameters["{key}"]', value)


@rule(
    "OPT005",
    "error",
    "load",
    then="the TensorRT backend refuses the model",
    fix="use KIND_MODEL, an engine with one optimization profile, and a target with enough GPUs",
    source=f"{_TRT}/model_state.cc:392-410; {_TRT}/instance_state.cc:251,427",
    bad='backend: "tensorrt"  # the engine spans two GPUs\ninstance_group { kind: KIND_GPU }',
    good='backend: "tensorrt"  # the engine spans two GPUs\ninstance_group { kind: KIND_MODEL }',
    needs="engine",
)
def several_devices(model: Model, context: Context) -> Iterator[Hit]:
    """An engine that spans several GPUs is not served as KIND_MODEL, has several profiles, or lacks GPUs."""
    for number, engine in model.engines.items():
        if engine.devices < 2:
            continue
        for index, group in enumerate(model.config.instance_group):
            if group.kind != group.KIND_MODEL:
                yield Hit(
                    f"engine {number} spans {engine.devices} GPUs",
                    f"instance_group[{index}].kind",
                    group.kind,
                )
        if len(engine.profiles) > 1:
            yield Hit(f"engine {number} has {len(engine.profiles)} profiles", "backend", len(engine.profiles))
        if context.target.gpus is not None and context.target.gpus < engine.devices:
            yield Hit(f"engine {number} spans {engine.devices} GPUs", "backend", context.target.gpus)


@rule(
    "OPT006",
    "warning",
    "silent",
    then="the server never uses the accelerator",
    fix="use the accelerator of the groups' own kind",
    source="model_config.proto, ExecutionAccelerators",
    bad=_accelerator('name: "tensorrt"') + "\ninstance_group { kind: KIND_CPU }",
    good=_accelerator('name: "tensorrt"') + "\ninstance_group { kind: KIND_GPU }",
)
def accelerator_unused(model: Model, context: Context) -> Iterator[Hit]:
    """A gpu accelerator stands on a model that runs on a CPU alone, or a cpu accelerator on GPU groups."""
    kinds = {group.kind for group in model.config.instance_group}
    if len(kinds) != 1:
        return
    group = model.config.instance_group[0]
    for kind, other in (("gpu", group.KIND_CPU), ("cpu", group.KIND_GPU)):
        for field, accelerator in _accelerators(model, kind) if group.kind == other else ():
            yield Hit(f"'{accelerator.name}' accelerates no group", field, accelerator.name)


@rule(
    "OPT007",
    "warning",
    "silent",
    then="the backend sets the option after it, from the config's parameters or to its own default, and drops the value",
    fix="write it under parameters, as a string_value; a GPU is chosen by instance_group's gpus",
    source=f"{_ORT}: LoadModel, 'Parse CUDA EP configurations directly from the parameters field'",
    bad=_accelerator('name: "cuda" parameters { key: "gpu_mem_limit" value: "4294967296" }'),
    good='backend: "onnxruntime"\n' + _parameter("gpu_mem_limit", "4294967296"),
)
def cuda_option_dropped(model: Model, context: Context) -> Iterator[Hit]:
    """The accelerator cuda states an option that the onnxruntime backend reads elsewhere."""
    if model.config.backend != "onnxruntime":
        return
    for field, accelerator in _accelerators(model, "gpu"):
        for key in sorted(accelerator.parameters) if accelerator.name == "cuda" else ():
            if key in _SET_AFTERWARDS:
                value = accelerator.parameters[key]
                yield Hit(f"{key} is read from parameters alone", f'{field}.parameters["{key}"]', value)


def _accelerators(model: Model, kind: str) -> Iterator[tuple[str, Any]]:
    name = f"{kind}_execution_accelerator"
    for index, accelerator in enumerate(getattr(model.config.optimization.execution_accelerators, name)):
        yield f"optimization.execution_accelerators.{name}[{index}]", accelerator


def _wrong_parameter(accelerator: str, key: str, value: str) -> str | None:
    kind = "text"
    if accelerator == "tensorrt":
        if key not in _TRT_PARAMETERS:
            close = nearest(key, _TRT_PARAMETERS)
            return f"the accelerator has no parameter '{key}'" + (
                f"; did you mean '{close}'?" if close else ""
            )
        kind = _TRT_PARAMETERS[key]
    elif accelerator == "cuda" and key in _CUDA_FLAGS:
        kind = "flag"
    if kind == "precision" and value not in _PRECISIONS:
        return f"{key} is '{value}', known: {', '.join(_PRECISIONS)}"
    if kind == "number" and not _is_number(value):
        return f"{key} is '{value}', not a number"
    if kind == "flag" and value.lower() not in ("true", "false", "1", "0"):
        return f"{key} is '{value}', neither true nor false"
    return None


def _is_number(value: str) -> bool:
    digits = value[1:] if value[:1] in "+-" and value else value
    return digits.isascii() and digits.isdigit()


def _lower_bound(field: str, spec: Any) -> Iterator[Hit]:
    if not spec.HasField("graph_lower_bound"):
        return
    bound = spec.graph_lower_bound
    if bound.batch_size > spec.batch_size:
        yield Hit("the lower bound is above the graph", f"{field}.graph_lower_bound", bound.batch_size)
    for name in sorted(bound.input):
        low, high = list(bound.input[name].dim), list(spec.input[name].dim) if name in spec.input else []
        if len(low) != len(high) or any(a > b for a, b in zip(low, high, strict=True)):
            yield Hit(f"the lower bound of '{name}' is no bound", f"{field}.graph_lower_bound", low)


def _value(model: Model, key: str) -> str | None:
    return model.config.parameters[key].string_value if key in model.config.parameters else None
