"""(fp32 model, samples) → the nodes whose values leave fp16's range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.intermediates import float_tensors, run_intermediates

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

FP16_MAX = 65504.0
SMALLEST_NORMAL = 2.0**-14
HEADROOM = 2.0
"""Samples never show the largest value there is: from half of fp16's maximum on a node stays in fp32."""


def overflowing_nodes(model: Any, path: str, samples: Sequence[Mapping[str, Array]]) -> dict[str, str]:
    """Node name → reason. A node stays in fp32 when an input or output of it would not fit.

    path: the same model's file. Infinities of the fp32 model itself are left alone, since fp16 has them too.
    """
    import numpy as np

    limit = FP16_MAX / HEADROOM
    largest: dict[str, float] = {}
    for _, name, value in run_intermediates(path, float_tensors(model), samples):
        extreme = float(max(value.max(), -value.min())) if value.size else 0.0
        if not np.isfinite(extreme):
            extreme = float(np.abs(value[np.isfinite(value)]).max(initial=0.0))
        largest[name] = max(largest.get(name, 0.0), extreme)
    return _overflows(model, largest, limit)


def unfit_constants(model: Any) -> dict[str, str]:
    """Node name → reason, of nodes with a constant beyond fp16's range, or one that is all below its normal numbers.

    Infinities are left alone (masks of attention), since fp16 has them too.
    """
    import numpy as np
    import onnx

    largest: dict[str, float] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.abs(onnx.numpy_helper.to_array(tensor))
            largest[tensor.name] = float(values[np.isfinite(values)].max(initial=0.0))
    found = _overflows(model, largest, FP16_MAX)
    for node in model.graph.node:
        for name in node.input:
            if 0 < largest.get(name, 0.0) < SMALLEST_NORMAL:
                found.setdefault(node.name, f"underflows fp16: |{name}| is {largest[name]:.3g} at most")
    return found


def _overflows(model: Any, largest: Mapping[str, float], limit: float) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            if largest.get(name, 0.0) > limit:
                found[node.name] = f"overflows fp16: |{name}| reaches {largest[name]:.3g}"
                break
    return found
