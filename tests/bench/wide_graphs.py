"""A seed → a small ONNX graph of several inputs and outputs, with all that random_graphs has and more, and requests for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.builder.actions.batch_rows.models import model
from tests.builder.actions.batch_rows.random_graphs import (
    MIXING,
    NAMES,
    ROW_WISE,
    WIDTH,
    Graph,
    Step,
    _in_body,
    _reduce,
)
from tests.onnx_models import tensor
from tritonsmith.builder.base.tensors import DTYPES

_NUMPY = {d.kserve: d.numpy for d in DTYPES if d.numpy is not None}
_ONNX = {d.kserve: d.onnx for d in DTYPES}
_NUMBERS = [name for name in NAMES if name != "BYTES"]


def _batch_norm(g: Graph, x: str) -> str:
    """BatchNormalization in training mode: the batch's own mean and variance."""
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    weights = [g.constant(v) for v in (ones, zeros, zeros, ones)]
    return g.add("BatchNormalization", x, *weights, outputs=3, training_mode=1)


def _reshaped_rows(g: Graph, x: str) -> str:
    """Columns become rows and rows columns, as a transposition that was written as a Reshape."""
    turned = g.add("Reshape", x, g.constant(np.array([WIDTH, -1])))
    return g.add("Reshape", g.add("Transpose", turned, perm=[1, 0]), g.constant(np.array([-1, WIDTH])))


def _reverse_rows(g: Graph, x: str) -> str:
    ends = [g.constant(np.array([n])) for n in (-1, -(2**31), 0, -1)]
    return g.add("Slice", x, *ends)


def _data_dependent_if(g: Graph, x: str) -> str:
    """All rows are doubled when the largest element of any of them is above 1."""
    largest = g.add("ReduceMax", x, keepdims=0)
    condition = g.add("Greater", largest, g.constant(np.float32(1)))
    number = g.count
    two = g.constant(np.float32(2))
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, list(inputs), [f"{name}{number}"])],
            name,
            [],
            [tensor(f"{name}{number}", ("b", WIDTH))],
        )
        for name, op, inputs in (("then", "Mul", (x, two)), ("else", "Identity", (x,)))
    }
    return g.add("If", condition, then_branch=branches["then"], else_branch=branches["else"])


def _scan(axis: int) -> Step:
    """A running sum by Scan, along the columns of each row (1) or over the rows (0)."""

    def step(g: Graph, x: str) -> str:
        n = g.count
        size: tuple[Any, ...] = (WIDTH,) if axis == 0 else ("b",)
        nodes = [
            helper.make_node("Add", [f"s{n}", f"e{n}"], [f"so{n}"]),
            helper.make_node("Identity", [f"so{n}"], [f"eo{n}"]),
        ]
        body = helper.make_graph(
            nodes,
            "body",
            [tensor(f"s{n}", size), tensor(f"e{n}", size)],
            [tensor(f"so{n}", size), tensor(f"eo{n}", size)],
        )
        # Zero, of the shape of a slice.
        first = g.add("ReduceSum", x, g.constant(np.array([axis])), keepdims=0)
        start = g.add("Mul", first, g.constant(np.float32(0)))
        name = f"scan{n}"
        g.count += 1
        g.nodes.append(
            helper.make_node(
                "Scan",
                [start, x],
                [f"{name}_state", name],
                num_scan_inputs=1,
                body=body,
                scan_input_axes=[axis],
                scan_output_axes=[axis],
            )
        )
        return name

    return step


def _bfloat(g: Graph, x: str) -> str:
    return g.add("Cast", g.add("Cast", x, to=TensorProto.BFLOAT16), to=TensorProto.FLOAT)


def _compared(g: Graph, x: str) -> str:
    """Where an element is above its row's mean."""
    mean = g.add("ReduceMean", x, g.constant(np.array([1])), keepdims=1)
    return g.add("Where", g.add("Greater", x, mean), x, g.add("Neg", x))


def _argmax_rows(g: Graph, x: str) -> str:
    """The number of the row that is largest in each column, added to all."""
    return g.add("Add", x, g.add("Cast", g.add("ArgMax", x, axis=0, keepdims=1), to=TensorProto.FLOAT))


ROWS: dict[str, Step] = {
    **ROW_WISE,
    "scan": _scan(1),
    "bfloat": _bfloat,
    "compared": _compared,
    "sum": _reduce("ReduceSum", 1),
    "sigmoid": lambda g, x: g.add("Sigmoid", x),
    "erf": lambda g, x: g.add("Erf", x),
}
MIXED: dict[str, Step] = {
    **MIXING,
    "batch_norm": _batch_norm,
    "reshaped_rows": _reshaped_rows,
    "reverse_rows": _reverse_rows,
    "data_if": _data_dependent_if,
    "scan_rows": _scan(0),
    "argmax_rows": _argmax_rows,
    "sum_all": lambda g, x: g.add("Sub", x, g.add("ReduceSum", x, keepdims=0)),
}


@dataclass(frozen=True, slots=True)
class Wide:
    """A graph, what was applied, and what its inputs are drawn as.

    inputs: name → (wire name of its type, shape: "b" is the batch, "n" any size, whether any value will do).
    """

    proto: Any
    applied: tuple[str, ...]
    inputs: Mapping[str, tuple[str, tuple[Any, ...], bool]]
    outputs: tuple[str, ...]


def _as_float(g: Graph, name: str, dtype: str) -> str:
    if dtype == "FP32":
        return name
    return g.add("Cast", name, to=TensorProto.FLOAT)


