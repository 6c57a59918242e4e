"""A bf16 model → an fp32 one that rounds where bf16 would, for a machine that computes no bf16.

Each operator computes in fp32 on bf16 values and its result is rounded to bf16, which is what GPUs do: their
bf16 units accumulate in fp32.
"""

from __future__ import annotations

from typing import Any

from builder.convert.graph import in_order
from builder.intermediates import element_types


def emulated_bf16(model: Any) -> Any:
    """Rewrites the model in place and returns it; tensor names stay. Subgraphs are not looked into."""
    import onnx

    bf16, fp32 = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    halves = {name for name, kind in element_types(model).items() if kind == bf16}
    graph = model.graph
    for tensor in graph.initializer:
        _widen(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == bf16:
            value.type.tensor_type.elem_type = fp32
    del graph.value_info[:]
    rounding = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
        for index, name in enumerate(node.output):
            if name not in halves:
                continue
            raw, rounded = f"{name}__unrounded", f"{name}__bf16"
            node.output[index] = raw
            rounding += [
                onnx.helper.make_node("Cast", [raw], [rounded], name=rounded, to=bf16),
                onnx.helper.make_node("Cast", [rounded], [name], name=f"{name}__fp32", to=fp32),
            ]
    graph.node.extend(rounding)
    in_order(graph)
    return model


def _widen(tensor: Any) -> None:
    import numpy as np
    import onnx

    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
