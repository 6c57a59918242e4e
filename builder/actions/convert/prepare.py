"""A model as people bring it → the same function as conversions take it: constants are initializers, nothing is dead."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.convert.graph import ONNX_DOMAINS, names_read
from tritonsmith.builder.base.errors import BuildError

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

SEPARATE_INPUTS_IR = 4
"""The first in which an initializer need not be listed among the inputs."""


def prepared(model: Any, *, fold: bool) -> tuple[Any, tuple[str, ...]]:
    """(the model, notes on what was done). Names of tensors that stay are those of the source.

    fold: constant Transpose, Cast and the like of weights are computed, so that a product finds its weight; a weight
    that others read, too, is then stored twice. BuildError functions_inlining when onnx cannot inline functions.
    """
    notes: list[str] = []
    if model.functions:
        model = _inlined(model)
        notes.append("functions inlined")
    graph = model.graph
    model.ir_version = max(model.ir_version, SEPARATE_INPUTS_IR)
    _sparse_to_dense(graph)
    _without_constant_inputs(graph)
    _identities(graph)
    if fold:
        _fold(model)
    removed = _without_dead(graph)
    if removed:
        notes.append(removed)
    _own_outputs(graph)
    _own_constants_of_bodies(graph)
    return model, tuple(notes)


def bodies(node: Any) -> Iterator[Any]:
    """Graphs that a node holds: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        yield from (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))


def has_body(node: Any) -> bool:
    """Whether it is an If, a Loop, a Scan, or another operator with a graph of its own."""
    return next(bodies(node), None) is not None