def _as(g: Graph, name: str, dtype: str) -> str:
    """FP32 → a type of the wire, of numbers that fit all of them."""
    if dtype == "FP32":
        return name
    scaled = g.add("Abs", g.add("Mul", name, g.constant(np.float32(20))))
    small = g.add("Clip", scaled, g.constant(np.float32(0)), g.constant(np.float32(100)))
    return g.add("Cast", small, to=_ONNX[dtype])


def wide_graph(seed: int, share_mixing: float = 0.12) -> Wide:
    """The graph of a seed."""
    rng = np.random.default_rng(seed)
    g = Graph(rng)
    # Every type comes up, whatever the number of graphs.
    first = _NUMBERS[seed % len(_NUMBERS)]
    inputs: dict[str, tuple[str, tuple[Any, ...], bool]] = {"x": (first, ("b", WIDTH), False)}
    outputs: list[tuple[str, tuple[Any, ...], str]] = []
    applied: list[str] = [first]
    g.last = _as_float(g, "x", first)

    def more(kind: str) -> None:
        name = f"{kind}_in"
        applied.append(kind)
        if kind == "rows":
            dtype = str(rng.choice(_NUMBERS))
            inputs[name] = (dtype, ("b", WIDTH), False)
            g.last = g.add("Add", g.last, _as_float(g, name, dtype))
        elif kind == "column":
            inputs[name] = ("FP32", ("b", 1), False)
            g.last = g.add("Mul", g.last, name)
        elif kind == "dynamic":
            inputs[name] = ("FP32", ("b", "n"), False)
            total = g.add("ReduceMean", name, g.constant(np.array([1])), keepdims=1)
            g.last = g.add("Add", g.last, total)
        elif kind == "scalar":
            inputs[name] = ("FP32", (), False)
            g.last = g.add("Mul", g.last, name)
        elif kind == "passed":
            dtype = NAMES[int(rng.integers(len(NAMES)))]
            inputs[name] = (dtype, ("b", 2), True)
            applied[-1] += f"({dtype})"
            moved = dtype != "BOOL" and rng.random() < share_mixing
            passed = MIXED["moved"](g, name) if moved else g.add("Identity", name)
            applied[-1] += " moved" if moved else ""
            outputs.append((passed, ("b", 2), dtype))

    for kind in ("rows", "column", "dynamic", "scalar", "passed"):
        if rng.random() < {"rows": 0.3, "column": 0.15, "dynamic": 0.25, "scalar": 0.03, "passed": 0.4}[kind]:
            more(kind)
    for _ in range(int(rng.integers(1, 7))):
        table = MIXED if rng.random() < share_mixing else ROWS
        name = str(rng.choice(list(table)))
        may_nest = not name.startswith(("scan", "data_if", "batch_norm"))
        body = str(rng.choice(["", "", "", "", "If", "Loop"])) if may_nest else ""
        g.last = (_in_body(table[name], body) if body else table[name])(g, g.last)
        applied.append(f"{body}{'.' if body else ''}{name}")
        if rng.random() < 0.1:
            outputs.append((g.last, ("b", WIDTH), "FP32"))
    if rng.random() < 0.2:
        outputs.append((g.add("ArgMax", g.last, axis=1, keepdims=0), ("b",), "INT64"))
        applied.append("class")
    if rng.random() < 0.2:
        total = g.add("ReduceMean", g.last, g.constant(np.array([1])), keepdims=1)
        outputs.append((total, ("b", 1), "FP32"))
    out = "BF16" if rng.random() < 0.01 else _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    applied.append(f"→ {out}")
    last = g.add("Cast", g.last, to=TensorProto.BFLOAT16) if out == "BF16" else _as(g, g.last, out)
    outputs.insert(int(rng.integers(len(outputs) + 1)), (last, ("b", WIDTH), out))
    made = []
    for number, (inner, shape, dtype) in enumerate(outputs):
        g.nodes.append(helper.make_node("Identity", [inner], [f"y{number}"]))
        made.append(tensor(f"y{number}", shape, dtype))
    taken = [tensor(name, shape, dtype) for name, (dtype, shape, _) in inputs.items()]
    order = rng.permutation(len(taken))
    proto = model(g.nodes, [taken[i] for i in order], made, g.constants)
    return Wide(proto, tuple(applied), inputs, tuple(f"y{n}" for n in range(len(outputs))))


def request(wide: Wide, rows: int, rng: np.random.Generator) -> dict[str, Any]:
    """One request of that many rows."""
    free = int(rng.integers(1, 4))
    sizes = {"b": rows, "n": free}
    return {
        name: _drawn(dtype, tuple(sizes.get(d, d) for d in shape), anything, rng)
        for name, (dtype, shape, anything) in wide.inputs.items()
    }


def _drawn(dtype: str, shape: tuple[int, ...], anything: bool, rng: np.random.Generator) -> Any:
    if dtype == "BYTES":
        words = [["", "é", "日本", "a" * 300, "0"][int(n)] + str(n) for n in rng.integers(0, 5, shape).flat]
        return np.array(words, dtype=object).reshape(shape)
    kind = np.dtype(_NUMPY[dtype])
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind.kind == "f":
        drawn = np.asarray(rng.normal(0, 1, shape)).astype(kind)
        if anything and drawn.size:
            drawn.flat[0] = rng.choice([np.nan, np.inf, -0.0, np.finfo(kind).tiny, np.finfo(kind).max])
        return drawn
    if anything:
        bounds = np.iinfo(kind)
        return rng.integers(bounds.min, bounds.max, shape, dtype=kind, endpoint=True)
    return np.asarray(rng.integers(0, 9, shape)).astype(kind)
