"""Rules that compare a config with its model file: ONNX graph, engine sidecar, TorchScript's names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tritonsmith.builder.base.errors import did_you_mean
from tritonsmith.builder.lint.read.edits import Edit
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.read.onnx_io import OnnxTensor
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import full_dims, model_dims, onnx_type, same_dims, type_name

_ORT = "onnxruntime_backend/src/onnxruntime.cc"
_TRT = "tensorrt_backend/src/instance_state.cc"


@rule(
    "IO013",
    "error",
    "load",
    then="the backend refuses the model",
    fix="use the model file's own names, and declare each of its inputs",
    source=f"{_ORT}:1663; {_TRT}:2247",
    bad='backend: "onnxruntime"\ninput { name: "images" … }  # the graph\'s input is x',
    good='backend: "onnxruntime"\ninput { name: "x" … }',
    needs="onnx",
)
def tensor_not_in_model(model: Model, context: Context) -> Iterator[Hit]:
    """A declared tensor is not in the model file, or one of the file's inputs is not declared."""
    for number, surface in model.onnx_models:
        inputs = [t.name for t in (*surface.inputs, *surface.overridable)]
        for kind, names in (("input", inputs), ("output", [t.name for t in surface.outputs])):
            for index, tensor in enumerate(getattr(model.config, kind)):
                if tensor.name and tensor.name not in names:
                    yield _unknown(
                        f"{kind}[{index}].name", kind, tensor.name, names, f"the graph of {number}"
                    )
        given = _given_inputs(model)
        for tensor in surface.inputs:
            if tensor.name not in given:
                yield Hit(
                    f"the graph of version {number} has an input '{tensor.name}' that is not declared",
                    "input",
                    ", ".join(sorted(given)),
                    fix=f"declare '{tensor.name}'",
                )
    for number, engine in model.engines.items():
        for kind in ("input", "output"):
            names = [name for name, info in engine.tensors.items() if info.get("mode") == kind]
            for index, tensor in enumerate(getattr(model.config, kind)):
                if names and tensor.name not in names:
                    yield _unknown(f"{kind}[{index}].name", kind, tensor.name, names, f"engine {number}")


@rule(
    "IO014",
    "error",
    "load",
    then="the backend refuses the model",
    fix="write the model file's own type",
    source=f"{_ORT}:1718,1825; {_TRT}:3057",
    bad='backend: "onnxruntime"\ninput { name: "x" data_type: TYPE_INT64 … }  # the graph\'s is float',
    good='backend: "onnxruntime"\ninput { name: "x" data_type: TYPE_FP32 … }',
    needs="onnx",
)
def type_differs(model: Model, context: Context) -> Iterator[Hit]:
    """data_type differs from the model file's."""
    for field, tensor, found, number in _pairs(model):
        config, graph = type_name(tensor.data_type), onnx_type(found)
        if tensor.data_type and graph is not None and config != graph:
            yield Hit(
                f"'{tensor.name}' is {config} in the config and {graph} in version {number}",
                f"{field}.data_type",
                config,
                fix=f"write {graph}",
            )
    for field, tensor, info, number in _engine_pairs(model):
        config, graph = type_name(tensor.data_type), info.get("data_type")
        if tensor.data_type and graph and config != graph:
            yield Hit(
                f"'{tensor.name}' is {config} in the config and {graph} in engine {number}",
                f"{field}.data_type",
                config,
                fix=f"write {graph}",
            )


def _without_batch_dimension(model: Model, hit: Hit) -> Iterator[Edit]:
    """The graph has as many dimensions as are declared, and the first of both is the batch's."""
    size, parsed = model.written.max_batch_size, model.parsed
    if size <= 0 or parsed is None:
        return
    for field, tensor, found, _ in _pairs(model):
        shape, dims = found.wire_shape or (), list(tensor.dims)
        place = parsed.values.get(f"{field}.dims[0]")
        if (
            f"{field}.dims" != hit.field
            or place is None
            or tensor.HasField("reshape")
            or len(dims) < 2
            or shape[:1] != (-1,)
            or dims[0] not in (-1, size)
            or not same_dims(dims, shape)
        ):
            continue
        if parsed.places[f"{field}.dims[0]"].start < place.start:  # dims: -1 dims: 4
            place = replace(place, start=parsed.places[f"{field}.dims[0]"].start)
        behind = _BEHIND_ELEMENT.match(parsed.text, place.end)
        yield Edit(replace(place, end=behind.end() if behind else place.end), "")
        return


