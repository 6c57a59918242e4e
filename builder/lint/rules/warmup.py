"""Rules about model_warmup: its samples must be requests that the model can take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonsmith.builder.lint.read.files import is_file, size_bytes
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import bytes_of, escapes, same_dims, type_name

_INSTANCE = "core/src/backend_model_instance.cc"


def _sample(entry: str, more: str = "batch_size: 1") -> str:
    return f'model_warmup {{ name: "w" {more}\n  inputs {{ key: "x" value {{ {entry} }} }} }}'


_GOOD = _sample("data_type: TYPE_FP32 dims: [ 4 ] zero_data: true")


@rule(
    "WARM001",
    "error",
    "load",
    then="the server cannot make the sample and the model does not load",
    fix="write a size for each dim",
    source=f"{_INSTANCE}:382",
    bad=_sample("data_type: TYPE_FP32 dims: [ -1 ] zero_data: true"),
    good=_GOOD,
)
def dynamic_dims(model: Model, context: Context) -> Iterator[Hit]:
    """A warm-up input has dynamic dims."""
    for field, name, entry in _inputs(model):
        if any(dim < 0 for dim in entry.dims):
            yield Hit(f"'{name}' has dims {list(entry.dims)}", f"{field}.dims", list(entry.dims))


@rule(
    "WARM002",
    "error",
    "load",
    then="the server cannot make the sample and the model does not load",
    fix="write zero_data: true, random_data: true or input_data_file",
    source=f"{_INSTANCE}:489",
    bad=_sample("data_type: TYPE_FP32 dims: [ 4 ]"),
    good=_GOOD,
)
def no_data(model: Model, context: Context) -> Iterator[Hit]:
    """A warm-up input has none of zero_data, random_data and input_data_file."""
    for field, name, entry in _inputs(model):
        if entry.WhichOneof("input_data_type") is None:
            yield Hit(f"'{name}' has no data", field, name)


@rule(
    "WARM003",
    "error",
    "load",
    then="the server cannot read the data and the model does not load",
    fix="put the file into warmup/ of the model's directory",
    source=f"{_INSTANCE}, GenerateWarmupData",
    bad=_sample('data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "absent"'),
    good=_sample('data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "present"'),
    needs="files",
)
def data_file_absent(model: Model, context: Context) -> Iterator[Hit]:
    """A warm-up input_data_file is not in warmup/ of the model's directory."""
    for field, _, entry in _inputs(model):
        name = entry.input_data_file
        if entry.WhichOneof("input_data_type") != "input_data_file":
            continue
        if escapes(name) or not is_file(model.path / "warmup" / name):
            yield Hit(f"there is no warmup/{name}", f"{field}.input_data_file", name)


@rule(
    "WARM004",
    "error",
    "load",
    then="the server refuses the data and the model does not load",
    fix="write as many bytes as dtype × dims",
    source=f"{_INSTANCE}:476",
    bad=_sample('data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "short"') + "  # 3 bytes long",
    good=_sample('data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "present"') + "  # 16 bytes long",
    needs="files",
)
def data_file_short(model: Model, context: Context) -> Iterator[Hit]:
    """A warm-up input_data_file is shorter than the tensor."""
    for field, name, entry in _inputs(model):
        path = model.path / "warmup" / entry.input_data_file
        size = bytes_of(entry.data_type, list(entry.dims))
        if (
            entry.WhichOneof("input_data_type") != "input_data_file"
            or size is None
            or escapes(entry.input_data_file)
        ):
            continue
        if is_file(path) and size_bytes(path) < size:
            yield Hit(
                f"'{name}' takes {size} bytes, warmup/{entry.input_data_file} has {size_bytes(path)}",
                f"{field}.input_data_file",
                size_bytes(path),
            )


@rule(
    "WARM005",
    "error",
    "load",
    then="the sample is no valid request and the model does not load",
    fix="write the input's data_type",
    source="core, InferenceRequest::PrepareForInference; seen live on 2.51.0",
    bad=_sample("data_type: TYPE_INT32 dims: [ 4 ] zero_data: true"),
    good=_GOOD,
)
def type_differs(model: Model, context: Context) -> Iterator[Hit]:
    """A warm-up input has another data_type than the model's input."""
    for field, name, entry, tensor in _known(model):
        if entry.data_type != tensor.data_type:
            yield Hit(
                f"'{name}' is {type_name(tensor.data_type)}, its sample {type_name(entry.data_type)}",
                f"{field}.data_type",
                type_name(entry.data_type),
            )


@rule(
    "WARM006",
    "error",
    "load",
    then="the sample is no valid request and the model does not load",
    fix="write the input's dims, without the batch dimension",
    source="core, InferenceRequest::Normalize; seen live on 2.51.0",
    bad=_sample("data_type: TYPE_FP32 dims: [ 5 ] zero_data: true"),
    good=_GOOD,
)
def dims_differ(model: Model, context: Context) -> Iterator[Hit]:
    """A warm-up input's dims do not fit the model's input."""
    for field, name, entry, tensor in _known(model):
        dims, want = list(entry.dims), list(tensor.dims)
        if not same_dims(dims, want) and not any(dim < 0 for dim in dims):
            yield Hit(f"'{name}' has dims {want}, its sample {dims}", f"{field}.dims", dims)


