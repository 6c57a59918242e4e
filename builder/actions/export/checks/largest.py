"""(a runnable model, a sample, the ranges of its dynamic dims) → nothing, or the error that it fails at its largest sizes.

An encoder with a table of 256 positions answers short samples well, whatever range is stated; TensorRT builds an
engine for 512 positions without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tritonsmith.builder.actions.export.sources.callables import one_line
from tritonsmith.builder.base.dim_relations import sizes_with_relations
from tritonsmith.builder.base.errors import ExportError

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array
    from tritonsmith.builder.actions.export.exported import Exported, Runner
    from tritonsmith.builder.actions.export.request import ExportRequest


def refuse_sizes_beyond_the_model(
    run: Runner, sample: Mapping[str, Array], request: ExportRequest, exported: Exported
) -> None:
    """Runs one row of the sample, repeated until every named dim has its largest stated size.

    ExportError range_beyond_model when the model fails there.
    """
    import numpy as np

    sizes: dict[str, int] = {}
    for spec in exported.inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                is_batch = axis == 0 and request.max_batch_size > 0
                largest = request.dynamic_dims.get(dim, (0, 0, sample[spec.name].shape[axis]))[2]
                sizes[dim] = 1 if is_batch else largest
    if not sizes.keys() & request.dynamic_dims.keys():
        return
    free = {name: limits[2] for name, limits in request.dynamic_dims.items()}
    relations = {**exported.relations, **request.dim_relations}
    sizes = sizes_with_relations({**free, **sizes}, relations, sizes)
    inputs = {
        spec.name: np.resize(
            sample[spec.name],
            [
                1
                if axis == 0 and request.max_batch_size > 0
                else sizes[dim]
                if isinstance(dim, str)
                else sample[spec.name].shape[axis]
                for axis, dim in enumerate(spec.shape)
            ],
        )
        for spec in exported.inputs
    }
    try:
        run(inputs)
    except Exception as error:
        raise ExportError(
            f"the model fails at the largest sizes that dynamic_dims states: {one_line(error)}",
            code="range_beyond_model",
            seen=", ".join(f"{dim} {size}" for dim, size in sizes.items() if dim in request.dynamic_dims),
            fix="lower max in dynamic_dims to what the model was made for",
        ) from error
