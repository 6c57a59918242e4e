"""An ONNX graph whose inputs batch → the operators that read other rows of the batch, whatever the values are.

What runs show, they show of the values that were run; a mean over the batch that is rounded away in all of them is seen
here. Shapes are inferred for two numbers of rows: an axis whose size follows them has the batch in it. Where inference
loses the sizes (behind a Loop, say) and no run tells them, an open first axis is taken for it, as Triton takes it, or the
only open one; of operators that move elements nothing is said there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.intermediates import without_weights
from tritonsmith.builder.actions.batch_rows.graph.along import MOVES, READS
from tritonsmith.builder.actions.batch_rows.graph.node import BATCHES, Dim, Node, Shape, varies

if TYPE_CHECKING:
    import onnx

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

_OF_SIZES = frozenset({"Shape", "Size", "EyeLike", "RandomNormalLike", "RandomUniformLike"})
"""What they give comes of a shape alone, and no row has a part in it."""

_COUNTED = frozenset({"Range", *_OF_SIZES})

_SHAPED = frozenset({"Reshape", "Expand", "Tile", "Slice", "Squeeze", "Unsqueeze", "Pad", "Split"})
"""Whose other inputs are sizes and places, not values."""


Measured = Callable[[Sequence[str]], Mapping[str, Shape]]
"""Names of tensors → the shapes of those that a run shows."""


class GraphNotReadError(Exception):
    """ONNX cannot infer the graph's shapes; the text is ONNX's."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """What is known of a graph's values and of those of the graphs around it.

    data: values that come of the inputs; counted: of sizes; fixed: constants, with their integers in `constants`.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)
    data: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)
    fixed: set[str] = field(default_factory=set)

    def inner(self, graph: Any, at_other: Any) -> _Scope:
        """A body's own, which does not reach out of it: branches may use one name twice."""
        shapes = {**self.shapes, **_shapes(graph, at_other)}
        return _Scope(shapes, dict(self.constants), set(self.data), set(self.counted), set(self.fixed))

    def node(self, proto: Any, opset: int, attributes: Mapping[str, Any]) -> Node:
        names = tuple(proto.input)
        picks = {
            index
            for index, name in enumerate(names)
            if name in self.fixed or (name in self.data and name not in self.counted)
        }
        return Node(
            proto.op_type,
            opset,
            attributes,
            names,
            tuple(self.shapes.get(name) if name else None for name in names),
            tuple(self.shapes.get(name) for name in proto.output),
            tuple(self.constants.get(name) for name in names),
            frozenset(picks),
        )


@dataclass(frozen=True, slots=True)
class _Look:
    """Through one graph and its bodies.

    found: `OPERATOR 'NAME'` of those that read other rows; unknown: tensors whose sizes would have told more.
    """

    opset: int
    found: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)

    def at(self, graph: Any, at_other: Any, scope: _Scope) -> None:
        """graph, at_other: with shapes for either number of rows; scope takes what becomes known."""
        for tensor in graph.initializer:
            _take_constant(tensor.name, tensor, scope)
        for proto, other in zip(graph.node, at_other.node, strict=True):
            attributes = _attributes(proto)
            if proto.op_type == "Constant":
                _take_constant(proto.output[0], next(iter(attributes.values())), scope)
            of_data = any(name in scope.data for name in proto.input)
            read = list(_read(proto))
            matters = proto.op_type in READS or proto.op_type in MOVES or len(read) > len(proto.input)
            if matters and any(name in scope.data for name in read):
                read += proto.output
                self.unknown.update(name for name in read if name and not _is_known(scope.shapes.get(name)))
            if of_data and proto.domain in _DOMAINS and self._reads_others(proto, attributes, scope):
                self.found.append(f"{proto.op_type} {proto.name or next(filter(None, proto.output), '')!r}")
            for body, body_at_other in zip(_bodies(proto), _bodies(other), strict=True):
                inside = scope.inner(body, body_at_other)
                inputs = [value.name for value in body.input]
                if proto.op_type == "Loop":
                    inside.counted.update(inputs[:1])
                    inputs = inputs[1:]
                if of_data:
                    inside.data.update(inputs)
                self.at(body, body_at_other, inside)
                of_data = of_data or any(value.name in inside.data for value in body.output)
            if of_data and proto.op_type not in _OF_SIZES:
                scope.data.update(proto.output)
            values = proto.input[:1] if proto.op_type in _SHAPED else proto.input
            if proto.op_type in _COUNTED or any(name in scope.counted for name in values):
                scope.counted.update(proto.output)

    def _reads_others(self, proto: Any, attributes: Mapping[str, Any], scope: _Scope) -> bool:
        node = scope.node(proto, self.opset, attributes)
        reads = READS[node.op](node) if node.op in READS else {}
        for operand, axes in reads.items():
            if operand >= len(node.shapes) or proto.input[operand] not in scope.data:
                continue
            shape = node.shapes[operand]
            known = {axis for axis, dim in enumerate(shape or ()) if varies(dim)}
            batched = known or _assumed(shape)
            if batched and (axes is None or axes.intersection(batched)):
                return True
        moves = MOVES.get(node.op)
        return moves is not None and any(
            moves(node, operand, axis)
            for operand, shape in enumerate(node.shapes)
            for axis, dim in enumerate(shape or ())
            if varies(dim)
        )


