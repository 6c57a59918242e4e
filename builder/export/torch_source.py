"""`module:callable` → (module, example inputs) → torch.export, dynamic dimensions by name → model.onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import ExportError, Where, nearest
from builder.export.batching import BATCH, with_batch_dimension
from builder.export.callables import call_reference, run_users_code
from builder.export.exported import Exported
from builder.export.request import ExportRequest
from builder.export.torch_example import Example, dtype_from_torch, example_from_returned, flat_outputs
from builder.export.torch_program import (
    check_opset,
    check_ranges,
    not_exportable,
    program_inputs,
    symbolic_ranges,
    write_onnx,
)
from builder.tensors import Dim, TensorSpec

if TYPE_CHECKING:
    import torch

    from builder.export.exported import Runner
    from builder.samples import Array


def export_callable(request: ExportRequest, out_dir: Path) -> Exported:
    """Exports what the callable returns.

    The first dimension is `batch` when max_batch_size > 0; further dynamic dimensions are those that the
    spec's input shapes name. Files the callable reads through Python's open() become dependencies; weights
    should be read that way (safetensors.torch.load(path.read_bytes()), torch.load(path, weights_only=True)).
    """
    import numpy as np
    import torch

    check_opset(request.opset)
    torch.manual_seed(request.seed)
    np.random.seed(request.seed)
    returned, file = call_reference(request.reference, "source")
    return export_returned(request, out_dir, returned, file)


def export_returned(request: ExportRequest, out_dir: Path, returned: Any, file: Path | None) -> Exported:
    """As export_callable, of (module, example inputs) that are there already; file: what they came from."""
    check_opset(request.opset)
    where = Where(file) if file else None
    example = example_from_returned(returned, request.reference)
    names, shapes = input_shapes(request, example, where)
    tensors = grown(example.tensors, dict(zip(example.names, shapes, strict=True)), request, where)
    output_names = _output_names(request, example, tensors, names)
    program = _captured(request, example, tensors, shapes, where)
    dim_ranges = _dim_ranges(program, shapes)
    check_ranges(wanted_ranges(request), dim_ranges, where)
    model_path, files, graph = write_onnx(program, request, out_dir, names, output_names, shapes)
    fix = "return that output with the batch as its first dimension"
    return Exported(
        model_path=model_path,
        files=files,
        inputs=graph.inputs,
        outputs=with_batch_dimension(graph.outputs, request.max_batch_size, where, fix),
        opset=graph.opset,
        ir_version=graph.ir_version,
        reference=torch_runner(example, names, output_names),
        example={new: tensors[old].numpy() for new, old in zip(names, example.names, strict=True)},
        dim_ranges=dim_ranges,
        dependencies=(file,) if file else (),
    )


def input_shapes(
    request: ExportRequest, example: Example, where: Where | None
) -> tuple[list[str], list[tuple[Dim, ...]]]:
    """Example inputs and stated tensors → (ONNX name, shape with dynamic dimensions named) of each input.

    Stated inputs are matched by name; when none of their names is the module's, by position, which renames.
    """
    stated = _stated_for(request.inputs, example.names, where, "input")
    names, shapes = [], []
    for original in example.names:
        tensor = example.tensors[original]
        spec = stated.get(original)
        name = spec.name if spec else original
        dtype = dtype_from_torch(name, tensor)
        if spec and (spec.dtype != dtype or len(spec.shape) != tensor.dim()):
            raise _disagrees(spec, f"{dtype.config} {list(tensor.shape)}", where)
        shape = list(spec.shape) if spec else list(tensor.shape)
        if request.max_batch_size > 0:
            if not shape:
                with_batch_dimension(
                    [TensorSpec(name, dtype, ())], request.max_batch_size, where, "give it a batch dimension"
                )
            if not spec or shape[0] == -1:
                shape[0] = BATCH
        for axis, dim in enumerate(shape):
            if dim == -1:
                shape[axis] = f"{name}_dim{axis}"
            elif isinstance(dim, int) and dim != tensor.shape[axis]:
                assert spec is not None
                raise _disagrees(spec, f"{dtype.config} {list(tensor.shape)}", where)
        names.append(name)
        shapes.append(tuple(shape))
    used = {dim for shape in shapes for dim in shape if isinstance(dim, str)}
    for name in request.dynamic_dims.keys() - used - {BATCH}:
        close = nearest(name, used)
        raise ExportError(
            f"dynamic_dims names {name}, but no input's shape does",
            code="unknown_dim",
            where=where,
            seen=name,
            valid=[close] if close else sorted(used),
            fix=f"state the inputs in the spec, with {name} in its place in their dims",
        )
    return names, shapes


def _stated_for(
    stated: Sequence[TensorSpec], names: Sequence[str], where: Where | None, role: str
) -> dict[str, TensorSpec]:
    unknown = [tensor.name for tensor in stated if tensor.name not in names]
    if not unknown:
        return {tensor.name: tensor for tensor in stated}
    if len(unknown) == len(stated) == len(names):
        return dict(zip(names, stated, strict=True))
    close = nearest(unknown[0], names)
    raise ExportError(
        f"the source has no {role} {unknown[0]}",
        code="stated_tensor",
        where=where,
        seen=unknown[0],
        valid=[close] if close else names,
        fix=f"state every {role} to rename them by position, or use the source's names",
    )


def _disagrees(spec: TensorSpec, found: str, where: Where | None) -> ExportError:
    return ExportError(
        f"{spec.name} is stated otherwise than the source's example has it",
        code="stated_tensor",
        where=where,
        seen=f"{spec.dtype.config} {list(spec.shape)}",
        valid=[found],
        fix="write a dynamic dimension as -1 or a name, and a fixed one with the example's size",
    )


def grown(
    tensors: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[Dim, ...]],
    request: ExportRequest,
    where: Where | None,
) -> dict[str, torch.Tensor]:
    """The example, dynamic dimensions of size 1 repeated to 2, since torch.export specialises on 0 and 1.

    ExportError example_inputs when one name has two sizes, or a size outside the spec's range.
    """
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        for axis, dim in enumerate(shape):
            if isinstance(dim, str):
                size = tensors[name].shape[axis]
                if sizes.setdefault(dim, size) != size:
                    raise ExportError(
                        f"example inputs disagree on the size of {dim}",
                        code="example_inputs",
                        where=where,
                        seen=f"{sizes[dim]} and {size} ({name})",
                    )
    wanted = wanted_ranges(request)
    for dim, size in sizes.items():
        low, high = wanted.get(dim, (1, size))
        if dim in request.dynamic_dims and not low <= size <= high:
            raise ExportError(
                f"the example's size of {dim} is outside the range the spec promises",
                code="example_inputs",
                where=where,
                seen=size,
                valid=[f"{low} to {high}"],
            )
    out = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        for axis, dim in enumerate(shape):
            if isinstance(dim, str) and sizes[dim] == 1 and request.dynamic_dims.get(dim, (1, 2, 2))[2] > 1:
                tensor = tensor.repeat_interleave(2, dim=axis)
        out[name] = tensor
    return out


def wanted_ranges(request: ExportRequest) -> dict[str, tuple[int, int]]:
    """Name → (smallest, largest) size that the spec promises to take."""
    wanted = {name: (low, high) for name, (low, _, high) in request.dynamic_dims.items()}
    if request.max_batch_size > 0:
        wanted.setdefault(BATCH, (1, request.max_batch_size))
    return wanted


def _output_names(
    request: ExportRequest, example: Example, tensors: Mapping[str, torch.Tensor], input_names: Sequence[str]
) -> list[str]:
    """Runs forward once: stated names, else dict keys, else `output` or `output_0`, ….

    ExportError: forward_failed at the user's line, forward_returned for anything but tensors.
    """
    import torch

    args, kwargs = example.call_arguments(tensors)
    with torch.no_grad():
        value = run_users_code(
            lambda: example.module(*args, **kwargs),
            lambda error: ExportError(
                f"{type(example.module).__name__}.forward raised {error}",
                code="forward_failed",
                seen=", ".join(f"{name}: {list(tensor.shape)}" for name, tensor in tensors.items()),
                fix="forward must accept the example at any size of its dynamic dimensions",
            ),
        )
    return names_of_outputs(
        request, list(flat_outputs(value)), input_names, f"{type(example.module).__name__}.forward"
    )


def names_of_outputs(
    request: ExportRequest, leaves: Sequence[tuple[str | None, Any]], input_names: Sequence[str], who: str
) -> list[str]:
    """Leaves of a return value → ONNX names; ExportError forward_returned, stated_tensor, tensor_names."""
    import torch

    for key, leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            raise ExportError(
                f"{who} returned something else than tensors",
                code="forward_returned",
                seen=f"{key or 'output'}: {type(leaf).__name__}",
                valid=["a tensor, a tuple of tensors, a dict of name → tensor"],
            )
        dtype_from_torch(key or "output", leaf)
    inferred = [key or ("output" if len(leaves) == 1 else f"output_{i}") for i, (key, _) in enumerate(leaves)]
    stated = _stated_for(request.outputs, inferred, None, "output")
    names = [stated[name].name if name in stated else name for name in inferred]
    repeated = [name for i, name in enumerate(names) if name in names[:i] or name in input_names]
    if repeated:
        raise ExportError(
            f"two tensors of the model would be called {repeated[0]}",
            code="tensor_names",
            seen=repeated[0],
            fix="state the outputs in the spec under other names, in order",
        )
    return names


def _captured(
    request: ExportRequest,
    example: Example,
    tensors: Mapping[str, torch.Tensor],
    shapes: Sequence[tuple[Dim, ...]],
    where: Where | None,
) -> Any:
    """torch.export with Dim.DYNAMIC, which finds relations such as "a multiple of 32"."""
    import torch

    args, kwargs = example.call_arguments(tensors)
    dims = {
        name: {
            axis: _dim_hint(dim, request) if isinstance(dim, str) else None for axis, dim in enumerate(shape)
        }
        for name, shape in zip(example.names, shapes, strict=True)
    }
    try:
        with torch.no_grad():
            return torch.export.export(
                example.module, args, kwargs, dynamic_shapes=example.by_parameter(dims), strict=False
            )
    except Exception as error:
        raised = not_exportable(error, "torch.export cannot capture the model", "not_exportable")
        raised.where = raised.where or where
        raise raised from error


def _dim_hint(dim: str, request: ExportRequest) -> Any:
    from torch.export import Dim

    if dim not in request.dynamic_dims:
        return Dim.DYNAMIC
    low, _, high = request.dynamic_dims[dim]
    if low == high:
        return None
    return Dim.DYNAMIC(min=low, max=high)


def _dim_ranges(program: Any, shapes: Sequence[tuple[Dim, ...]]) -> dict[str, tuple[int, int | None]]:
    found: dict[str, tuple[int, int | None]] = {}
    for fake, shape in zip(program_inputs(program).values(), shapes, strict=True):
        for axis, (low, high) in symbolic_ranges(program, fake).items():
            name = shape[axis]
            assert isinstance(name, str)
            before_low, before_high = found.get(name, (low, high))
            highs = [bound for bound in (high, before_high) if bound is not None]
            found[name] = (max(low, before_low), min(highs, default=None))
    return found


def torch_runner(example: Example, input_names: Sequence[str], output_names: Sequence[str]) -> Runner:
    """The module itself as the reference: NumPy in and out under the ONNX file's names."""
    import torch

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = {
            old: torch.from_numpy(inputs[new].copy())
            for new, old in zip(input_names, example.names, strict=True)
        }
        args, kwargs = example.call_arguments(tensors)
        with torch.no_grad():
            leaves = [leaf for _, leaf in flat_outputs(example.module(*args, **kwargs))]
        return {name: leaf.cpu().numpy() for name, leaf in zip(output_names, leaves, strict=True)}

    return run
