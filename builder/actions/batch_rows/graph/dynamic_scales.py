"""(ONNX file, a batch) → the file with every DynamicQuantizeLinear's scale held at what it is in that batch.

DynamicQuantizeLinear takes one scale from all rows of a batch, so that a row rounds otherwise beside others. That is the
precision the model was given, and every server of dynamically quantised models accepts it. With the scales held, nothing
else may mix.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.intermediates import run_intermediates

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

OP = "DynamicQuantizeLinear"


def hold_scales(path: Path, batch: Mapping[str, Array], target: Path) -> None:
    """Writes target, beside whose path external data may lie; BuildError intermediates when it cannot be run."""
    import onnx
    from onnx import helper, numpy_helper

    model: Any = onnx.load(str(path))
    dynamic = [node for node in model.graph.node if node.op_type == OP]
    names = [name for node in dynamic for name in node.output[1:]]
    for _, name, value in run_intermediates(str(path), names, [batch]):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    for node in dynamic:
        held = helper.make_node(
            "QuantizeLinear", [node.input[0], *node.output[1:]], [node.output[0]], node.name
        )
        node.CopyFrom(held)
    onnx.save(
        model, str(target), save_as_external_data=model.ByteSize() > 2**30, location=f"{target.name}.data"
    )