_BEHIND_ELEMENT = re.compile(r"[ \t]*[,;]?[ \t]*")


@rule(
    "IO015",
    "error",
    "load",
    then="the backend refuses the model",
    fix="write the model file's dims, without the batch dimension when max_batch_size is above 0",
    source="onnxruntime_backend/src/onnxruntime_utils.cc:524,547; tensorrt_backend/src/tensorrt_utils.cc:226",
    bad='backend: "onnxruntime"\nmax_batch_size: 8\n'
    'input { name: "x" dims: [ -1, 4 ] … }  # the graph has [batch, 4]',
    good='backend: "onnxruntime"\nmax_batch_size: 8\ninput { name: "x" dims: [ 4 ] … }',
    needs="onnx",
    repair=_without_batch_dimension,
)
def shape_differs(model: Model, context: Context) -> Iterator[Hit]:
    """The rank or a fixed dim of the config differs from the model file's."""
    size = model.config.max_batch_size
    scattered = {name for batch_output in model.config.batch_output for name in batch_output.target_name}
    for field, tensor, found, number in _pairs(model):
        shape = found.wire_shape
        is_output = field.startswith("output")
        if shape is None or not len(tensor.dims) or tensor.name in scattered:
            continue
        if not is_output and tensor.allow_ragged_batch:
            continue
        if shape and size > 0 and shape[0] != -1:
            continue  # BATCH013 speaks of it
        of_session = any(n == number and surface.of_session for n, surface in model.onnx_models)
        yield from _shape_hit(field, tensor, shape, size, number, is_output, of_session)
    for field, tensor, info, number in _engine_pairs(model):
        shape = tuple(info.get("shape", ()))
        if shape and not info.get("is_shape_tensor") and not same_dims(full_dims(tensor, size), shape):
            yield Hit(
                f"'{tensor.name}' is {full_dims(tensor, size)} here, {list(shape)} in engine {number}",
                f"{field}.dims",
                list(tensor.dims),
            )


def _shape_hit(
    field: str,
    tensor: Any,
    shape: tuple[int, ...],
    size: int,
    number: int,
    is_output: bool,
    of_session: bool,
) -> Iterator[Hit]:
    if not shape:
        if any(dim != 1 for dim in model_dims(tensor)):
            yield Hit(
                f"'{tensor.name}' is a scalar in version {number}",
                f"{field}.dims",
                list(tensor.dims),
                fix="dims: [ 1 ]",
            )
        return
    meant = full_dims(tensor, size)
    same_rank = len(meant) == len(shape)
    if same_rank and all(have in (-1, want) for want, have in zip(meant, shape, strict=True)):
        # The backend compares an output exactly; but ONNX Runtime may infer a size that the file leaves open.
        open_dims = [i for i, (want, have) in enumerate(zip(meant, shape, strict=True)) if want != have]
        if not (is_output and open_dims):
            return
        if of_session:
            yield _dims_hit(field, tensor, meant, shape, size, f"{number}, as ONNX Runtime loads it")
            return
        yield Hit(
            f"'{tensor.name}' is {meant} by the config and {list(shape)} in version {number}: "
            "an output's dims must be equal, unless ONNX Runtime infers the open ones",
            f"{field}.dims",
            list(tensor.dims),
            severity="warning",
        )
        return
    yield _dims_hit(field, tensor, meant, shape, size, str(number))


def _dims_hit(
    field: str, tensor: Any, meant: list[int], shape: tuple[int, ...], size: int, version: str
) -> Hit:
    return Hit(
        f"'{tensor.name}' is {meant} by the config"
        + (" (batch dimension in front)" if size > 0 else "")
        + f" and {list(shape)} in version {version}",
        f"{field}.dims",
        list(tensor.dims),
        fix=f"write dims: {list(shape[1:] if size > 0 else shape)}",
    )


