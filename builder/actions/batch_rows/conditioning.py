"""(ONNX file, a seed) → the file with its weights moved by a few roundings: how far an answer moves then, rounding may move it.

A product over eight rows sums in another order than over one. What follows may blow that up: the variance of a row that
hardly varies, computed as a difference of large numbers, loses all its digits. The row alone, with weights that are as
good as those stated, then moves as much. A model that looks at the number of its rows moves alone by nothing of that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

_RELATIVE = {"float16": 2**-11, "float32": 2**-20, "float64": 2**-49}
"""Sixteen roundings, as a sum over some hundred products has them; of fp16, whose bounds are wide, one."""


def move_weights(path: Path, seed: int, target: Path) -> None:
    """Writes target, beside whose path external data may lie: each weight larger or smaller by that share of itself."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model: Any = onnx.load(str(path))
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name not in _RELATIVE:
            continue
        values: Array = numpy_helper.to_array(tensor)
        if values.size > 1:  # one number is what an author wrote: a bound, a step, nothing to be exact about
            moved = values * (1 + _RELATIVE[values.dtype.name] * rng.choice([-1.0, 1.0], values.shape))
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(values.dtype), tensor.name))
    onnx.save(
        model, str(target), save_as_external_data=model.ByteSize() > 2**30, location=f"{target.name}.data"
    )
