"""An ONNX model in memory as torch wrote it → the same with the names asked for, no dead nodes and no notes of its origin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

WRAPPED = "module."
"""Before the name of every weight: what is exported holds the source's module under this name."""


def finish(model: Any, input_names: Sequence[str], output_names: Sequence[str | None]) -> None:
    """Names the inputs and outputs; an output without a name goes, and every node that was there for it alone.

    Values inside that happen to have one of the names get another. An output that is an input, a weight or another
    output gets a node of its own, since a tensor has one name.
    """
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    _forget_origins(model)
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.name.startswith(WRAPPED) and value.name.removeprefix(WRAPPED) not in graph.initializers:
            value.name = value.name.removeprefix(WRAPPED)
    seen: list[Any] = []
    for value, name in zip(list(graph.outputs), output_names, strict=True):
        if name is None:
            continue
        shared = any(value is other for other in (*graph.inputs, *graph.initializers.values(), *seen))
        if shared:
            node = onnx_ir.node("Identity", [value], name=f"output_{len(seen)}")
            graph.append(node)
            copied = node.outputs[0]
            copied.type, copied.shape = value.type, value.shape
            value = copied
        seen.append(value)
    graph.outputs[:] = seen
    RemoveUnusedNodesPass()(model)
    named = [*graph.inputs, *seen]
    names = [*input_names, *(name for name in output_names if name is not None)]
    _free_names(graph, set(names), named)
    for value, name in zip(named, names, strict=True):
        value.name = name


def _free_names(graph: Any, names: set[str], kept: Sequence[Any]) -> None:
    values = list(_values(graph))
    taken = {value.name for value in values} | names
    ids = {id(value) for value in kept}
    for value in values:
        if value.name in names or id(value) in ids:
            number = 1
            while f"{value.name}_{number}" in taken:
                number += 1
            value.name = f"{value.name}_{number}"
            taken.add(value.name)


def _values(graph: Any) -> Iterator[Any]:
    """Every value of the graph and of those inside its nodes: ONNX wants their names to differ, too."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs
        for attribute in node.attributes.values():
            for inner in _graphs(attribute):
                yield from inner.inputs
                yield from inner.initializers.values()


def _graphs(attribute: Any) -> Sequence[Any]:
    kind = attribute.type.name
    if kind == "GRAPH":
        return [attribute.value]
    return list(attribute.value) if kind == "GRAPHS" else []


def _forget_origins(model: Any) -> None:
    """Removes what torch notes about where each node came from.

    The notes hold stack traces with this machine's paths: they would travel to production, and the same
    source would give other bytes in another directory.
    """
    model.metadata_props.clear()
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