def _is_known(shape: Shape) -> bool:
    return shape is not None and None not in shape


def _assumed(shape: Shape) -> set[int]:
    """The axis in which the batch would be, where its size is not known."""
    if shape is None:
        return {0}
    unknown = {axis for axis, dim in enumerate(shape) if dim is None}
    if 0 in unknown:
        return {0}
    return unknown if len(unknown) == 1 else set()


def _take_constant(name: str, value: Any, scope: _Scope) -> None:
    """value: a tensor, or what an attribute of Constant holds."""
    import onnx

    scope.fixed.add(name)
    if isinstance(value, onnx.TensorProto):
        if value.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
            return
        if value.data_location == onnx.TensorProto.EXTERNAL:
            return
        value = onnx.numpy_helper.to_array(value).reshape(-1).tolist()
    if isinstance(value, int):
        value = [value]
    if isinstance(value, list) and all(isinstance(v, int) for v in value):
        scope.constants[name] = tuple(value)


def _attributes(proto: Any) -> dict[str, Any]:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}


def _bodies(proto: Any) -> Iterator[Any]:
    import onnx

    for attribute in proto.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g


def operators_across_rows(
    model: onnx.ModelProto,
    outputs: Collection[str] = (),
    row: Mapping[str, tuple[int, ...]] | None = None,
    measured: Measured | None = None,
) -> list[str]:
    """`OPERATOR 'NAME'` of each that has a part in these outputs, or in all, in the graph's order.

    row: input → shape of one row of it, where it is known; sizes that the graph leaves open are taken from there.
    measured: gives the shapes of tensors that inference could not follow; without it the batch is assumed in them.
    GraphNotReadError where ONNX cannot infer shapes.
    """
    import onnx
    import onnx.inliner

    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    light = without_weights(model)
    weights.update(value.name for value in light.graph.input if value.name not in inputs)
    try:
        if light.functions:
            light = onnx.inliner.inline_local_functions(light)
        if outputs:
            _keep(light.graph, outputs)
        both = [_inferred(light, inputs, row or {}, rows) for rows in BATCHES]
        look = _looked(both, inputs, weights, {})
        look.unknown.intersection_update(name for node in model.graph.node for name in node.output)
        if measured is not None and look.unknown:
            known = measured(sorted(look.unknown))
            both = [_hinted(one, known, which) for which, one in enumerate(both)]
            look = _looked(both, inputs, weights, known)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise GraphNotReadError(" ".join(str(error).split())[:200]) from error
    return look.found


