"""(a runnable model, a sample, the ranges of its dynamic dims) → nothing, or the error that it fails at its largest sizes.

An encoder with a table of 256 positions answers short samples well, whatever range is stated; TensorRT builds an
engine for 512 positions without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from builder.errors import ExportError
from builder.export.callables import one_line

if TYPE_CHECKING:
    from builder.export.exported import Exported, Runner
    from builder.export.request import ExportRequest
    from builder.samples import Array


def refuse_sizes_beyond_the_model(
    run: Runner, sample: Mapping[str, Array], request: ExportRequest, exported: Exported
) -> None:
    """Runs one row of the sample, repeated until every named dim has its largest stated size.

    ExportError range_beyond_model when the model fails there.
    """
    import numpy as np

    inputs = {}
    sizes: dict[str, int] = {}
    for spec in exported.inputs:
        shape = list(sample[spec.name].shape)
        for axis, dim in enumerate(spec.shape):
            if axis == 0 and request.max_batch_size > 0:
                shape[axis] = 1
            elif isinstance(dim, str) and dim in request.dynamic_dims:
                sizes[dim] = shape[axis] = request.dynamic_dims[dim][2]
        inputs[spec.name] = np.resize(sample[spec.name], shape)
    if not sizes:
        return
    try:
        run(inputs)
    except Exception as error:
        raise ExportError(
            f"the model fails at the largest sizes that dynamic_dims states: {one_line(error)}",
            code="range_beyond_model",
            seen=", ".join(f"{dim} {size}" for dim, size in sizes.items()),
            fix="lower max in dynamic_dims to what the model was made for",
        ) from error
