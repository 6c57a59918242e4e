"""A seed → a small ONNX graph of row-wise operators, some that mix rows, and control flow, over Triton's 13 NumPy dtypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.builder.actions.batch_rows.models import model
from tests.onnx_models import tensor
from tritonsmith.builder.base.tensors import DTYPES

WIDTH = 4
NAMES = [d.kserve for d in DTYPES if d.numpy is not None]


@dataclass
class Graph:
    """The graph so far; `last` is an FP32 tensor [b, WIDTH]."""

    rng: np.random.Generator
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    last: str = "x"
    count: int = 0
    applied: list[str] = field(default_factory=list)

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"t{self.count}_{n}" for n in range(outputs)]
        self.count += 1
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"n{self.count}", **attributes))
        return names[0]

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(0, 1, shape).astype(np.float32))


Step = Callable[[Graph, str], str]


def _reduce(op: str, axis: int, keep: int = 1) -> Step:
    return lambda g, x: g.add("Sub", x, g.add(op, x, g.constant(np.array([axis])), keepdims=keep))


def _rows_moved(g: Graph, x: str) -> str:
    """Each row takes its neighbour's place."""
    ends = (g.constant(np.array([n])) for n in (1, 2**31, 0, 0, 1))
    one, most, zero, axis, first = ends
    return g.add("Concat", g.add("Slice", x, one, most, zero), g.add("Slice", x, axis, first, zero), axis=0)


def _first_row(g: Graph, x: str) -> str:
    zero, one = g.constant(np.array([0])), g.constant(np.array([1]))
    return g.add("Add", x, g.add("Slice", x, zero, one, zero))


def _row_number(g: Graph, x: str) -> str:
    zero, one = g.constant(np.int64(0)), g.constant(np.int64(1))
    size = g.add("Squeeze", g.add("Shape", x, start=0, end=1))
    column = g.add("Unsqueeze", g.add("Range", zero, size, one), g.constant(np.array([1])))
    return g.add("Add", x, g.add("Cast", column, to=TensorProto.FLOAT))


def _batch_size(g: Graph, x: str) -> str:
    return g.add("Div", x, g.add("Cast", g.add("Shape", x, start=0, end=1), to=TensorProto.FLOAT))


def _gram(g: Graph, x: str) -> str:
    return g.add("MatMul", g.add("MatMul", x, g.add("Transpose", x, perm=[1, 0])), x)


def _sorted(g: Graph, x: str) -> str:
    return g.add("TopK", x, g.add("Shape", x, start=0, end=1), outputs=2, axis=0)


def _weakly(step: Step, share: float) -> Step:
    """The row, and a small part of what mixes."""
    return lambda g, x: g.add("Add", x, g.add("Mul", step(g, x), g.constant(np.float32(share))))


def _recurrent(time_major: bool) -> Step:
    def step(g: Graph, x: str) -> str:
        axis = g.constant(np.array([1 if time_major else 0]))
        w, r = g.weight(1, 4 * WIDTH, WIDTH), g.weight(1, 4 * WIDTH, WIDTH)
        hidden = g.add("LSTM", g.add("Unsqueeze", x, axis), w, r, hidden_size=WIDTH)
        return g.add("Reshape", hidden, g.constant(np.array([-1, WIDTH])))

    return step


def _quantised(g: Graph, x: str) -> str:
    scale, zero = g.constant(np.float32(0.05)), g.constant(np.int8(0))
    return g.add("DequantizeLinear", g.add("QuantizeLinear", x, scale, zero), scale, zero)


def _embedded(g: Graph, x: str) -> str:
    small = g.add("Clip", g.add("Abs", x), g.constant(np.float32(0)), g.constant(np.float32(6)))
    index = g.add("Cast", small, to=TensorProto.INT64)
    return g.add(
        "ReduceMean", g.add("Gather", g.weight(7, WIDTH), index), g.constant(np.array([1])), keepdims=0
    )


def _normalised(g: Graph, x: str) -> str:
    return g.add("LayerNormalization", x, g.constant(np.ones(WIDTH, np.float32)), axis=-1)


def _top(g: Graph, x: str) -> str:
    return g.add("TopK", x, g.constant(np.array([WIDTH])), outputs=2, axis=1)


def _half(g: Graph, x: str) -> str:
    return g.add("Cast", g.add("Cast", x, to=TensorProto.FLOAT16), to=TensorProto.FLOAT)


