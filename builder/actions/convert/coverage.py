"""(prepared source, converted model) → which nodes really compute in the precision, and why the others do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.config import with_config
from typing_extensions import TypedDict

from tritonsmith.builder.actions.accuracy.intermediates import element_types
from tritonsmith.builder.actions.convert.prepare import has_body
from tritonsmith.builder.actions.record import MORE, Count
from tritonsmith.builder.base.files.json_forms import JsonForm

QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
_BY_MATRIX = ("MatMul", "Gemm", "Conv", "ConvTranspose")


@dataclass(frozen=True, slots=True)
class Coverage(JsonForm):
    """How much of a model is in the precision.

    nodes, of_nodes: nodes that compute in it, of those that could at most: with fp32 tensors for fp16 and bf16, with an
    fp32 weight of two dimensions or more for the others. weight_bytes, of_weight_bytes: fp32 bytes of constants, likewise.
    kept: what stays and why → how many nodes.
    """

    nodes: int
    of_nodes: int
    weight_bytes: int
    of_weight_bytes: int
    kept: Mapping[str, int]


@with_config(MORE)
class CoverageRecord(TypedDict):
    """The same in the record of an artifact."""

    nodes: Count
    of_nodes: Count
    weight_bytes: Count
    of_weight_bytes: Count
    kept: dict[str, Count]


def weight_sizes(model: Any) -> dict[str, int]:
    """fp32 constant → its bytes."""
    import math

    import onnx

    return {
        t.name: 4 * math.prod(t.dims)
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.FLOAT
    }


def weighted_nodes(model: Any) -> dict[str, str]:
    """Node → op type, of nodes that multiply or look up an fp32 constant of two dimensions or more."""
    import onnx

    matrices = {
        t.name for t in model.graph.initializer if len(t.dims) > 1 and t.data_type == onnx.TensorProto.FLOAT
    }
    return {node.name: node.op_type for node in model.graph.node if matrices.intersection(node.input)}


def not_quantizable(model: Any, op_types: Iterable[str], precision: str) -> dict[str, str]:
    """Node → why a precision that stores weights cannot take it; nodes that have nothing to do with weights are left out."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    taken, weighted, found = tuple(op_types), weighted_nodes(model), {}
    for node in model.graph.node:
        if has_body(node):
            found[node.name] = "its body is not looked into"
        elif node.op_type in ("QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"):
            found[node.name] = "already quantized"
        elif node.op_type not in taken:
            if node.name in weighted or node.op_type in _BY_MATRIX:
                found[node.name] = f"{precision} takes {', '.join(taken)}, not {node.op_type}"
        elif (weight := node.input[1]) not in constants:
            made_by = producers.get(weight)
            found[node.name] = (
                "its weight is already quantized"
                if made_by is not None and made_by.op_type in QUANTIZED
                else f"{weight} is computed, no constant weight"
            )
        elif constants[weight].data_type != 1:  # onnx.TensorProto.FLOAT
            kind = _type_name(constants[weight].data_type)
            found[node.name] = f"its weight is {kind} already, not FLOAT"
    return found


def _type_name(data_type: int) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(data_type))


def really_quantized(model: Any, source: Any, names: Iterable[str]) -> tuple[str, ...]:
    """Of the source's nodes, those whose weight comes out of few bits in the made model, or that became MatMulNBits."""
    made = {name: node for node in model.graph.node for name in node.output}
    # Converters rename nodes and what they read, and keep what they give, unless a cast comes behind it.
    outputs = {node.name: node.output[0] for node in source.graph.node}

    def in_few_bits(node: Any) -> bool:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):  # of a result that is rounded, too
            return node.input[0] in made and in_few_bits(made[node.input[0]])
        weight = made.get(node.input[1]) if len(node.input) > 1 else None
        return node.op_type == "MatMulNBits" or (weight is not None and weight.op_type == "DequantizeLinear")

    return tuple(name for name in names if outputs[name] in made and in_few_bits(made[outputs[name]]))


def really_half(model: Any, names: Iterable[str]) -> tuple[str, ...]:
    """Of the named nodes, those that read or write half-precision tensors in the made model."""
    import onnx

    types = element_types(model)
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    wanted = set(names)
    return tuple(
        node.name
        for node in model.graph.node
        if node.name in wanted and any(types.get(n) in half for n in (*node.input, *node.output))
    )


def coverage(
    sizes: Mapping[str, int],
    made: Any,
    converted: Iterable[str],
    kept: Iterable[tuple[str, str]],
    weights: Container[str],
) -> Coverage:
    """sizes: weight_sizes of the source. kept: (op type, reason) of each node that stayed. weights: what could have gone."""
    left = weight_sizes(made)
    stayed = Counter(f"{op_type}: {reason}" for op_type, reason in kept)
    count = len(tuple(converted))
    return Coverage(
        nodes=count,
        of_nodes=count + sum(stayed.values()),
        weight_bytes=sum(
            size
            for name, size in sizes.items()
            if name in weights and name not in left and f"{name}_fp32" not in left
        ),
        of_weight_bytes=sum(sizes.values()),
        kept=dict(stayed.most_common()),
    )
