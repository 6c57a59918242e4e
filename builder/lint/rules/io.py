"""Rules about a config's own inputs and outputs: names, types, dims, reshape, ragged batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from math import prod
from typing import Any

from tritonsmith.builder.base.files.untrusted import read_bounded
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import ONE_BY_ONE, element_count, is_ensemble, tensors

_CORE = "core/src/model_config_utils.cc"
_GUIDE = "server/docs/user_guide"


@rule(
    "IO001",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="give it a name",
    source=f"{_CORE}:302",
    bad="input { data_type: TYPE_FP32 dims: [ 4 ] }",
    good='input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }',
)
def tensor_without_name(model: Model, context: Context) -> Iterator[Hit]:
    """An input or output has no name."""
    for field, tensor in tensors(model):
        if not tensor.name:
            yield Hit(f"{field} has no name", field)


@rule(
    "IO002",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="give it a data_type, such as TYPE_FP32",
    source=f"{_CORE}:311",
    bad='input { name: "x" dims: [ 4 ] }',
    good='input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }',
)
def tensor_without_type(model: Model, context: Context) -> Iterator[Hit]:
    """An input or output has no data_type."""
    for field, tensor in tensors(model):
        if not tensor.data_type:
            yield Hit(f"'{tensor.name}' has no data_type", field, "TYPE_INVALID")


@rule(
    "IO003",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="give it dims; for a scalar of a batching model write dims: [ 1 ] and an empty reshape",
    source=f"{_CORE}:317",
    bad='input { name: "x" data_type: TYPE_FP32 }',
    good='input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }',
)
def tensor_without_dims(model: Model, context: Context) -> Iterator[Hit]:
    """An input or output has no dims."""
    for field, tensor in tensors(model):
        if not len(tensor.dims):
            yield Hit(f"'{tensor.name}' has no dims", field, "[]")


@rule(
    "IO004",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="write the size, or -1 for a dynamic dimension",
    source=f"{_CORE}:337",
    bad='input { name: "x" data_type: TYPE_FP32 dims: [ 0 ] }',
    good='input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] }',
)
def impossible_dim(model: Model, context: Context) -> Iterator[Hit]:
    """A dim or reshape dim is 0 or below -1."""
    for field, tensor in tensors(model):
        for name, dims in (("dims", tensor.dims), ("reshape.shape", tensor.reshape.shape)):
            for index, dim in enumerate(dims):
                if dim < 1 and dim != -1:
                    yield Hit(f"'{tensor.name}' has a dim {dim}", f"{field}.{name}[{index}]", list(dims))


@rule(
    "IO005",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="make the products of dims and reshape equal",
    source=f"{_CORE}:371",
    bad='input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 3 ] } }',
    good='input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } }',
)
def reshape_changes_size(model: Model, context: Context) -> Iterator[Hit]:
    """A reshape changes the number of elements."""
    for field, tensor in _reshaped(model):
        dims, shape = list(tensor.dims), list(tensor.reshape.shape)
        if -1 not in dims and -1 not in shape and prod(dims) != (prod(shape) if shape else 1):
            yield Hit(
                f"'{tensor.name}' has {prod(dims)} elements, its reshape {prod(shape) if shape else 1}",
                f"{field}.reshape",
                f"{dims} → {shape}",
            )


@rule(
    "IO006",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="keep each -1, and the products between them",
    source=f"{_CORE}:407",
    bad='input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] reshape { shape: [ -1, 2 ] } }',
    good='input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] reshape { shape: [ -1, 2, 2 ] } }',
)
def reshape_moves_dynamic_dims(model: Model, context: Context) -> Iterator[Hit]:
    """A reshape has another number of -1 dims, or other products between them."""
    for field, tensor in _reshaped(model):
        dims, shape = list(tensor.dims), list(tensor.reshape.shape)
        if -1 in (element_count(dims), element_count(shape)) and _trunks(dims) != _trunks(shape):
            yield Hit(f"'{tensor.name}' cannot be reshaped so", f"{field}.reshape", f"{dims} → {shape}")


@rule(
    "IO007",
    "error",
    "poll",
    then="the server does not accept the model: it would be a tensor without data",
    fix="reshape to [ 1 ], or batch the model",
    source=f"{_CORE}:328",
    bad='max_batch_size: 0\ninput { name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }',
    good='max_batch_size: 8\ninput { name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }',
)
def scalar_without_batch(model: Model, context: Context) -> Iterator[Hit]:
    """An empty reshape stands in a model with max_batch_size 0."""
    for field, tensor in _reshaped(model):
        if not len(tensor.reshape.shape) and model.config.max_batch_size == 0:
            yield Hit(f"'{tensor.name}' is reshaped to nothing", f"{field}.reshape", "[]")


@rule(
    "IO008",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="write three dims, or drop format",
    source=f"{_CORE}:1830",
    bad='input { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 224, 224 ] }',
    good='input { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ] }',
)
def image_format_dims(model: Model, context: Context) -> Iterator[Hit]:
    """format is NHWC or NCHW, and the input has other than three dims."""
    for index, tensor in enumerate(model.config.input):
        if tensor.format and len(tensor.dims) != 3:
            yield Hit(
                f"'{tensor.name}' has {len(tensor.dims)} dims", f"input[{index}].dims", list(tensor.dims)
            )


@rule(
    "IO009",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="drop is_shape_tensor",
    source=f"{_CORE}:1836",
    bad='input { name: "x" data_type: TYPE_INT32 dims: [ 4 ] is_shape_tensor: true }',
    good='input { name: "x" data_type: TYPE_INT32 dims: [ 4 ] }',
)
def shape_tensor_elsewhere(model: Model, context: Context) -> Iterator[Hit]:
    """is_shape_tensor is set for a backend other than TensorRT."""
    for field, tensor in tensors(model):
        if tensor.is_shape_tensor and model.config.platform != "tensorrt_plan":
            yield Hit(f"'{tensor.name}' is a shape tensor", f"{field}.is_shape_tensor", model.config.backend)


@rule(
    "IO010",
    "error",
    "poll",
    then="the server does not accept the model",
    fix="drop is_non_linear_format_io, or give the tensor three dims",
    source=f"{_CORE}:439",
    bad='input { name: "x" data_type: TYPE_FP16 dims: [ 8, 4, 4 ] is_non_linear_format_io: true }',
    good='input { name: "x" data_type: TYPE_FP16 dims: [ 8, 4, 4 ] }',
)
def non_linear_elsewhere(model: Model, context: Context) -> Iterator[Hit]:
    """is_non_linear_format_io is set outside TensorRT, or for a tensor of other than three dims."""
    for field, tensor in tensors(model):
        if not tensor.is_non_linear_format_io:
            continue
        if model.config.platform != "tensorrt_plan":
            yield Hit(
                f"'{tensor.name}' has a non-linear format",
                f"{field}.is_non_linear_format_io",
                model.config.backend,
            )
        elif len(tensor.dims) != 3:
            yield Hit(f"'{tensor.name}' has {len(tensor.dims)} dims", f"{field}.dims", list(tensor.dims))


@rule(
    "IO011",
    "error",
    "silent",
    then="2.51 loads the model, and which of the two counts is not defined",
    fix="drop one of them",
    source="seen live on 2.51.0",
    bad='input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }\n'
    'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }',
    good='input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }\n'
    'input { name: "z" data_type: TYPE_FP32 dims: [ 4 ] }',
)
def tensor_name_twice(model: Model, context: Context) -> Iterator[Hit]:
    """Two inputs, or two outputs, have one name."""
    for kind in ("input", "output"):
        seen: dict[str, Any] = {}
        for index, tensor in enumerate(getattr(model.config, kind)):
            # TensorRT-LLM's own ensemble says one of its outputs twice alike; Triton takes a step's output by name.
            alike = kind == "output" and is_ensemble(model) and seen.get(tensor.name) == tensor
            if tensor.name and tensor.name in seen and not alike:
                yield Hit(f"there is already an {kind} '{tensor.name}'", f"{kind}[{index}].name", tensor.name)
            seen[tensor.name] = tensor


@rule(
    "IO012",
    "warning",
    "silent",
    then="the server loads the model, and every request is refused or answered with nothing",
    fix="declare the inputs and outputs",
    source=f"seen live on 2.51.0; {_GUIDE}/model_configuration.md, Auto-Generated Model Configuration",
    bad='backend: "python"\noutput { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }',
    good='backend: "python"\ninput { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }\n'
    'output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }',
)
def no_tensors(model: Model, context: Context) -> Iterator[Hit]:
    """No input, or no output, is declared, and nothing fills it in."""
    config = model.config
    missing = [kind for kind in ("input", "output") if not len(getattr(config, kind))]
    if config.HasField("sequence_batching") or (len(config.batch_input) and missing == ["input"]):
        return
    if missing and not _is_filled_in(model, context):
        yield Hit(f"no {' and no '.join(missing)} is declared", missing[0], "[]")


@rule(
    "IO021",
    "warning",
    "silent",
    then="rows of different lengths arrive glued together, and the model cannot tell them apart",
    fix="add a batch_input that describes the rows, such as BATCH_ACCUMULATED_ELEMENT_COUNT",
    source=f"{_GUIDE}/ragged_batching.md",
    bad='backend: "tensorrt"\nmax_batch_size: 8\n'
    'input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }',
    good='backend: "tensorrt"\nmax_batch_size: 8\n'
    'input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }\n'
    'batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "ends" data_type: TYPE_FP32 '
    'source_input: "x" }',
)
def ragged_without_lengths(model: Model, context: Context) -> Iterator[Hit]:
    """allow_ragged_batch is set, and no batch_input describes the rows to a backend that gets them as one tensor."""
    if model.config.backend in ONE_BY_ONE or is_ensemble(model):
        return
    sources = {name for batch_input in model.config.batch_input for name in batch_input.source_input}
    for index, tensor in enumerate(model.config.input):
        if tensor.allow_ragged_batch and tensor.name not in sources and not sources:
            yield Hit(f"'{tensor.name}' is ragged", f"input[{index}].allow_ragged_batch", True)


@rule(
    "IO022",
    "warning",
    "silent",
    then="only requests of equal shape share a batch, so that batches stay small",
    fix="pad on the client, or set allow_ragged_batch with a batch_input where the model can take it",
    source=f"{_GUIDE}/ragged_batching.md:33",
    bad='backend: "tensorrt"\nmax_batch_size: 8\ndynamic_batching { }\n'
    'input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] }',
    good='backend: "tensorrt"\nmax_batch_size: 8\ndynamic_batching { }\n'
    'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }',
)
def dynamic_dims_batched(model: Model, context: Context) -> Iterator[Hit]:
    """An input has dynamic dims and no ragged batches, and the dynamic batcher is on for a backend that takes one tensor."""
    if (
        model.config.backend in ONE_BY_ONE
        or not model.config.HasField("dynamic_batching")
        or model.config.max_batch_size <= 1
    ):
        return
    dynamic = [
        (index, tensor.name)
        for index, tensor in enumerate(model.config.input)
        if -1 in tensor.dims and not tensor.allow_ragged_batch
    ]
    if dynamic:
        names = ", ".join(f"'{name}'" for _, name in dynamic)
        yield Hit(
            f"requests are batched, and dims of {names} are dynamic", f"input[{dynamic[0][0]}].dims", names
        )


def _reshaped(model: Model) -> Iterator[tuple[str, Any]]:
    """Tensors with a reshape whose dims are themselves possible."""
    for field, tensor in tensors(model):
        dims = (*tensor.dims, *tensor.reshape.shape)
        if tensor.HasField("reshape") and len(tensor.dims) and all(d > 0 or d == -1 for d in dims):
            yield field, tensor


def _trunks(dims: list[int]) -> list[int]:
    """Products of the dims between the -1s: [2, 4, -1, 6] → [8, 6]."""
    products = [1]
    for dynamic, run in groupby(dims, key=lambda d: d == -1):
        for dim in run:
            if dynamic:
                products.append(1)
            else:
                products[-1] *= dim
    return products


def _is_filled_in(model: Model, context: Context) -> bool:
    """Whether the server may complete the tensors by itself; unknown backends are given the benefit."""
    if is_ensemble(model):
        return False
    if not context.auto_complete:
        return False
    if model.config.backend != "python":
        return True
    if model.loose or not model.selected:
        return True
    script = model.selected[-1].path / model.config.default_model_filename
    try:
        return b"auto_complete_config" in read_bounded(script)
    except (OSError, ValueError):
        return True
