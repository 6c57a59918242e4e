"""A saved ExportedProgram (.pt2), loaded without running code from it → model.onnx."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.batching import with_batch_dimension
from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.callables import one_line
from tritonsmith.builder.actions.export.sources.onnx import named_by
from tritonsmith.builder.actions.export.sources.program_archive import check_archive
from tritonsmith.builder.actions.export.torch.dims import found_dims, wanted_ranges
from tritonsmith.builder.actions.export.torch.example import dtype_from_torch
from tritonsmith.builder.actions.export.torch.program import (
    check_opset,
    check_ranges,
    kept_state,
    program_inputs,
    write_onnx,
)
from tritonsmith.builder.actions.export.torch.structure import leaves_of
from tritonsmith.builder.base.dim_relations import with_found
from tritonsmith.builder.base.errors import ExportError, Where
from tritonsmith.builder.base.tensors import Dim, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from tritonsmith.builder.actions.accuracy.samples import Array
    from tritonsmith.builder.actions.export.exported import Runner

_FIX = "re-export it with dynamic_shapes that hold torch.export.Dim.DYNAMIC in the first dimension"


def export_saved_program(request: ExportRequest, out_dir: Path) -> Exported:
    """Exports a .pt2; its dynamic dimensions are those it was captured with.

    They are called by the stated inputs' names, the first one `batch` when max_batch_size > 0, otherwise
    as torch called them (`s27`). ExportError: check_archive's, corrupt_program, fixed_batch, stated_tensor,
    dim_range and those of the ONNX translation.
    """
    check_opset(request.opset)
    path = Path(request.search_path) / Path(request.reference).expanduser()
    where = Where(path)
    check_archive(path)
    program = load_program(path)
    fakes = program_inputs(program)
    found = tuple(_spec(name, fake) for name, fake in fakes.items())
    found = tuple(_unnamed_batch(spec) for spec in found) if request.max_batch_size else found
    inputs = with_batch_dimension(
        named_by(request.inputs, found, where, "input"), request.max_batch_size, where, _FIX
    )
    shapes: list[tuple[Dim, ...]] = [tensor.shape for tensor in inputs]
    dims = found_dims(program, shapes, request, where)
    check_ranges(wanted_ranges(request), dims.ranges, where)
    state = kept_state(program)
    if state:
        raise ExportError(
            f"the program writes {', '.join(state)} and answers by it: it keeps state, which an exported model has not",
            code="stateful",
            where=where,
            seen=", ".join(state),
            fix="capture a module that takes the state as an input and returns the new one as an output",
        )
    names = [tensor.name for tensor in inputs]
    module = program.module()
    example = _example(program, inputs, request)
    output_names, notes = _output_names(request, module, program, example, names)
    model_path, files, graph = write_onnx(program, request, out_dir, names, output_names, shapes)
    return Exported(
        model_path=model_path,
        files=files,
        inputs=graph.inputs,
        outputs=with_batch_dimension(graph.outputs, request.max_batch_size, where, _FIX),
        opset=graph.opset,
        ir_version=graph.ir_version,
        reference=_runner(program, module, names, output_names),
        example=example,
        dim_ranges=dims.ranges,
        dependencies=(path,),
        relations=with_found(request.dim_relations, dims.relations),
        exporter="dynamo",
        notes=tuple(notes),
    )


def load_program(path: Path) -> ExportedProgram:
    """The program; ExportError corrupt_program. No code of it is run."""
    import torch

    # torch.export.load asks torch.load for full unpickling in places; this overrules it in this process.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        return torch.export.load(str(path))
    except Exception as error:
        raise ExportError(
            f"torch.export.load cannot read it: {one_line(error)}",
            code="corrupt_program",
            where=Where(path),
            seen=f"torch {torch.__version__}",
            fix="write it again with torch.export.save and this version of torch",
        ) from error


def _spec(name: str, fake: Any) -> TensorSpec:
    shape: tuple[Dim, ...] = tuple(size if isinstance(size, int) else str(size) for size in fake.shape)
    return TensorSpec(name, dtype_from_torch(name, fake), shape)


def _unnamed_batch(spec: TensorSpec) -> TensorSpec:
    """torch's own symbol gives way to `batch` in the first dimension; the others keep theirs."""
    if spec.shape and isinstance(spec.shape[0], str):
        return TensorSpec(spec.name, spec.dtype, (-1, *spec.shape[1:]))
    return spec


def _arguments(
    program: ExportedProgram, values: list[torch.Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    from torch.utils import _pytree

    args, kwargs = _pytree.tree_unflatten(values, program.call_spec.in_spec)
    return tuple(args), dict(kwargs)


def _example(
    program: ExportedProgram, inputs: tuple[TensorSpec, ...], request: ExportRequest
) -> dict[str, Array]:
    """The inputs that the program was captured with; where it was saved without them, ones of its shape."""
    import numpy as np
    from torch.utils import _pytree

    if program.example_inputs is not None:
        leaves = _pytree.tree_leaves(program.example_inputs)
        return {tensor.name: leaf.detach().cpu().numpy() for tensor, leaf in zip(inputs, leaves, strict=True)}
    sizes = {name: opt for name, (_, opt, _) in request.dynamic_dims.items()}
    return {
        tensor.name: np.ones(
            [d if isinstance(d, int) else sizes.get(d, 2) for d in tensor.shape], tensor.dtype.numpy
        )
        for tensor in inputs
    }


def _output_names(
    request: ExportRequest,
    module: Any,
    program: ExportedProgram,
    example: Mapping[str, Array],
    inputs: list[str],
) -> tuple[list[str | None], list[str]]:
    import torch

    from tritonsmith.builder.actions.export.sources.torch import names_of_outputs

    args, kwargs = _arguments(program, [torch.from_numpy(array) for array in example.values()])
    with torch.no_grad():
        leaves = list(leaves_of(module(*args, **kwargs)))
    return names_of_outputs(request, leaves, inputs, "the program")


def _runner(
    program: ExportedProgram, module: Any, names: list[str], output_names: list[str | None]
) -> Runner:
    import torch

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        args, kwargs = _arguments(program, [torch.from_numpy(inputs[name].copy()) for name in names])
        with torch.no_grad():
            leaves = [leaf for _, leaf in leaves_of(module(*args, **kwargs))]
        return {
            name: leaf.cpu().numpy()
            for name, leaf in zip(output_names, leaves, strict=True)
            if name is not None
        }

    return run
