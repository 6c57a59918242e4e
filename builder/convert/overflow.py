"""(fp32 model, samples) → the nodes whose values leave fp16's range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from builder.convert.half import FP16_MAX
from builder.intermediates import float_tensors, run_intermediates

if TYPE_CHECKING:
    from builder.samples import Array

HEADROOM = 2.0
"""Samples never show the largest value there is: from half of fp16's maximum on a node stays in fp32."""


def overflowing_nodes(model: Any, path: str, samples: Sequence[Mapping[str, Array]]) -> dict[str, str]:
    """Node name → reason. A node stays in fp32 when an input or output of it would not fit.

    path: the same model's file. Infinities of the fp32 model itself are left alone, since fp16 has them too.
    """
    import numpy as np
    import onnx

    limit = FP16_MAX / HEADROOM
    largest: dict[str, float] = {}
    for _, name, value in run_intermediates(path, float_tensors(model), samples):
        extreme = float(max(value.max(), -value.min())) if value.size else 0.0
        if not np.isfinite(extreme):
            extreme = float(np.abs(value[np.isfinite(value)]).max(initial=0.0))
        largest[name] = max(largest.get(name, 0.0), extreme)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.abs(onnx.numpy_helper.to_array(tensor))
            finite = values[np.isfinite(values)]
            largest[tensor.name] = float(finite.max(initial=0.0))
    found = {}
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            if largest.get(name, 0.0) > limit:
                found[node.name] = f"overflows fp16: |{name}| reaches {largest[name]:.3g}"
                break
    return found