@rule(
    "WARM007",
    "error",
    "load",
    then="the sample is no valid request and the model does not load",
    fix="give each required input, and only inputs of the model",
    source="seen live on 2.51.0",
    bad=_sample("data_type: TYPE_FP32 dims: [ 4 ] zero_data: true").replace('"x"', '"absent"'),
    good=_GOOD,
)
def names_differ(model: Model, context: Context) -> Iterator[Hit]:
    """A warm-up sample lacks a required input, or has one that the model does not."""
    controls = {control.name for control in model.config.sequence_batching.control_input}
    tensors = {tensor.name: tensor for tensor in model.config.input}
    for index, sample in enumerate(model.config.model_warmup):
        if not tensors or sample.batch_size == 0:
            continue
        for name in sorted(sample.inputs):
            if name not in tensors and name not in controls:
                yield Hit(f"the model has no input '{name}'", f'model_warmup[{index}].inputs["{name}"]', name)
        for name, tensor in tensors.items():
            if name not in sample.inputs and not tensor.optional:
                yield Hit(
                    f"the sample lacks '{name}'", f"model_warmup[{index}]", ", ".join(sorted(sample.inputs))
                )


@rule(
    "WARM008",
    "error",
    "load",
    then="the server refuses the sample; 2.51 was also seen to end with a segmentation fault",
    fix="use a batch_size up to max_batch_size",
    source="seen live on 2.51.0",
    bad="max_batch_size: 8\n" + _sample("data_type: TYPE_FP32 dims: [ 4 ] zero_data: true", "batch_size: 16"),
    good="max_batch_size: 8\n" + _sample("data_type: TYPE_FP32 dims: [ 4 ] zero_data: true", "batch_size: 8"),
)
def batch_above_max(model: Model, context: Context) -> Iterator[Hit]:
    """A warm-up sample's batch_size is above max_batch_size."""
    limit = model.config.max_batch_size
    for index, sample in enumerate(model.config.model_warmup):
        if limit > 0 and sample.batch_size > limit:
            yield Hit(
                f"batch_size {sample.batch_size}, max_batch_size {limit}",
                f"model_warmup[{index}].batch_size",
                sample.batch_size,
            )


@rule(
    "WARM009",
    "warning",
    "silent",
    then="the server skips the sample, and the first requests meet a cold model",
    fix="write batch_size: 1 or more",
    source=f"{_INSTANCE}:362",
    bad=_sample("data_type: TYPE_FP32 dims: [ 4 ] zero_data: true", "batch_size: 0"),
    good=_GOOD,
)
def batch_zero(model: Model, context: Context) -> Iterator[Hit]:
    """A warm-up sample's batch_size is 0, or is left out."""
    for index, sample in enumerate(model.config.model_warmup):
        if sample.batch_size == 0:
            yield Hit(f"the sample '{sample.name}' is skipped", f"model_warmup[{index}].batch_size", 0)


@rule(
    "WARM010",
    "warning",
    "silent",
    then="the first request of each profile or graph is slow",
    fix="add a model_warmup sample for each batch size that matters",
    source="server/docs/user_guide/model_configuration.md, Model Warmup",
    bad='backend: "tensorrt"\noptimization { cuda { graphs: true } }',
    good='backend: "tensorrt"\noptimization { cuda { graphs: true } }\n' + _GOOD,
)
def tensorrt_cold(model: Model, context: Context) -> Iterator[Hit]:
    """A TensorRT model with CUDA graphs or several optimization profiles has no warm-up."""
    if model.config.backend != "tensorrt" or len(model.config.model_warmup):
        return
    if model.config.optimization.cuda.graphs:
        yield Hit("CUDA graphs are captured by the first requests", "optimization.cuda.graphs", True)
    elif any(len(engine.profiles) > 1 for engine in model.engines.values()):
        yield Hit("the engine has several optimization profiles and no warm-up", "backend", "no model_warmup")


def _inputs(model: Model) -> Iterator[tuple[str, str, Any]]:
    """(field path, input name, its sample) of each sample that is not skipped."""
    for index, sample in enumerate(model.config.model_warmup):
        for name in sorted(sample.inputs) if sample.batch_size else ():
            yield f'model_warmup[{index}].inputs["{name}"]', name, sample.inputs[name]


def _known(model: Model) -> Iterator[tuple[str, str, Any, Any]]:
    """The same with the model's own input, where it has one."""
    tensors = {tensor.name: tensor for tensor in model.config.input}
    for field, name, entry in _inputs(model):
        if name in tensors:
            yield field, name, entry, tensors[name]
