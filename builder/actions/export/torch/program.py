"""(ExportedProgram, names) → model.onnx in out_dir, dynamic dimensions by name, the opset read back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.onnx_graph import Graph, read_graph
from tritonsmith.builder.actions.export.request import OPSETS, ExportRequest
from tritonsmith.builder.actions.export.sources.onnx import MODEL_FILE, clear
from tritonsmith.builder.actions.export.torch.errors import not_exportable
from tritonsmith.builder.actions.export.torch.ir import finish
from tritonsmith.builder.base.errors import ExportError, Where
from tritonsmith.builder.base.files.disk import replacing
from tritonsmith.builder.base.tensors import Dim

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def check_opset(opset: int) -> None:
    """ExportError opset_unsupported outside OPSETS."""
    if opset not in OPSETS:
        raise ExportError(
            f"a torch source cannot be exported to opset {opset}",
            code="opset_unsupported",
            seen=opset,
            valid=[f"{OPSETS.start} to {OPSETS.stop - 1}"],
            fix=f"opset: {OPSETS.stop - 3}",
        )


def write_onnx(
    program: ExportedProgram,
    request: ExportRequest,
    out_dir: Path,
    input_names: Sequence[str],
    output_names: Sequence[str | None],
    shapes: Sequence[Sequence[Dim]],
) -> tuple[Path, tuple[str, ...], Graph]:
    """Translates and checks → (the model file, files for a version directory, its graph).

    output_names: None for one that is left out.
    shapes: one for each input; a string names that dimension in the ONNX file, and every output dimension
    that torch found to be equal to it. Weights above request.external_above_bytes go beside the model in a
    directory, the way Triton's onnxruntime backend takes them. ExportError: onnx_conversion, opset_changed,
    and read_graph's.
    """
    import torch

    named = tuple({axis: d for axis, d in enumerate(shape) if isinstance(d, str)} for shape in shapes)
    try:
        onnx_program = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            opset_version=request.opset,
            dynamic_shapes=named,
        )
    except OSError:
        raise
    except Exception as error:
        what = f"torch's ONNX exporter cannot translate the model to opset {request.opset}"
        raise not_exportable(error, what, "onnx_conversion", input_names) from error
    assert onnx_program is not None
    finish(onnx_program.model, input_names, output_names)
    target = clear(out_dir)
    if program_bytes(program) <= request.external_above_bytes:
        with replacing(target) as temporary:
            onnx_program.save(str(temporary), external_data=False)
        model_path = target
    else:
        target.mkdir()
        model_path = target / MODEL_FILE
        onnx_program.save(str(model_path), external_data=True)
    return model_path, *written_graph(model_path, request, out_dir)


def written_graph(model_path: Path, request: ExportRequest, out_dir: Path) -> tuple[tuple[str, ...], Graph]:
    """What torch wrote, read back → (files for a version directory, its graph); ExportError opset_changed, read_graph's."""
    graph = read_graph(model_path)
    if graph.opset != request.opset:
        raise ExportError(
            f"opset {request.opset} was asked for, but torch wrote opset {graph.opset}",
            code="opset_changed",
            seen=graph.opset,
            fix=f"opset: {graph.opset}; some operator of this model cannot be written in opset {request.opset}",
        )
    relative = model_path.relative_to(out_dir)
    return (str(relative), *(str(relative.parent / f) for f in graph.external_files)), graph


def kept_state(program: ExportedProgram) -> list[str]:
    """Buffers and parameters that a call writes, and whose value before it decides what it answers.

    What a call writes and no answer depends on (a counter of calls) is no state of the served model.
    """
    if not any(_writes(node) for node in program.graph.nodes):
        return []
    program = program.run_decompositions({})  # what is written in place becomes an output of its own
    signature = program.graph_signature
    written = {
        *signature.buffers_to_mutate.values(),
        *getattr(signature, "parameters_to_mutate", {}).values(),
    }
    sources = {**signature.inputs_to_buffers, **signature.inputs_to_parameters}
    answers = set(signature.user_outputs)
    (end,) = (node for node in program.graph.nodes if node.op == "output")
    reached = [node for node in end.all_input_nodes if node.name in answers]
    known = set(reached)
    while reached:
        for node in reached.pop().all_input_nodes:
            if node not in known:
                known.add(node)
                reached.append(node)
    return sorted(sources[node.name] for node in known if sources.get(node.name) in written)


def _writes(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def program_bytes(program: ExportedProgram) -> int:
    """Bytes of all parameters, buffers and constants."""
    import torch

    tensors = {**program.state_dict, **program.constants}
    return sum(t.numel() * t.element_size() for t in tensors.values() if isinstance(t, torch.Tensor))


def program_inputs(program: ExportedProgram) -> dict[str, Any]:
    """Placeholder name → fake tensor of each user input, in order."""
    wanted = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return {str(name): nodes[name].meta["val"] for name in wanted if name in nodes}


def symbolic_range(program: ExportedProgram, expression: Any) -> tuple[int, int | None]:
    """(smallest, largest) size of a dynamic dimension; torch's lower bound of 2 counts as 0.

    torch.export never considers sizes 0 and 1 (they specialise), so a lower bound of 2 says nothing about them. That of an
    expression follows from its symbols'.
    """
    lowest = {}
    for symbol in expression.free_symbols:
        bounds = program.range_constraints.get(symbol)
        lower = None if bounds is None else _whole(bounds.lower)
        lowest[symbol] = 0 if lower is None or lower <= 2 else lower
    bounds = program.range_constraints.get(expression)
    low = _whole(expression.subs(lowest))
    return max(0, low or 0), None if bounds is None else _whole(bounds.upper)


def _whole(bound: Any) -> int | None:
    try:
        value = int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return value if value < 2**62 else None


def check_ranges(
    wanted: Mapping[str, tuple[int, int]],
    accepted: Mapping[str, tuple[int, int | None]],
    where: Where | None,
    *,
    smallest: bool = False,
) -> None:
    """ExportError dim_range when the model takes less than the spec promises.

    smallest: the lower end counts, too. By itself it says little: torch thinks of every size as 2 or more, and of what is
    halved as 4; the smallest stated size is run, and tells.
    """
    for name, (lowest, largest) in wanted.items():
        low, high = accepted.get(name, (0, None))
        if (smallest and lowest < low) or (high is not None and largest > high):
            raise ExportError(
                f"the model does not take every size of {name} that the spec promises",
                code="dim_range",
                where=where,
                seen=f"{name}: {lowest} to {largest}",
                valid=[f"{low} to {high}" if high is not None else f"{low} and more"],
                fix="max_batch_size"
                if name == "batch"
                else f"dynamic_dims: {{{name}: …}} within the model's range",
            )


def refuse_unstated_bounds(
    stated: Collection[str], accepted: Mapping[str, tuple[int, int | None]], where: Where | None
) -> None:
    """ExportError dim_range for a dimension that the model takes up to a size only, and the spec says nothing of.

    Beyond that size the module goes another way, and the export does not: nobody would be told.
    """
    for name, (low, high) in accepted.items():
        if high is not None and name not in stated:
            raise ExportError(
                f"what torch.export captured holds for {name} up to {high} only, and the spec states no range",
                code="dim_range",
                where=where,
                seen=f"{name}: any size",
                valid=[f"{low} to {high}"],
                fix=f"dynamic_dims: {{{name}: {{min: {max(low, 1)}, max: {high}}}}}",
            )
