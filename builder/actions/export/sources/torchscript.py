"""A TorchScript file (torch.jit.save) → model.onnx by torch's TorchScript exporter, held against the file's own answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.batching import BATCH, with_batch_dimension
from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.callables import one_line
from tritonsmith.builder.actions.export.sources.torch import names_of_outputs
from tritonsmith.builder.actions.export.torch.example_run import Leaves
from tritonsmith.builder.actions.export.torch.program import check_opset
from tritonsmith.builder.actions.export.torch.structure import leaves_of
from tritonsmith.builder.actions.export.torch.trace import write_traced
from tritonsmith.builder.base.errors import ExportError, Where
from tritonsmith.builder.base.tensors import TensorSpec

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

_LARGEST_OPSET = 20  # of torch's TorchScript exporter
_FIX = "max_batch_size: 0, or an output with the batch as its first dimension"


def export_script(request: ExportRequest, out_dir: Path) -> Exported:
    """A script knows neither dtypes nor sizes: the spec states every input with name, data_type and dims; a name is a
    dynamic dimension, for which `dynamic_dims` may give sizes. Names are matched by the script's, else by position.

    ExportError: corrupt_script, inputs_not_stated, opset_unsupported, script_failed, onnx_conversion, fixed_batch.
    """
    import torch

    check_opset(request.opset)
    path = Path(request.reference)
    where = Where(path)
    if request.opset > _LARGEST_OPSET:
        raise ExportError(
            f"a TorchScript file cannot be exported to opset {request.opset}",
            code="opset_unsupported",
            seen=request.opset,
            valid=[f"18 to {_LARGEST_OPSET}"],
            fix=f"opset: {_LARGEST_OPSET}",
        )
    module = load_script(path)
    inputs = _inputs(request, module)
    example = {tensor.name: _example(tensor, request) for tensor in inputs}

    def answers(values: Mapping[str, Any]) -> Leaves:
        with torch.no_grad():
            return list(leaves_of(module(*(torch.from_numpy(values[t.name].copy()) for t in inputs))))

    try:
        leaves = answers(example)
        output_axes = _output_axes(inputs, example, answers, request)
    except RuntimeError as error:
        raise ExportError(
            f"the script fails on the stated inputs: {_last_line(error)}",
            code="script_failed",
            seen=", ".join(f"{name}: {list(array.shape)}" for name, array in example.items()),
            fix="state input in the order, dtypes and dims that forward takes",
        ) from error
    names, notes = names_of_outputs(request, leaves, [t.name for t in inputs], "the script")
    tensors = [torch.from_numpy(array) for array in example.values()]
    shapes = [tensor.shape for tensor in inputs]
    try:
        more, (target, files, graph) = write_traced(
            module, tensors, None, request, out_dir, list(example), names, shapes, output_axes
        )
    except ExportError as error:
        if error.code == "onnx_conversion":
            error.fix = "export the nn.Module that it was made from: source: {torch: module:callable}"
        raise
    return Exported(
        model_path=target,
        files=files,
        inputs=with_batch_dimension(graph.inputs, request.max_batch_size, where, _FIX),
        outputs=with_batch_dimension(graph.outputs, request.max_batch_size, where, _FIX),
        opset=graph.opset,
        ir_version=graph.ir_version,
        reference=lambda values: {
            name: leaf.cpu().numpy()
            for name, (_, leaf) in zip(names, answers(values), strict=True)
            if name is not None
        },
        example=example,
        dim_ranges={},
        dependencies=(path,),
        exporter="torchscript",
        notes=(*notes, *more),
    )


def load_script(path: Path) -> Any:
    """The module in evaluation mode; ExportError corrupt_script."""
    import torch

    try:
        with path.open("rb") as file:
            return torch.jit.load(file, map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ExportError(
            f"torch.jit.load cannot read it: {one_line(error)[:300]}",
            code="corrupt_script",
            fix="write it with torch.jit.save (a .pt of torch.save holds weights or a pickle, no program)",
        ) from error


def script_arguments(module: Any) -> list[str]:
    """Names of forward's arguments."""
    return [value.debugName().partition(".")[0] for value in list(module.graph.inputs())[1:]]


def _inputs(request: ExportRequest, module: Any) -> list[TensorSpec]:
    """The stated inputs in the order of forward's arguments."""
    arguments = script_arguments(module)
    stated = {tensor.name: tensor for tensor in request.inputs}
    if len(stated) != len(arguments):
        raise ExportError(
            "a TorchScript file says neither dtypes nor sizes of its inputs: state all of them",
            code="inputs_not_stated",
            seen=", ".join(stated) or "none",
            valid=arguments,
            fix=f"input: [{{name: {arguments[0] if arguments else 'x'}, data_type: TYPE_FP32, dims: […]}}, …]",
        )
    ordered = [stated[name] for name in arguments] if set(arguments) == set(stated) else list(request.inputs)
    return [
        TensorSpec(
            t.name, t.dtype, tuple(f"{t.name}_dim{i}" if d == -1 else d for i, d in enumerate(t.shape))
        )
        for t in ordered
    ]


def _size(dim: int | str, request: ExportRequest) -> int:
    if isinstance(dim, int):
        return dim
    low, opt, high = request.dynamic_dims.get(dim, (1, 2 if dim == BATCH else 8, 2**31))
    return min(max(opt, low, 2), high)


def _example(tensor: TensorSpec, request: ExportRequest) -> Array:
    import numpy as np

    shape = [_size(dim, request) for dim in tensor.shape]
    rng = np.random.default_rng(request.seed)
    dtype = np.dtype(tensor.dtype.numpy or "float32")
    values = rng.normal(size=shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
    return values.astype(dtype)


def _output_axes(
    inputs: Sequence[TensorSpec], example: Mapping[str, Array], answers: Any, request: ExportRequest
) -> list[dict[int, str]]:
    """Of each output the axes that grow with a dynamic dimension, found by running the script with that one larger."""
    before = [tuple(leaf.shape) for _, leaf in answers(example)]
    found: list[dict[int, str]] = [{} for _ in before]
    for dim in dict.fromkeys(d for t in inputs for d in t.shape if isinstance(d, str)):
        if request.dynamic_dims.get(dim, (1, 2, 2**31))[2] <= _size(dim, request):
            continue
        larger = {t.name: example[t.name] for t in inputs}
        for tensor in inputs:
            for axis, here in enumerate(tensor.shape):
                if here == dim:
                    array = larger[tensor.name]
                    larger[tensor.name] = array.repeat([*[1] * (array.shape[axis] - 1), 2], axis=axis)
        for axes, old, (_, leaf) in zip(found, before, answers(larger), strict=True):
            axes |= {axis: dim for axis, (o, n) in enumerate(zip(old, leaf.shape, strict=True)) if o != n}
    return found


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__
