"""An fp32 model → the same with the constant matrices of its MatMul nodes in blocks of int4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tritonsmith.builder.actions.convert.conversion import Conversion, Converted
from tritonsmith.builder.actions.convert.graph import at_opset
from tritonsmith.builder.actions.convert.options import Int4Options
from tritonsmith.builder.actions.convert.precisions.quantize import chosen_nodes
from tritonsmith.builder.actions.convert.prepare import bodies
from tritonsmith.builder.base.errors import ToolError

INT4_OPSET = 21


def convert_int4(conversion: Conversion) -> Converted:
    """The matrices of MatMul nodes that have two dimensions."""
    model = conversion.model
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    unfit = {
        node.name: f"its weight has {ranks[node.input[1]]} dimensions, not 2"
        for node in model.graph.node
        if node.op_type == "MatMul" and ranks.get(node.input[1], 2) != 2
    }
    chosen, kept = chosen_nodes(conversion, ("MatMul",), unfit)
    if chosen:
        model = int4_weights(model, list(conversion.excluded), conversion.options)
    return Converted(model, kept, chosen)


def int4_weights(model: Any, keep: Sequence[str], options: Int4Options) -> Any:
    """Rounds weights to the nearest of 16 levels a block; `keep` names nodes left alone.

    ToolError onnx_ir_missing: onnxruntime's weight-only quantizer is written on onnx-ir.
    """
    try:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer, QuantFormat
    except ModuleNotFoundError as error:
        raise ToolError(
            f"int4 needs the package {(error.name or 'onnx_ir').replace('_', '-')}",
            code="onnx_ir_missing",
            fix="pip install onnx-ir (it comes with tritonsmith[torch])",
        ) from error

    qdq = options.format == "qdq"
    quantizer = MatMulNBitsQuantizer(
        at_opset(model, INT4_OPSET) if qdq else model,
        bits=4,
        block_size=options.block_size,
        is_symmetric=options.symmetric,
        quant_format=QuantFormat.QDQ if qdq else QuantFormat.QOperator,
        nodes_to_exclude=[*keep, *_names_in_bodies(model.graph)],
    )
    quantizer.process()
    made = quantizer.model.model
    _once(made.graph)
    return made


def _names_in_bodies(graph: Any) -> list[str]:
    """Names of nodes below If, Loop and Scan, which the quantizer would take, too; nameless ones are given one."""
    found = []
    for node in graph.node:
        for body in bodies(node):
            for index, inner in enumerate(body.node):
                inner.name = inner.name or f"{node.name}_body_{index}"
                found.append(inner.name)
            found += _names_in_bodies(body)
    return found


def _once(graph: Any) -> None:
    """The quantizer writes a weight that several products share once for each of them."""
    named: tuple[tuple[Any, Callable[[Any], str]], ...] = (
        (graph.node, lambda node: str(node.output[0])),
        (graph.initializer, lambda tensor: str(tensor.name)),
    )
    for field, key in named:
        first: dict[str, Any] = {}
        for item in field:
            first.setdefault(key(item), item)
        if len(first) < len(field):
            copies = [type(item).FromString(item.SerializeToString()) for item in first.values()]
            del field[:]
            field.extend(copies)
