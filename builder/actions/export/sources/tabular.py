"""An ONNX model that a converter of tables made, and the library's own predict → Exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.export.batching import with_batch_dimension
from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.onnx_graph import read_graph
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.onnx import clear, named_by
from tritonsmith.builder.base.errors import ExportError, Where
from tritonsmith.builder.base.files.disk import replacing

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array
    from tritonsmith.builder.actions.export.exported import Runner

_FIX = "max_batch_size: 0"


def exported_table(
    model: Any,
    request: ExportRequest,
    out_dir: Path,
    path: Path,
    reference: Runner,
    rows: Callable[[int, Any], dict[str, Array]],
) -> Exported:
    """Writes the converted model. Each dimension at the front of an output is the batch, which some converters write as 1."""
    # A graph of trees alone names no version of the main operators; 15 is what its converter was asked for.
    declared = {"": 15, **{entry.domain: entry.version for entry in model.opset_import}}
    del model.opset_import[:]
    for domain, version in declared.items():
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, version
    for output in model.graph.output:
        first = output.type.tensor_type.shape.dim
        if first and first[0].dim_value == 1:
            first[0].ClearField("dim_value")
    target = clear(out_dir)
    with replacing(target) as temporary:
        temporary.write_bytes(model.SerializeToString())
    graph = read_graph(target)
    where = Where(path)
    inputs = named_by(request.inputs, graph.inputs, where, "input")
    outputs = named_by(request.outputs, graph.outputs, where, "output")
    return Exported(
        model_path=target,
        files=(target.name,),
        inputs=with_batch_dimension(inputs, request.max_batch_size, where, _FIX),
        outputs=with_batch_dimension(outputs, request.max_batch_size, where, _FIX),
        opset=graph.opset,
        ir_version=graph.ir_version,
        reference=reference,
        example=None,
        dim_ranges={},
        dependencies=(path,),
        rows=rows,
    )


def matrix_name(request: ExportRequest, features: int, path: Path) -> str:
    """What the one input is called: as the spec states it, else `X`; ExportError stated_tensor for several."""
    if len(request.inputs) > 1:
        raise ExportError(
            "the model takes one matrix of features",
            code="stated_tensor",
            where=Where(path),
            seen=[tensor.name for tensor in request.inputs],
            fix=f"input: [{{name: X, data_type: TYPE_FP32, dims: [{features}]}}]",
        )
    return request.inputs[0].name if request.inputs else "X"


def drawn_around(thresholds: Mapping[int, Sequence[float]], features: int, count: int, rng: Any) -> Array:
    """float32 [count, features]: on both sides of the values at which the model's trees branch, so that rows end in
    different leaves; standard normal for a feature that has none.
    """
    import numpy as np

    columns = []
    for feature in range(features):
        at = np.asarray(thresholds.get(feature, ()), dtype=np.float64)
        if not at.size:
            columns.append(rng.normal(size=count))
            continue
        spread = float(at.std()) or abs(float(at[0])) * 0.5 or 1.0
        columns.append(rng.choice(at, count) + rng.normal(size=count) * spread)
    return np.stack(columns, axis=1).astype(np.float32)