@rule(
    "IO016",
    "error",
    "load",
    then="the onnxruntime backend refuses the model",
    fix="drop optional, or write max_batch_size: 0",
    source=f"{_ORT}:1695",
    bad='backend: "onnxruntime"\nmax_batch_size: 8\n'
    'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] optional: true }',
    good='backend: "onnxruntime"\nmax_batch_size: 8\ninput { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }',
)
def optional_in_batching_model(model: Model, context: Context) -> Iterator[Hit]:
    """An input of a batching ONNX model is optional."""
    if model.config.backend != "onnxruntime" or model.config.max_batch_size <= 0:
        return
    for index, tensor in enumerate(model.config.input):
        if tensor.optional:
            yield Hit(f"'{tensor.name}' is optional and the model batches", f"input[{index}].optional", True)


@rule(
    "IO017",
    "error",
    "load",
    then="the onnxruntime backend refuses the model",
    fix="export the input with shape [-1], or drop allow_ragged_batch",
    source=f"{_ORT}:1744,1756",
    bad='backend: "onnxruntime"\nmax_batch_size: 8\n'
    'input { name: "x" dims: [ 4 ] allow_ragged_batch: true … }  # the graph\'s is [batch, 4]',
    good='backend: "onnxruntime"\nmax_batch_size: 8\ninput { name: "x" dims: [ 4 ] … }',
    needs="onnx",
)
def ragged_shape(model: Model, context: Context) -> Iterator[Hit]:
    """A ragged input's shape in the ONNX graph is not [-1], or the input is optional too."""
    if model.config.backend != "onnxruntime":
        return
    for index, tensor in enumerate(model.config.input):
        if tensor.allow_ragged_batch and tensor.optional:
            yield Hit(f"'{tensor.name}' is ragged and optional", f"input[{index}].optional", True)
    for field, tensor, found, number in _pairs(model):
        if field.startswith("input") and tensor.allow_ragged_batch and found.wire_shape not in (None, (-1,)):
            yield Hit(
                f"'{tensor.name}' is ragged, and {list(found.shape or ())} in version {number}",
                f"{field}.allow_ragged_batch",
                list(found.shape or ()),
            )


@rule(
    "IO018",
    "error",
    "load",
    then="the TensorRT backend refuses the model",
    fix="set is_shape_tensor as the engine has it",
    source=f"{_TRT}:2315,2327,3461",
    bad='backend: "tensorrt"\n'
    'input { name: "s" data_type: TYPE_INT32 dims: [ 2 ] }  # a shape tensor of the engine',
    good='backend: "tensorrt"\ninput { name: "s" data_type: TYPE_INT32 dims: [ 2 ] is_shape_tensor: true }',
    needs="engine",
)
def shape_tensor_differs(model: Model, context: Context) -> Iterator[Hit]:
    """is_shape_tensor differs from the engine's, or the shape tensor is neither INT32 nor INT64."""
    for field, tensor, info, number in _engine_pairs(model):
        is_shape = bool(info.get("is_shape_tensor", False))
        if is_shape != tensor.is_shape_tensor:
            yield Hit(
                f"'{tensor.name}' is {'a' if is_shape else 'no'} shape tensor in engine {number}",
                f"{field}.is_shape_tensor",
                tensor.is_shape_tensor,
            )
        elif tensor.is_shape_tensor and type_name(tensor.data_type) not in ("TYPE_INT32", "TYPE_INT64"):
            yield Hit(
                f"the shape tensor '{tensor.name}' is no integer", f"{field}.data_type", tensor.data_type
            )


@rule(
    "IO019",
    "error",
    "load",
    then="the TensorRT backend refuses the model",
    fix="set is_non_linear_format_io as the engine has it",
    source=f"{_TRT}:2343,2355",
    bad='backend: "tensorrt"\ninput { name: "x" … is_non_linear_format_io: true }  # linear in the engine',
    good='backend: "tensorrt"\ninput { name: "x" … }',
    needs="engine",
)
def non_linear_differs(model: Model, context: Context) -> Iterator[Hit]:
    """is_non_linear_format_io differs from the engine's."""
    for field, tensor, info, number in _engine_pairs(model):
        if "non_linear" in info and bool(info["non_linear"]) != tensor.is_non_linear_format_io:
            yield Hit(
                f"'{tensor.name}' is {'non-linear' if info['non_linear'] else 'linear'} in engine {number}",
                f"{field}.is_non_linear_format_io",
                tensor.is_non_linear_format_io,
            )


