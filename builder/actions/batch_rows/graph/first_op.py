"""(ONNX file, the batches of a Difference) → the operator that makes it, from the values of the graph's inner tensors.

Where a row's numbers lie in an inner tensor nobody knows: attention moves the batch to any axis. But they are those that
change when the row is exchanged. An element that changes with row i and with row j, too, is made of both: the first
operator with such an output mixes them. Inside If, Loop and Scan it is the outer operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.intermediates import element_types, run_intermediates
from tritonsmith.builder.actions.batch_rows.compare import changed, relative_l2
from tritonsmith.builder.base.errors import BuildError

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

    Batch = Mapping[str, Array]

# A whole number made of floats jumps where its operand moves by a rounding; these jump and give floats.
_JUMPS = frozenset({"Round", "Floor", "Ceil", "Sign", "Hardmax", "TopK", "Mod", "Shrink", "Where"})
_ROUNDING = {"float16": 5e-3, "float32": 1e-4, "float64": 1e-4}
_BF16_ROUNDING = 5e-2
# Two different values may by chance round to the same: so few more or fewer elements are no other layout.
_CHANCE = 0.02


@dataclass(frozen=True, slots=True)
class Node:
    """An operator of the top-level graph. name: `ReduceMean 'pool'`."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Graph:
    """An ONNX file to look into. The file lies where something may be written beside it."""

    def __init__(self, path: Path) -> None:
        import onnx

        self.path = path
        self.model: Any = onnx.load(str(path), load_external_data=False)
        self.nodes = tuple(
            Node(_name(n), n.op_type, _read(n), tuple(o for o in n.output if o))
            for n in self.model.graph.node
        )
        self._types = element_types(self.model)

    def values(self, batches: Sequence[Batch]) -> Iterator[tuple[Node, dict[str, list[Array]]]]:
        """Each operator with its outputs' values, one a batch, in topological order; outputs NumPy cannot hold left out."""
        import numpy as np

        names = [o for node in self.nodes for o in node.outputs if self._is_readable(o)]
        makers = {o: node for node in self.nodes for o in node.outputs}
        found: dict[str, list[Array]] = {}
        waiting: dict[str, int] = {}
        texts = [{name: _as_text(array) for name, array in batch.items()} for batch in batches]
        for _, name, value in run_intermediates(str(self.path), names, texts):
            found.setdefault(name, []).append(value)
            if len(found[name]) < len(batches):
                continue
            node = makers[name]
            waiting[node.name] = waiting.get(node.name, 0) + 1
            if waiting[node.name] == sum(self._is_readable(o) for o in node.outputs):
                values = {o: found.pop(o) for o in node.outputs if o in found}
                yield node, {o: v for o, v in values.items() if all(isinstance(a, np.ndarray) for a in v)}

    def shapes(self, names: Sequence[str], batches: Sequence[Batch]) -> dict[str, list[tuple[int, ...]]]:
        """Shapes of inner tensors, one a batch; none where ONNX Runtime cannot show them."""
        import numpy as np

        texts = [{name: _as_text(array) for name, array in batch.items()} for batch in batches]
        found: dict[str, list[tuple[int, ...]]] = {}
        try:
            for _, name, value in run_intermediates(str(self.path), list(names), texts):
                if isinstance(value, np.ndarray):  # sequences have none
                    found.setdefault(name, []).append(value.shape)
        except BuildError:
            return {}
        return found

    def rounding(self, name: str) -> float | None:
        """What a tensor of halves rounds away; None for one that does not round so."""
        import onnx

        return _BF16_ROUNDING if self._types.get(name) == onnx.TensorProto.BFLOAT16 else None

    def maker(self, output: str) -> Node | None:
        """The operator whose output it is."""
        return next((node for node in self.nodes if output in node.outputs), None)

    def _is_readable(self, name: str) -> bool:
        import onnx

        unreadable = {onnx.TensorProto.BFLOAT16}
        unreadable |= {
            getattr(onnx.TensorProto, n) for n in dir(onnx.TensorProto) if n.startswith(("FLOAT8", "FLOAT4"))
        }
        return self._types.get(name) not in unreadable


def _as_text(array: Array) -> Array:
    """Strings as str, which ONNX Runtime's Python takes; the rest as it is."""
    import numpy as np

    if array.dtype != object:
        return array
    text = np.empty(array.size, dtype=object)
    text[:] = [v.decode() if isinstance(v, bytes) else v for v in array.reshape(-1).tolist()]
    return text.reshape(array.shape)


def _name(node: Any) -> str:
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    return f"{kind} {node.name or next((o for o in node.output if o), '')!r}"


