"""An ONNX model ↔ what conversions need of it: constants as initializers, named nodes, order, opset, files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import BuildError, SpecError, unknown

ONNX_DOMAINS = ("", "ai.onnx")


def load_prepared(path: Path) -> Any:
    """Reads the model whole; Constant nodes become initializers, nameless nodes get names."""
    import onnx

    return named(onnx.load(str(path)))


def named(model: Any) -> Any:
    """Constant nodes become initializers, nameless nodes get names."""
    graph = model.graph
    kept, taken = [], {node.name for node in graph.node}
    for node in graph.node:
        value = _tensor_of_constant(node)
        if value is not None:
            value.name = node.output[0]
            graph.initializer.append(value)
            continue
        if not node.name:
            node.name = _fresh(f"{node.op_type}_{node.output[0]}", taken)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    return model


def _tensor_of_constant(node: Any) -> Any | None:
    import numpy as np
    import onnx

    if node.op_type != "Constant" or node.domain not in ONNX_DOMAINS or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        return attribute.t
    types: dict[str, tuple[str, Any]] = {
        "value_float": ("f", np.float32),
        "value_floats": ("floats", np.float32),
    }
    types |= {"value_int": ("i", np.int64), "value_ints": ("ints", np.int64)}
    if attribute.name not in types:
        return None
    field, dtype = types[attribute.name]
    return onnx.numpy_helper.from_array(np.array(getattr(attribute, field), dtype=dtype))


def _fresh(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate


def opset_of(model: Any) -> int:
    """Version of the standard domain."""
    return next((int(e.version) for e in model.opset_import if e.domain in ONNX_DOMAINS), 1)


def at_opset(model: Any, smallest: int) -> Any:
    """The model, raised to the opset when it is below; BuildError opset_conversion when onnx cannot."""
    import onnx

    if opset_of(model) >= smallest:
        return model
    try:
        return onnx.version_converter.convert_version(model, smallest)
    except Exception as error:
        raise BuildError(
            f"the model cannot be raised from opset {opset_of(model)} to {smallest}: {str(error)[:200]}",
            code="opset_conversion",
            fix=f"export it at opset {smallest} or above",
        ) from error


def excluded_nodes(nodes: Sequence[tuple[str, str]], patterns: Sequence[str]) -> dict[str, str]:
    """Node name → the first pattern that matches its name or op type. nodes: (name, op type) of each.

    SpecError exclude_matches_nothing for a pattern without effect, which is most often a typing mistake.
    """
    found: dict[str, str] = {}
    used: set[str] = set()
    for name, op_type in nodes:
        for pattern in patterns:
            if fnmatchcase(name, pattern) or fnmatchcase(op_type, pattern):
                found.setdefault(name, pattern)
                used.add(pattern)
    for pattern in patterns:
        if pattern not in used:
            known = sorted({part for node in nodes for part in node})
            raise SpecError(
                f"exclude {pattern!r} matches no node",
                code="exclude_matches_nothing",
                **unknown(pattern, known, "name nodes or op types of the ONNX graph; * and ? are allowed"),
            )
    return found


def in_order(graph: Any) -> None:
    """Sorts the nodes topologically, as ONNX demands; order among independent nodes stays."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    nodes = list(graph.node)
    state = [0] * len(nodes)
    ordered: list[int] = []
    for first in range(len(nodes)):
        stack = [first]
        while stack:
            at = stack[-1]
            if state[at] == 0:
                state[at] = 1
                # Reversed, so that the first input's producer comes out first.
                stack += [
                    producer[name]
                    for name in reversed(list(names_read(nodes[at])))
                    if name in producer and state[producer[name]] == 0
                ]
            else:
                stack.pop()
                if state[at] == 1:
                    state[at] = 2
                    ordered.append(at)
    copies = [nodes[i] for i in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def names_read(node: Any) -> Iterable[str]:
    """Names a node reads, those its subgraphs take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield from names_read(inner)


def save(model: Any, out_dir: Path, external_above_bytes: int) -> tuple[str, ...]:
    """Writes model.onnx, or model.onnx/model.onnx with its data beside it → the paths below out_dir."""
    import onnx

    if model.ByteSize() <= external_above_bytes:
        onnx.save(model, str(out_dir / "model.onnx"))
        return ("model.onnx",)
    directory = out_dir / "model.onnx"
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(
        model,
        str(directory / "model.onnx"),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="model.onnx.data",
    )
    return ("model.onnx/model.onnx", "model.onnx/model.onnx.data")