def _looked(
    both: Sequence[Any], inputs: Collection[str], weights: Collection[str], known: Mapping[str, Shape]
) -> _Look:
    graph, at_other = (one.graph for one in both)
    look = _Look(next((o.version for o in both[0].opset_import if o.domain in ("", "ai.onnx")), 0))
    shapes = {**_shapes(graph, at_other), **known}
    look.at(graph, at_other, _Scope(shapes, data=set(inputs), fixed=set(weights)))
    return look


def _hinted(inferred: Any, known: Mapping[str, Shape], which: int) -> Any:
    """What follows from the shapes that a run told."""
    import onnx

    for value in inferred.graph.value_info:
        shape = known.get(value.name)
        if shape is not None:
            del value.type.tensor_type.shape.dim[:]
            for dim in shape:
                value.type.tensor_type.shape.dim.add().dim_value = 0 if dim is None else dim[which]
    return onnx.shape_inference.infer_shapes(inferred, data_prop=True)


def _hand_down(graph: Any, known: Mapping[str, Any]) -> None:
    """Gives bodies the constants of the graphs around them, which ONNX's shape inference does not look up there."""
    own = {tensor.name: tensor for tensor in graph.initializer}
    read = {name for node in graph.node for name in node.input}
    graph.initializer.extend(known[name] for name in sorted(read & known.keys() - own.keys()))
    for node in graph.node:
        if node.op_type == "Constant":
            own.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        for body in _bodies(node):
            inside = {**known, **own}
            for value in body.input:
                inside.pop(value.name, None)
            _hand_down(body, {name: _named(tensor, name) for name, tensor in inside.items()})


def _named(tensor: Any, name: str) -> Any:
    """The tensor of a Constant under the name of its output."""
    if tensor.name == name:
        return tensor
    copy = type(tensor).FromString(tensor.SerializeToString())
    copy.name = name
    return copy


def shape_from_runs(two: tuple[int, ...], three: tuple[int, ...]) -> Shape:
    """A tensor's shape of two rows and of three → as it is taken to be for any number of them."""
    if len(two) != len(three):
        return None
    return tuple(
        (a + (b - a) * (BATCHES[0] - 2), a + (b - a) * (BATCHES[1] - 2))
        for a, b in zip(two, three, strict=True)
    )


def _inferred(model: Any, inputs: Iterable[str], row: Mapping[str, tuple[int, ...]], rows: int) -> Any:
    """A copy whose inputs have that many rows, with the shapes that follow."""
    import onnx

    copy = type(model).FromString(model.SerializeToString())
    del copy.graph.value_info[:]
    _hand_down(copy.graph, {})
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in inputs or not dims:
            continue
        known = row.get(value.name, ())
        if len(known) == len(dims) - 1:
            for dim, size in zip(dims[1:], known, strict=True):
                dim.dim_value = size
        dims[0].dim_value = rows
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(copy, data_prop=True)


def _shapes(graph: Any, at_other: Any) -> dict[str, Shape]:
    one, other = _dims(graph), _dims(at_other)
    found: dict[str, Shape] = {}
    for name, dims in one.items():
        others = other.get(name, [])
        if len(dims) == len(others):
            found[name] = tuple(_dim(a, b) for a, b in zip(dims, others, strict=True))
    return found


def _dim(one: int | None, other: int | None) -> Dim:
    return None if one is None or other is None else (one, other)


def _dims(graph: Any) -> dict[str, list[int | None]]:
    """Of the graph's own values, not of its bodies'."""
    found: dict[str, list[int | None]] = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[value.name] = [d.dim_value if d.HasField("dim_value") else None for d in dims]
    return found


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


def operators_of_file(
    path: Path,
    outputs: Collection[str] = (),
    row: Mapping[str, tuple[int, ...]] | None = None,
    measured: Measured | None = None,
) -> list[str]:
    """As operators_across_rows, of a file that ONNX Runtime runs."""
    import onnx

    return operators_across_rows(onnx.load(path, load_external_data=False), outputs, row, measured)