ROW_WISE: dict[str, Step] = {
    "add": lambda g, x: g.add("Add", x, g.weight(WIDTH)),
    "matmul": lambda g, x: g.add("MatMul", x, g.weight(WIDTH, WIDTH)),
    "relu": lambda g, x: g.add("Relu", x),
    "tanh": lambda g, x: g.add("Tanh", x),
    "softmax": lambda g, x: g.add("Softmax", x, axis=1),
    "mean": _reduce("ReduceMean", 1),
    "cumsum": lambda g, x: g.add("CumSum", x, g.constant(np.int64(1))),
    "twice": lambda g, x: g.add("Transpose", g.add("Transpose", x, perm=[1, 0]), perm=[1, 0]),
    "reshape": lambda g, x: g.add(
        "Reshape", g.add("Reshape", x, g.constant(np.array([0, 2, -1]))), g.constant(np.array([-1, WIDTH]))
    ),
    "normalised": _normalised,
    "top": _top,
    "embedded": _embedded,
    "quantised": _quantised,
    "half": _half,
    "lstm": _recurrent(time_major=False),
    "nothing_of_mean": _weakly(_reduce("ReduceMean", 0), 0.0),
}
MIXING: dict[str, Step] = {
    "mean_rows": _reduce("ReduceMean", 0),
    "max_rows": _reduce("ReduceMax", 0),
    "softmax_rows": lambda g, x: g.add("Softmax", x, axis=0),
    "cumsum_rows": lambda g, x: g.add("CumSum", x, g.constant(np.int64(0))),
    "moved": _rows_moved,
    "first_row": _first_row,
    "row_number": _row_number,
    "batch_size": _batch_size,
    "gram": _gram,
    "sorted": _sorted,
    "lstm_rows": _recurrent(time_major=True),
    "weak_mean": _weakly(_reduce("ReduceMean", 0), 1e-3),
}


def _in_body(step: Step, kind: str) -> Step:
    """The step inside If (both branches) or Loop (run twice)."""

    def outer(g: Graph, x: str) -> str:
        inner = Graph(g.rng, constants=g.constants, count=g.count + 1000)
        read = x if kind == "If" else f"v{g.count}"
        made = step(inner, read)
        out = tensor(made, ("b", WIDTH))
        if kind == "If":
            other = helper.make_graph(
                [helper.make_node("Identity", [x], [f"{made}_else"])],
                "else",
                [],
                [tensor(f"{made}_else", ("b", WIDTH))],
            )
            branch = helper.make_graph(inner.nodes, "then", [], [out])
            condition = g.constant(np.array(True))
            g.count += 2000
            return g.add("If", condition, then_branch=branch, else_branch=other)
        go = f"go{g.count}"
        nodes = [*inner.nodes, helper.make_node("Identity", [go], [f"{go}_on"])]
        body = helper.make_graph(
            nodes,
            "body",
            [tensor(f"i{g.count}", (), "INT64"), tensor(go, (), "BOOL"), tensor(read, ("b", WIDTH))],
            [tensor(f"{go}_on", (), "BOOL"), out],
        )
        g.count += 2000
        return g.add("Loop", g.constant(np.int64(2)), "", x, body=body)

    return outer


def random_graph(seed: int) -> tuple[Any, str, list[str]]:
    """(model, dtype of its input, what was applied)."""
    rng = np.random.default_rng(seed)
    dtype = NAMES[seed % len(NAMES)]
    g = Graph(rng)
    x, outputs = tensor("x", ("b", WIDTH), dtype), []
    if dtype == "BYTES":
        steps: Sequence[str] = ["moved"] if rng.random() < 0.4 else ["twice"]
        g.last = {**ROW_WISE, **MIXING}[steps[0]](g, "x")
        applied, outputs = list(steps), [tensor("y", ("b", WIDTH), "BYTES")]
    else:
        applied = []
        if dtype != "FP32":
            g.last = g.add("Cast", "x", to=TensorProto.FLOAT)
        for _ in range(int(rng.integers(1, 6))):
            table = MIXING if rng.random() < 0.2 else ROW_WISE
            name = str(rng.choice(list(table)))
            body = str(rng.choice(["", "", "", "", "If", "Loop"]))
            g.last = (_in_body(table[name], body) if body else table[name])(g, g.last)
            applied.append(f"{body}{'.' if body else ''}{name}")
        out = NAMES[int(rng.integers(len(NAMES) - 1))]
        if out != "FP32":
            # Conversions of numbers that do not fit are left to the machine by the standard.
            scaled = g.add("Abs", g.add("Mul", g.last, g.constant(np.float32(20))))
            small = g.add("Clip", scaled, g.constant(np.float32(0)), g.constant(np.float32(100)))
            g.last = g.add("Cast", small, to=next(d.onnx for d in DTYPES if d.kserve == out))
        applied.append(out)
        outputs = [tensor("y", ("b", WIDTH), out)]
    g.nodes.append(helper.make_node("Identity", [g.last], ["y"]))
    return model(g.nodes, [x], outputs, g.constants), dtype, applied