def outer_names(node: Any) -> set[str]:
    """Names that the bodies of a node take from outside of it."""
    found: set[str] = set()
    for body in bodies(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        own |= {name for inner in body.node for name in inner.output}
        read = {name for inner in body.node for name in (*inner.input, *outer_names(inner))}
        found |= (read | {value.name for value in body.output}) - own - {""}
    return found


def rename_outer(node: Any, new: dict[str, str]) -> None:
    """Renames what the bodies of a node take from outside."""
    for body in bodies(node):
        for inner in body.node:
            inner.input[:] = [new.get(name, name) for name in inner.input]
            rename_outer(inner, new)


def split_shared_constants(model: Any, kept: Container[str]) -> None:
    """Gives nodes that stay in fp32 copies of the constants they share with converted ones, so that these lose no digits."""
    import onnx

    floats = {t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    outside = {name for node in model.graph.node if node.name not in kept for name in node.input}
    copied: dict[str, str] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if node.name in kept and name in floats and name in outside:
                if name not in copied:
                    copied[name] = f"{name}_fp32"
                    copy = model.graph.initializer.add()
                    copy.CopyFrom(floats[name])
                    copy.name = copied[name]
                node.input[index] = copied[name]


def outputs_taken_off_inputs(graph: Any) -> list[tuple[int, Any]]:
    """Removes outputs that are inputs (converters would give them two producers) → place and value of each."""
    inputs = {value.name for value in graph.input}
    found = [(i, type(v).FromString(v.SerializeToString())) for i, v in enumerate(graph.output)]
    found = [(i, value) for i, value in found if value.name in inputs]
    for index, _ in reversed(found):
        del graph.output[index]
    return found


def put_back(graph: Any, outputs: list[tuple[int, Any]]) -> None:
    """The inverse of outputs_taken_off_inputs, after a conversion."""
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for index, value in outputs:
        value.type.tensor_type.elem_type = types[value.name]
        graph.output.insert(index, value)


def _inlined(model: Any) -> Any:
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        names = sorted(f"{f.domain}.{f.name}" for f in model.functions)
        raise BuildError(
            f"onnx cannot inline the model's functions ({', '.join(names[:4])}): {str(error)[:200]}",
            code="functions_inlining",
            fix="export it without functions of its own",
        ) from error


def _sparse_to_dense(graph: Any) -> None:
    import numpy as np
    import onnx

    for sparse in graph.sparse_initializer:
        values = onnx.numpy_helper.to_array(sparse.values)
        indices = onnx.numpy_helper.to_array(sparse.indices)
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        graph.initializer.append(onnx.numpy_helper.from_array(dense, sparse.values.name))
    del graph.sparse_initializer[:]


def _without_constant_inputs(graph: Any) -> None:
    """Inputs that are only the defaults of weights go: nobody feeds them (builder.actions.export.onnx_graph.read_graph)."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) < len(graph.input):
        copies = [_copy(value) for value in inputs]
        del graph.input[:]
        graph.input.extend(copies)


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _identities(graph: Any) -> None:
    """Who reads an Identity of a constant reads the constant."""
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Identity" and node.domain in ONNX_DOMAINS:
            source = same.get(node.input[0], node.input[0])
            if source in constants and node.output[0] not in outputs:
                same[node.output[0]] = source
    _rename(graph, same)


def _rename(graph: Any, new: dict[str, str]) -> None:
    if not new:
        return
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        rename_outer(node, new)


_FOLDED = ("Transpose", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def _fold(model: Any) -> None:
    """Computes nodes that give a weight in another form from constants alone."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        read = [name for name in node.input if name]
        foldable = node.op_type in _FOLDED and node.domain in ONNX_DOMAINS and node.output[0] not in outputs
        if not foldable or not read or any(name not in constants for name in read):
            kept.append(_copy(node))
            continue
        piece = onnx.helper.make_graph(
            [node], "piece", [], [onnx.helper.make_empty_tensor_value_info(node.output[0])],
            [constants[name] for name in dict.fromkeys(read)],
        )  # fmt: skip
        holder = onnx.helper.make_model(piece, opset_imports=model.opset_import, ir_version=model.ir_version)
        (value,) = ReferenceEvaluator(holder).run(None, {})
        folded = onnx.numpy_helper.from_array(_contiguous(value), node.output[0])
        constants[node.output[0]] = folded
        graph.initializer.append(folded)
    del graph.node[:]
    graph.node.extend(kept)


def _contiguous(value: Any) -> Array:
    import numpy as np

    result: Array = np.asarray(value, order="C")
    return result


def _without_dead(graph: Any) -> str:
    """Removes what no output depends on → a sentence that says how much; empty where there was nothing."""
    wanted = {value.name for value in graph.output}
    alive: list[Any] = []
    # Nodes are in topological order, so a reader comes before what it reads when walked from the end.
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            wanted |= {*names_read(node), *outer_names(node)}
            alive.append(node)
    dead_nodes = len(graph.node) - len(alive)
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    dead_weights = len(graph.initializer) - len(weights)
    if not dead_nodes and not dead_weights:
        return ""
    nodes, tensors = [_copy(node) for node in reversed(alive)], [_copy(tensor) for tensor in weights]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    return f"{dead_nodes} nodes and {dead_weights} constants removed that no output depends on"


def _own_outputs(graph: Any) -> None:
    """An output that is a constant is given by an Identity of it: converters look for a node behind each output."""
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer}
    given = [value.name for value in graph.output if value.name in constants]
    new = {name: f"{name}_value" for name in dict.fromkeys(given)}
    for name, inner in new.items():
        constants[name].name = inner
    _rename(graph, new)
    for name, inner in new.items():
        graph.node.append(onnx.helper.make_node("Identity", [inner], [name], name=f"{name}_identity"))


def _own_constants_of_bodies(graph: Any) -> None:
    """Bodies are left as they are, and so is what they read: constants that other nodes read, too, are copied."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outside = {name for node in graph.node for name in node.input}
    copied: set[str] = set()
    for node in graph.node:
        new = {name: f"{name}_body" for name in outer_names(node) & set(constants) & outside}
        rename_outer(node, new)
        for name, copy_name in new.items():
            if copy_name not in copied:
                copied.add(copy_name)
                copy = _copy(constants[name])
                copy.name = copy_name
                graph.initializer.append(copy)
