"""An ONNX graph whose inputs batch → the operators that read other rows of the batch, whatever the values are.

What runs show, they show of the values that were run; a mean over the batch that is rounded away in all of them is seen
here. The batch is followed by name through ONNX's shape inference; where that loses it (behind a Loop, say), an open
first axis is taken for it, as Triton takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

_ROWS = "rows of the batch"
"""The symbolic size that shape inference carries along."""

Axes = Callable[["_Node"], "set[int] | None"]
"""Axes of the first input along which the operator reads; negative ones count from the end, None is all of them."""


@dataclass(frozen=True, slots=True)
class _Node:
    proto: Any
    opset: int
    constants: Mapping[str, Any]
    attributes: Mapping[str, Any]

    def constant(self, index: int) -> list[int] | None:
        """A constant input's integers."""
        names = list(self.proto.input)
        value = self.constants.get(names[index]) if len(names) > index and names[index] else None
        return None if value is None else [int(v) for v in value.reshape(-1)]


def _axis(default: int) -> Axes:
    return lambda node: {int(node.attributes.get("axis", default))}


def _reduced(node: _Node) -> set[int] | None:
    axes = node.attributes.get("axes")
    if axes is None:
        has_input = len(node.proto.input) > 1 and node.proto.input[1]
        axes = node.constant(1) if has_input else []
        if axes is None:
            return set()  # known only when it runs
    if not axes:
        return set() if node.attributes.get("noop_with_empty_axes") else None
    return set(axes)


def _softmax(node: _Node) -> set[int] | None:
    if node.opset >= 13:
        return _axis(-1)(node)
    axis = int(node.attributes.get("axis", 1))  # before opset 13, of that axis and all behind it
    return None if axis == 0 else {axis}


def _from_axis(node: _Node) -> set[int] | None:
    return None if int(node.attributes.get("axis", -1)) == 0 else set()


def _optional_axis(node: _Node) -> set[int] | None:
    return {int(node.attributes["axis"])} if "axis" in node.attributes else None


_READS: Mapping[str, Axes] = {
    **dict.fromkeys(
        (
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
        ),
        _reduced,
    ),
    **dict.fromkeys(("ArgMax", "ArgMin"), _axis(0)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("TopK", "LpNormalization"), _axis(-1)),
    "LayerNormalization": _from_axis,
    "CumSum": lambda node: set(node.constant(1) or ()),
    "Unique": _optional_axis,
    "Compress": _optional_axis,
    "NonZero": lambda node: None,
    "MeanVarianceNormalization": lambda node: set(node.attributes.get("axes", (0, 2, 3))),
    "BatchNormalization": lambda node: {0} if node.attributes.get("training_mode") else set(),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), lambda node: {1 if node.attributes.get("layout") else 0}),
    "Scan": lambda node: {0} if "scan_input_axes" not in node.attributes else set(),
}


@dataclass(slots=True)
class _Look:
    """One graph with its bodies. shapes: of every value, the batch by its name. data: values that come of the inputs."""

    opset: int
    shapes: dict[str, list[Any]]
    data: set[str]
    constants: dict[str, Any]
    found: list[str] = field(default_factory=list)

    def at(self, graph: Any) -> None:
        import numpy as np
        import onnx

        for tensor in graph.initializer:
            if (
                tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
                and not tensor.external_data
            ):
                self.constants[tensor.name] = onnx.numpy_helper.to_array(tensor)
        for proto in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
            if proto.op_type == "Constant" and proto.output and "value" in attributes:
                value = onnx.numpy_helper.to_array(attributes["value"])
                if value.dtype.kind == "i":
                    self.constants[proto.output[0]] = value
            elif proto.op_type == "Constant" and "value_ints" in attributes:
                self.constants[proto.output[0]] = np.array(attributes["value_ints"])
            bodies = [a for a in attributes.values() if isinstance(a, onnx.GraphProto)]
            of_data = any(name in self.data for name in proto.input)
            if of_data:
                self._judge(_Node(proto, self.opset, self.constants, attributes))
            for body in bodies:
                if of_data:
                    self.data.update(value.name for value in body.input)
                self.at(body)
            inner = any(value.name in self.data for body in bodies for value in body.output)
            if (of_data or inner) and proto.op_type not in ("Shape", "Size"):
                self.data.update(proto.output)

    def _judge(self, node: _Node) -> None:
        proto = node.proto
        shape = self.shapes.get(proto.input[0])
        if proto.domain not in ("", "ai.onnx") or proto.input[0] not in self.data or shape == []:
            return
        if proto.op_type in ("MatMul", "Gemm"):
            reads = self._contracts(node)
        else:
            axes = _READS[proto.op_type](node) if proto.op_type in _READS else set()
            reads = any(_is_along(axis, axes, shape) for axis in _batch_axes(shape))
        if reads:
            self.found.append(f"{proto.op_type} {(proto.name or proto.output[0])!r}")

    def _contracts(self, node: _Node) -> bool:
        """Whether a product sums over the batch."""
        one, other = (self.shapes.get(name) for name in node.proto.input[:2])
        first = -2 if node.attributes.get("transA") else -1
        second = -1 if node.attributes.get("transB") else -2
        return bool(one and one[max(first, -len(one))] == _ROWS) or bool(
            other and node.proto.input[1] in self.data and other[max(second, -len(other))] == _ROWS
        )


def _batch_axes(shape: list[Any] | None) -> list[int]:
    if shape is not None and _ROWS in shape:
        return [axis for axis, dim in enumerate(shape) if dim == _ROWS]
    is_open = shape is None or not isinstance(shape[0], int) or shape[0] == 0
    return [0] if is_open else []


def _is_along(axis: int, axes: set[int] | None, shape: list[Any] | None) -> bool:
    if axes is None or axis in axes:
        return True
    return shape is not None and axis - len(shape) in axes


def operators_across_rows(model: onnx.ModelProto, outputs: Collection[str] = ()) -> list[str]:
    """`OPERATOR 'NAME'` of each that has a part in these outputs, or in all, in the graph's order.

    The model is changed: its batch gets a name of ours.
    """
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.value_info[:]
    if outputs:
        _keep(model.graph, outputs)
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].Clear()
            dims[0].dim_param = _ROWS
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    look = _Look(opset, dict(_shapes(inferred.graph)), {value.name for value in inputs}, {})
    look.at(inferred.graph)
    return look.found


def _keep(graph: Any, outputs: Collection[str]) -> None:
    """Nodes that have a part in the outputs, bodies of theirs whole."""
    needed = set(outputs)
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(_read(node))
    kept.reverse()
    served = [value for value in graph.output if value.name in outputs]
    nodes = [type(node).FromString(node.SerializeToString()) for node in kept]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend(served)


def _read(node: Any) -> Iterator[str]:
    import onnx

    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from (value.name for value in attribute.g.output)
            for inner in attribute.g.node:
                yield from _read(inner)


def operators_of_file(path: Path, outputs: Collection[str] = ()) -> list[str]:
    """As operators_across_rows; nothing of a file that ONNX's shape inference cannot follow."""
    import onnx

    try:
        return operators_across_rows(onnx.load(path, load_external_data=False), outputs)
    except Exception:  # what it cannot say is left to the runs
        return []


def _shapes(graph: Any) -> Iterator[tuple[str, list[Any]]]:
    import onnx

    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            yield (
                value.name,
                [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
            )
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _shapes(attribute.g)
