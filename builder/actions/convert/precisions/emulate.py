"""A model at a precision that ONNX Runtime does not compute here → an fp32 one that rounds where that precision would.

Products are summed in fp32 on rounded operands, which is what GPUs do: their units for bf16, TF32 and FP4 accumulate
in fp32. Tensor names stay, so that layers can be compared. Subgraphs are not looked into.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonsmith.builder.actions.accuracy.intermediates import element_types
from tritonsmith.builder.actions.convert.graph import in_order
from tritonsmith.builder.actions.convert.precisions.nvfp4 import BLOCK, DYNAMIC_QUANTIZE, E2M1_MAX

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TF32_SPLIT = float(2**13 + 1)
"""Dekker's splitting: x·(2ˢ+1) − (x·(2ˢ+1) − x) keeps the first 24 − s of a float's 24 digits; TF32 has 11."""


def emulated_bf16(model: Any) -> Any:
    """Every result is rounded to bf16. Rewrites the model in place and returns it."""
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


def emulated_tf32(model: Any) -> Any:
    """What products read is rounded to TF32's ten fraction digits. Rewrites the model in place and returns it."""
    import onnx

    types = element_types(model)
    steps = _Steps(model.graph, "tf32")
    rounded: dict[str, str] = {}
    for node in list(model.graph.node):
        if node.op_type not in _PRODUCTS:
            continue
        for index in (0, 1):
            name = node.input[index]
            if types.get(name) != onnx.TensorProto.FLOAT:
                continue
            if name not in rounded:
                large = steps("Mul", name, steps.constant(TF32_SPLIT))
                high = steps("Sub", large, steps("Sub", large, name))
                # Beyond this the product above is infinite; such numbers are masks, and stay.
                fits = steps("Less", steps("Abs", name), steps.constant(1e34))
                rounded[name] = steps("Where", fits, high, name)
            node.input[index] = rounded[name]
    in_order(model.graph)
    return model


def emulated_nvfp4(model: Any) -> Any:
    """Weights become what they stand for; activations are rounded block by block. In place, and returns it."""
    import onnx

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dynamic = {n.output[0]: n for n in graph.node if n.op_type == DYNAMIC_QUANTIZE}
    block_scales = {n.output[1] for n in dynamic.values()}
    steps = _Steps(graph, "nvfp4")
    nodes = list(graph.node)
    gone = [id(node) for node in dynamic.values()]
    for node in nodes:
        if node.op_type != "DequantizeLinear":
            continue
        source = node.input[0]
        if source in dynamic:
            _rounded_in_blocks(steps, dynamic[source].input[0], dynamic[source].input[1], node.output[0])
        elif source in constants and constants[source].data_type in _SMALL_FLOATS:
            values = _dequantized_constant(node, constants)
            constants[node.output[0]] = onnx.numpy_helper.from_array(values, node.output[0])
            graph.initializer.append(constants[node.output[0]])
        elif source not in block_scales:
            continue
        gone.append(id(node))
    kept = [node for node in graph.node if id(node) not in gone]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    left = [e for e in model.opset_import if e.domain != "trt"]
    del model.opset_import[:]
    model.opset_import.extend(left)
    in_order(graph)
    return model


_SMALL_FLOATS = (17, 23)  # onnx.TensorProto.FLOAT8E4M3FN, FLOAT4E2M1


def _dequantized_constant(node: Any, constants: Mapping[str, Any]) -> Any:
    import numpy as np
    import onnx

    codes, scale = (onnx.numpy_helper.to_array(constants[name]).astype(np.float32) for name in node.input[:2])
    if scale.ndim:
        axis = next(a.i for a in node.attribute if a.name == "axis")
        scale = np.repeat(scale, BLOCK, axis=axis)
    return codes * scale


def _rounded_in_blocks(steps: _Steps, name: str, scale: str, output: str) -> None:
    """A tensor whose last dimension is a multiple of BLOCK, rounded as TRT_FP4DynamicQuantize and its Q/DQ would."""
    import onnx

    number = steps.constant
    blocks = steps("Reshape", name, steps.constants([-1, BLOCK]))
    largest = steps("ReduceMax", steps("Abs", blocks), steps.constants([1]), keepdims=1)
    wanted = steps("Div", largest, steps("Mul", scale, number(E2M1_MAX)))
    block_scale = steps(
        "Cast", steps("Cast", wanted, to=onnx.TensorProto.FLOAT8E4M3FN), to=onnx.TensorProto.FLOAT
    )
    unit = steps("Mul", block_scale, scale)
    ratio = steps("Div", blocks, steps("Max", unit, number(1e-30)))
    size = steps("Min", steps("Abs", ratio), number(E2M1_MAX))
    # Between 0 and 2 E2M1 counts in halves, to 4 in ones, to 6 in twos; Round takes the even one of two neighbours.
    coarse = steps("Where", steps("Less", size, number(4.0)), number(1.0), number(2.0))
    spacing = steps("Where", steps("Less", size, number(2.0)), number(0.5), coarse)
    code = steps("Mul", steps("Round", steps("Div", size, spacing)), spacing)
    value = steps("Mul", steps("Mul", steps("Sign", ratio), code), unit)
    steps("Reshape", value, steps("Shape", name), output=output)


class _Steps:
    """Appends nodes to a graph, one a call, and gives back the names of their outputs."""

    def __init__(self, graph: Any, prefix: str) -> None:
        self._graph, self._prefix, self._count = graph, prefix, 0
        self._numbers: dict[float, str] = {}

    def __call__(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        import onnx

        name = output or self._fresh()
        self._graph.node.append(
            onnx.helper.make_node(op_type, list(inputs), [name], name=f"{name}__{self._prefix}", **attributes)
        )
        return name

    def constant(self, value: float) -> str:
        """A scalar fp32 initializer; one for each value."""
        import numpy as np

        if value not in self._numbers:
            self._numbers[value] = self._initializer(np.float32(value).reshape(()))
        return self._numbers[value]

    def constants(self, values: list[int]) -> str:
        """An int64 initializer."""
        import numpy as np

        return self._initializer(np.array(values, np.int64))

    def _initializer(self, array: Any) -> str:
        import onnx

        name = self._fresh()
        self._graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def _fresh(self) -> str:
        self._count += 1
        return f"{self._prefix}__{self._count}"
