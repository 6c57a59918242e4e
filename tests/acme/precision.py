"""A precision: matrices in int8 with one scale each, activations as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonsmith.builder.base.precisions import PrecisionRow

if TYPE_CHECKING:
    from tritonsmith.builder.actions.convert.conversion import Conversion, Converted

ROW = PrecisionRow("int8_weights", {"relative_l2": 0.05, "cosine": 0.99}, convert="acme.precision:convert")


def convert(conversion: Conversion) -> Converted:
    """The constant matrices of MatMul nodes."""
    import numpy as np
    from onnx import helper, numpy_helper

    from tritonsmith.builder.actions.convert.conversion import Converted
    from tritonsmith.builder.actions.convert.graph import in_order
    from tritonsmith.builder.actions.convert.precisions.quantize import chosen_nodes

    graph = conversion.model.graph
    chosen, kept = chosen_nodes(conversion, ("MatMul",), {})
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.name in chosen]:
        weight = weights[node.input[1]]
        values = numpy_helper.to_array(weight)
        scale = np.float32(np.abs(values).max() / 127)
        given = [f"{weight.name}_int8", f"{weight.name}_scale"]
        graph.initializer.append(numpy_helper.from_array(np.round(values / scale).astype(np.int8), given[0]))
        graph.initializer.append(numpy_helper.from_array(scale, given[1]))
        graph.initializer.remove(weight)
        graph.node.append(helper.make_node("DequantizeLinear", given, [f"{weight.name}_read"]))
        node.input[1] = f"{weight.name}_read"
    in_order(graph)
    return Converted(conversion.model, kept, chosen)
