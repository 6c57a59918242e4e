"""(a module, example inputs) → model.onnx by torch's TorchScript exporter, which runs the module once and notes what ran.

It takes modules that torch.export refuses (an RNN over any length), and writes into the graph whatever Python decided in
that one run; so values that Python looked at are refused here, and sizes are held against the module by its caller.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.onnx_graph import Graph
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.onnx import clear
from tritonsmith.builder.actions.export.torch.errors import DATA_DEPENDENT, advice, line_of, not_exportable
from tritonsmith.builder.actions.export.torch.example_run import Watched
from tritonsmith.builder.actions.export.torch.ir import finish
from tritonsmith.builder.actions.export.torch.program import written_graph
from tritonsmith.builder.base.errors import ExportError, Where
from tritonsmith.builder.base.files.disk import replacing
from tritonsmith.builder.base.tensors import Dim

if TYPE_CHECKING:
    import torch

_LOST = (
    "to a NumPy array",
    "to a Python list",
    "results are registered as constants",
    "Iterating over a tensor",
)
"""What the tracer says of values that leave its sight, whatever they were made from."""


def refuse_reads(watched: Watched | None) -> None:
    """ExportError data_dependent where Python looked at a tensor's value: the trace would hold that one value for ever."""
    if watched is not None and watched.reads:
        where = watched.reads[0]
        raise ExportError(
            f"forward looks at the value of a tensor, and what follows is {DATA_DEPENDENT}: one run cannot show it all",
            code="data_dependent",
            where=where,
            fix=advice(f"{line_of(where)} {DATA_DEPENDENT}"),
        )


def write_traced(
    module: torch.nn.Module,
    tensors: Sequence[torch.Tensor],
    watched: Watched | None,
    request: ExportRequest,
    out_dir: Path,
    input_names: Sequence[str],
    output_names: Sequence[str | None],
    shapes: Sequence[Sequence[Dim]],
    output_axes: Sequence[Mapping[int, str]] = (),
) -> tuple[list[str], tuple[Path, tuple[str, ...], Graph]]:
    """→ (notes, as torch_program.write_onnx). output_axes: dynamic ones of each output, where torch does not find them
    itself: of a script.

    ExportError: data_dependent, not_traceable, onnx_conversion, too_large, unused_input, opset_changed, read_graph's.
    """
    import onnx_ir
    import torch

    refuse_reads(watched)
    size_bytes = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    if size_bytes > request.external_above_bytes:
        raise ExportError(
            "the TorchScript exporter does not write weights of this size",
            code="too_large",
            seen=f"{size_bytes} bytes",
        )
    places = [f"tritonsmith_input_{index}" for index in range(len(tensors))]
    axes = {
        place: {axis: dim for axis, dim in enumerate(shape) if isinstance(dim, str)}
        for place, shape in zip(places, shapes, strict=True)
    }
    ends = [f"tritonsmith_output_{index}" for index in range(len(output_axes))]
    axes |= {end: dict(dims) for end, dims in zip(ends, output_axes, strict=True)}
    target = clear(out_dir)
    with replacing(target) as temporary:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                torch.onnx.export(
                    module,
                    tuple(tensors),
                    str(temporary),
                    dynamo=False,
                    input_names=places,
                    output_names=ends or None,
                    dynamic_axes={place: dims for place, dims in axes.items() if dims},
                    opset_version=request.opset,
                    external_data=False,
                )
            except OSError:
                raise
            except Exception as error:
                what = f"torch's TorchScript exporter cannot translate the model to opset {request.opset}"
                raise not_exportable(error, what, "onnx_conversion", input_names) from error
        notes = _followed(told, watched, request)
        model: Any = onnx_ir.load(str(temporary))
        found = [value.name for value in model.graph.inputs]
        if found != places:
            unused = [name for name, place in zip(input_names, places, strict=True) if place not in found]
            raise ExportError(
                "the TorchScript exporter leaves out an input that forward does not use",
                code="unused_input",
                seen=", ".join(unused),
            )
        finish(model, input_names, output_names)
        onnx_ir.save(model, str(temporary))
    return notes, (target, *written_graph(target, request, out_dir))


def _followed(
    told: Sequence[warnings.WarningMessage], watched: Watched | None, request: ExportRequest
) -> list[str]:
    """Notes of what the tracer could not follow, or the ExportError.

    A size that torch's own code looks at is harmless; one that other code looks at may decide which way it goes, and is
    accepted only where the spec asks for this exporter.
    """
    import torch

    own = Path(torch.__file__).parent
    notes: dict[str, None] = {}
    for warning in told:
        text = str(warning.message)
        if not issubclass(warning.category, torch.jit.TracerWarning):
            continue
        where = Where(Path(warning.filename), warning.lineno)
        decides = not where.path.is_relative_to(own)
        if any(words in text for words in _LOST) or watched is None or (decides and request.exporter is None):
            raise ExportError(
                f"the TorchScript exporter cannot follow a value: {text.partition('. ')[0]}",
                code="not_traceable",
                where=where,
                fix=advice(".numpy()" if "NumPy" in text else DATA_DEPENDENT),
            )
        if decides:
            notes[f"TorchScript tracing keeps what Python made of a size in the example's run: {where}"] = (
                None
            )
    return list(notes)