def _read(node: Any) -> tuple[str, ...]:
    """What a node reads, in its body's graphs too."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names += _read(inner)
    return tuple(names)


def first_that_mixes(
    graph: Graph, batch: Batch, row_changed: Sequence[Batch], others_changed: Sequence[Batch]
) -> Node | None:
    """The first operator with an output element that the row changes and its neighbours change, too.

    row_changed: the batch with other rows in the row's place; others_changed: with other neighbours.
    """
    reshaped = None
    for node, outputs in _values(graph, [batch, *row_changed, *others_changed]):
        for base, *values in outputs.values():
            by_row, by_others = values[: len(row_changed)], values[len(row_changed) :]
            if any(value.shape != base.shape for value in values):
                differs_within = any(value.shape[1:] != base.shape[1:] for value in by_others)
                reshaped = reshaped or (node if differs_within else None)
                continue
            if bool((_changed_by(base, by_row) & _changed_by(base, by_others)).any()):
                return node
    return reshaped


def _changed_by(base: Array, values: Sequence[Array]) -> Array:
    """Elements that any of the values has otherwise."""
    found = changed(base, values[0])
    for value in values[1:]:
        found = found | changed(base, value)
    return found


def first_that_reaches(
    graph: Graph, batch: Batch, others_changed: Sequence[Batch], position: int
) -> Node | None:
    """The first operator with the batch as its first dimension whose values in the row's place come from its neighbours.

    Of operators that put rows elsewhere, where no element is made of two.
    """
    size = next(iter(batch.values())).shape[0]
    for node, outputs in _values(graph, [batch, *others_changed]):
        for base, *values in outputs.values():
            aligned = base.shape[:1] == (size,) and all(value.shape == base.shape for value in values)
            if aligned and bool(_changed_by(base[position], [value[position] for value in values]).any()):
                return node
    return None


def first_that_loses_rows(graph: Graph, batch: Batch, output: str) -> Node | None:
    """Of the operators on an output's way, the one whose output has another first dimension and whose input has the batch's."""
    size = next(iter(batch.values())).shape[0]
    shapes = {name: array.shape for name, array in batch.items()}
    for _, outputs in _values(graph, [batch]):
        shapes |= {name: values[0].shape for name, values in outputs.items()}
    node = graph.maker(output)
    while node is not None:
        made = [name for name in node.inputs if name in shapes]
        if any(shapes[name][:1] == (size,) for name in made):
            return node
        earlier = [graph.maker(name) for name in made]
        node = next((e for e in earlier if e is not None and e is not node), None)
    return graph.maker(output)


@dataclass(frozen=True, slots=True)
class Departure:
    """Where a row in a batch leaves the row alone. jumps: the operator made a rounding of its input into a step."""

    node: Node
    jumps: bool


def first_departure(
    graph: Graph,
    batch: Batch,
    row_changed: Sequence[Batch],
    alone: Batch,
    others_alone: Sequence[Batch],
    position: int,
) -> Departure | None:
    """The first operator whose values of the row differ between the batch and the row alone by more than rounding.

    batch, alone: with the row; row_changed, others_alone: with other rows in its place.
    """
    size = next(iter(batch.values())).shape[0]
    split = 1 + len(row_changed)
    inexact: set[str] = set()
    rounding: dict[str, float] = {}
    for node, outputs in _values(graph, [batch, *row_changed, alone, *others_alone]):
        limit = max((rounding[name] for name in node.inputs if name in rounding), default=0.0)
        for name in node.outputs:
            rounding[name] = max(limit, graph.rounding(name) or 0.0)
            if name not in outputs:
                continue
            row, own = _row_values(outputs[name][:split], outputs[name][split:], size, position)
            allowed = rounding[name] = max(limit, _ROUNDING.get(row.dtype.name, 0.0))
            if row.shape == own.shape:
                distance = relative_l2(row, own)
            else:
                distance = 0.0 if abs(row.size - own.size) <= _CHANCE * max(row.size, own.size) + 1 else 1.0
            if distance > 0:
                inexact.add(name)
            if distance > allowed:
                whole = row.dtype.kind != "f"
                jumps = (whole or node.op_type in _JUMPS) and bool(inexact.intersection(node.inputs))
                return Departure(node, jumps)
    return None


def _row_values(
    in_batch: Sequence[Array], by_itself: Sequence[Array], size: int, position: int
) -> tuple[Array, Array]:
    """(the row's values in the batch, the row's own): along the first dimension, else those that the row changes."""
    (base, *exchanged), (own, *others) = in_batch, by_itself
    shapes_hold = all(e.shape == base.shape for e in exchanged) and all(o.shape == own.shape for o in others)
    if not shapes_hold or not (found := _changed_by(base, exchanged)).any():
        return base.reshape(-1)[:0], own.reshape(-1)[:0]
    if base.shape[:1] == (size,) and own.shape[:1] == (1,) and base.shape[1:] == own.shape[1:]:
        return base[position], own[0]
    return base[found], own[_changed_by(own, others)]


def _values(graph: Graph, batches: Sequence[Batch]) -> Iterator[tuple[Node, dict[str, list[Array]]]]:
    """Graph.values, which ends early where ONNX Runtime cannot show a tensor."""
    try:
        yield from graph.values(batches)
    except (BuildError, RuntimeError, ValueError, TypeError):
        return