@rule(
    "IO020",
    "error",
    "load",
    then="the pytorch backend refuses the model, or binds tensors by their order in the config",
    fix="name outputs NAME__INDEX, and inputs by forward's arguments or all of them NAME__INDEX",
    source="server/docs/user_guide/model_configuration.md:105-129",
    bad='backend: "pytorch"\noutput { name: "scores" data_type: TYPE_FP32 dims: [ 4 ] }',
    good='backend: "pytorch"\noutput { name: "scores__0" data_type: TYPE_FP32 dims: [ 4 ] }',
)
def torchscript_names(model: Model, context: Context) -> Iterator[Hit]:
    """A TorchScript model's tensors are not named by its naming convention."""
    if model.config.backend != "pytorch" or model.config.platform == "torch_aoti":
        return
    for index, tensor in enumerate(model.config.output):
        if tensor.name and not _INDEXED.search(tensor.name):
            yield Hit(f"the output '{tensor.name}' carries no __INDEX", f"output[{index}].name", tensor.name)
    indexed = [bool(_INDEXED.search(tensor.name)) for tensor in model.config.input]
    if any(indexed) and not all(indexed):
        yield Hit(
            "some inputs are named NAME__INDEX and others are not: all are bound by their order",
            f"input[{indexed.index(False)}].name",
            model.config.input[indexed.index(False)].name,
            severity="warning",
        )


_INDEXED = re.compile(r"__\d+$")


@rule(
    "IO028",
    "error",
    "load",
    then="the backend refuses the model",
    fix="name an input of the model file that is not declared as `input` too",
    source="model_config.proto, BatchInput.target_name; tensorrt_backend/src/instance_state.cc:2842",
    bad='backend: "onnxruntime"\n'
    'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "x" data_type: TYPE_FP32 source_input: "x" }',
    good='backend: "onnxruntime"\n'
    'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x" }',
)
def batch_input_target(model: Model, context: Context) -> Iterator[Hit]:
    """target_name of a batch_input is a declared input too, or no input of the model file."""
    if model.config.backend not in ("onnxruntime", "tensorrt"):
        return
    declared = {tensor.name for tensor in model.config.input}
    for index, batch_input in enumerate(model.config.batch_input):
        for name in batch_input.target_name:
            field = f"batch_input[{index}].target_name"
            if name in declared:
                yield Hit(f"'{name}' is declared as an input too", field, name)
            for number, surface in model.onnx_models:
                if surface.input(name) is None:
                    yield Hit(f"'{name}' is no input of version {number}", field, name)


def _unknown(field: str, kind: str, name: str, names: list[str], where: str) -> Hit:
    message = f"{where} has no {kind} '{name}', but {', '.join(names) or 'none'}"
    return Hit(message, field, name, fix=did_you_mean(name, names))


def _given_inputs(model: Model) -> set[str]:
    """Names of what the server feeds the model: inputs, batch inputs, sequence controls and states."""
    config = model.config
    names = {tensor.name for tensor in config.input}
    names.update(name for batch_input in config.batch_input for name in batch_input.target_name)
    names.update(control.name for control in config.sequence_batching.control_input)
    names.update(state.input_name for state in config.sequence_batching.state)
    return names


def _pairs(model: Model) -> Iterator[tuple[str, Any, OnnxTensor, int]]:
    """(field path, declared tensor, the graph's tensor of that name, version)."""
    for number, surface in model.onnx_models:
        for kind, find in (("input", surface.input), ("output", surface.output)):
            for index, tensor in enumerate(getattr(model.config, kind)):
                found = find(tensor.name)
                if found is not None:
                    yield f"{kind}[{index}]", tensor, found, number


def _engine_pairs(model: Model) -> Iterator[tuple[str, Any, Mapping[str, Any], int]]:
    for number, engine in model.engines.items():
        for kind in ("input", "output"):
            for index, tensor in enumerate(getattr(model.config, kind)):
                info = engine.tensors.get(tensor.name)
                if info is not None and info.get("mode") == kind:
                    yield f"{kind}[{index}]", tensor, info, number
