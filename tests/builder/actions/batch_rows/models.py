"""Name → a small ONNX model that batching is safe for, or not, with the operator that mixes its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import tensor

node = helper.make_node
RNG = np.random.default_rng(5)


def weights(*shape: int) -> Any:
    return RNG.normal(0, 0.5, shape).astype(np.float32)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: Mapping[str, Any] | None = None,
    opset: int = 18,
) -> Any:
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    opsets = [
        helper.make_opsetid(domain, n) for domain, n in (("", opset), ("com.microsoft", 1), ("ai.onnx.ml", 3))
    ]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(made)
    return made


X, Y = tensor("x", ("b", 6)), tensor("y", ("b", 6))


@dataclass(frozen=True)
class Kind:
    """verdict, and of a mixing model a word of the operator's name; note: a word of the report's note."""

    make: Callable[[], Any]
    verdict: str = "independent"
    op: str = ""
    note: str = ""
    sizes: tuple[int, ...] = (1, 2, 3, 8)


def over_axis_0(op: str, **attributes: Any) -> Any:
    return model(
        [node(op, ["x"], ["z"], name="bad", axis=0, **attributes), node("Relu", ["z"], ["y"])], [X], [Y]
    )


def mean_over_rows() -> Any:
    nodes = [node("ReduceMean", ["x", "axes"], ["m"], name="bad", keepdims=1), node("Sub", ["x", "m"], ["y"])]
    return model(nodes, [X], [Y], {"axes": np.array([0])})


def cumulative() -> Any:
    return model([node("CumSum", ["x", "axis"], ["y"], name="bad")], [X], [Y], {"axis": np.int64(0)})


def batch_norm_training() -> Any:
    constants = {k: np.ones(6, np.float32) for k in ("scale", "var")} | {
        k: np.zeros(6, np.float32) for k in ("bias", "mean")
    }
    nodes = [
        node(
            "BatchNormalization",
            ["x", "scale", "bias", "mean", "var"],
            ["y", "m", "v"],
            name="bad",
            training_mode=1,
        )
    ]
    return model(nodes, [X], [Y], constants)


def gram() -> Any:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0]),
        node("MatMul", ["x", "t"], ["s"], name="bad"),
        node("MatMul", ["s", "x"], ["y"]),
    ]
    return model(nodes, [X], [Y])


def recurrent(op: str, layout_first: bool) -> Any:
    """Batch first: x is transposed to [time, batch, features]. Else the first dimension is time, taken for the batch."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    constants = {"w": weights(1, gates * 5, 3), "r": weights(1, gates * 5, 5)}
    inner = "t" if layout_first else "x"
    nodes = [
        node(op, [inner, "w", "r"], ["h4"], name="bad", hidden_size=5),
        node("Squeeze", ["h4", "one"], ["h"]),
    ]
    if layout_first:
        nodes.insert(0, node("Transpose", ["x"], ["t"], perm=[1, 0, 2]))
    nodes.append(node("Transpose", ["h"], ["y"], perm=[1, 0, 2] if layout_first else [0, 1, 2]))
    constants["one"] = np.array([1])
    return model(nodes, [tensor("x", ("b", 4, 3))], [tensor("y", ("b", 4, 5))], constants)


def attention(across_rows: bool) -> Any:
    """Self-attention within a row [b, t, f], or across rows, where the batch is taken for the sequence."""
    perm = [1, 0, 2] if across_rows else [0, 1, 2]
    nodes = [
        node("Transpose", ["x"], ["q"], perm=perm),
        node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["q", "k"], ["s"], name="bad"),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "q"], ["a"]),
        node("Transpose", ["a"], ["y"], perm=perm),
    ]
    return model(nodes, [tensor("x", ("b", 4, 3))], [tensor("y", ("b", 4, 3))])


def reshape(*shape: int, out: Sequence[int | str] = ("n", 4)) -> Any:
    constants = {"shape": np.array(shape)}
    return model([node("Reshape", ["x", "shape"], ["y"], name="bad")], [X], [tensor("y", out)], constants)


def top_rows() -> Any:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "zero", "one"], ["k"]),
        node("TopK", ["x", "k"], ["y", "i"], name="bad", axis=0),
    ]
    return model(nodes, [X], [Y], {"zero": np.array([0]), "one": np.array([1])})


def reversed_rows() -> Any:
    constants = {
        "from": np.array([-1]),
        "to": np.array([-(2**31)]),
        "axes": np.array([0]),
        "step": np.array([-1]),
    }
    return model([node("Slice", ["x", "from", "to", "axes", "step"], ["y"], name="bad")], [X], [Y], constants)


def row_number() -> Any:
    """Adds each row's place in the batch."""
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Squeeze", ["s"], ["n"]),
        node("Range", ["zero", "n", "one"], ["r"]),
        node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["f", "axis"], ["c"]),
        node("Add", ["x", "c"], ["y"], name="bad"),
    ]
    constants = {"zero": np.int64(0), "one": np.int64(1), "axis": np.array([1])}
    return model(nodes, [X], [Y], constants)


def by_batch_size() -> Any:
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        node("Div", ["x", "f"], ["y"], name="bad"),
    ]
    return model(nodes, [X], [Y])


def from_eight_rows() -> Any:
    """Subtracts the batch's mean once there are eight rows, as a model that was traced for large batches may."""
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("GreaterOrEqual", ["s", "eight"], ["g"]),
        node("Cast", ["g"], ["f"], to=TensorProto.FLOAT),
        node("ReduceMean", ["x", "axes"], ["m"], name="bad", keepdims=1),
        node("Mul", ["m", "f"], ["n"]),
        node("Sub", ["x", "n"], ["y"]),
    ]
    return model(nodes, [X], [Y], {"eight": np.array([8]), "axes": np.array([0])})


def selected() -> Any:
    """Rows [n, 2] of the values above 0: as many as there are, like what NonMaxSuppression selects."""
    nodes = [
        node("Greater", ["x", "zero"], ["g"]),
        node("NonZero", ["g"], ["nz"], name="bad"),
        node("Transpose", ["nz"], ["y"], perm=[1, 0]),
    ]
    return model(nodes, [X], [tensor("y", ("n", 2), "INT64")], {"zero": np.float32(0)})


def scalar_out() -> Any:
    nodes = [node("ReduceSum", ["x"], ["y"], name="bad", keepdims=0)]
    return model(nodes, [X], [tensor("y", ())])


def dynamic_quantised(then_mean: bool = False) -> Any:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dynamic"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
    ]
    last = [node("Identity", ["d"], ["y"])]
    constants = {}
    if then_mean:
        last = [
            node("ReduceMean", ["d", "axes"], ["m"], name="bad", keepdims=1),
            node("Mul", ["m", "small"], ["n"]),
            node("Add", ["d", "n"], ["y"]),
        ]
        constants = {"axes": np.array([0]), "small": np.float32(0.01)}
    return model([*nodes, *last], [X], [Y], constants)


def random_noise() -> Any:
    nodes = [node("RandomNormalLike", ["x"], ["n"], name="noise"), node("Add", ["x", "n"], ["y"])]
    return model(nodes, [X], [Y])


def in_body(kind: str) -> Any:
    """The rows are mixed inside a body; the outer operator is named."""

    def body(name: str, inputs: Sequence[Any]) -> Any:
        nodes = [
            node("ReduceMean", ["x", "axes"], [f"{name}m"], keepdims=1),
            node("Sub", ["x", f"{name}m"], [f"{name}o"]),
        ]
        return helper.make_graph(nodes, name, list(inputs), [tensor(f"{name}o", ("b", 6))])

    constants: dict[str, Any] = {"axes": np.array([0])}
    if kind == "If":
        nodes = [node("If", ["yes"], ["y"], name="bad", then_branch=body("a", []), else_branch=body("c", []))]
        constants["yes"] = np.array(True)
        return model(nodes, [X], [Y], constants)
    if kind == "Loop":
        inner = helper.make_graph(
            [
                node("ReduceMean", ["v", "axes"], ["m"], keepdims=1),
                node("Sub", ["v", "m"], ["w"]),
                node("Identity", ["go"], ["on"]),
            ],
            "body",
            [tensor("i", (), "INT64"), tensor("go", (), "BOOL"), tensor("v", ("b", 6))],
            [tensor("on", (), "BOOL"), tensor("w", ("b", 6))],
        )
        nodes = [node("Loop", ["n", "", "x"], ["y"], name="bad", body=inner)]
        return model(nodes, [X], [Y], constants | {"n": np.int64(3)})
    inner = helper.make_graph(
        [node("Add", ["sum", "row"], ["next"]), node("Identity", ["next"], ["o"])],
        "body",
        [tensor("sum", (6,)), tensor("row", (6,))],
        [tensor("next", (6,)), tensor("o", (6,))],
    )
    nodes = [node("Scan", ["start", "x"], ["last", "y"], name="bad", body=inner, num_scan_inputs=1)]
    return model(nodes, [X], [Y], {"start": np.zeros(6, np.float32)})


def layers() -> Any:
    """MatMul, LayerNormalization, MatMul: a row-wise network whose products are blocked by the number of rows."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("LayerNormalization", ["h", "scale"], ["n"], axis=-1),
        node("Relu", ["n"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    constants = {"w": weights(6, 300), "scale": np.ones(300, np.float32), "v": weights(300, 6)}
    return model(nodes, [X], [Y], constants)


def convolution() -> Any:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ]
    return model(nodes, [tensor("x", ("b", 3, 8, 8))], [tensor("y", ("b", 16))], {"w": weights(16, 3, 3, 3)})


def embedding() -> Any:
    nodes = [node("Gather", ["table", "x"], ["e"]), node("ReduceMean", ["e", "axes"], ["y"], keepdims=0)]
    constants = {"table": weights(9, 6), "axes": np.array([1])}
    return model(nodes, [tensor("x", ("b", "t"), "INT64")], [Y], constants)


def static_int8() -> Any:
    """Q/DQ around a product, then a class: a rounding may move a value across a quantization step."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("QuantizeLinear", ["h", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("MatMul", ["d", "v"], ["y"]),
        node("ArgMax", ["y"], ["label"], axis=1, keepdims=0),
    ]
    constants = {"w": weights(6, 300), "v": weights(300, 6), "s": np.float32(0.02), "z": np.int8(0)}
    return model(nodes, [X], [Y, tensor("label", ("b",), "INT64")], constants)


def halves(kind: int) -> Any:
    nodes = [
        node("Cast", ["x"], ["h"], to=kind),
        node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
        node("MatMul", ["f", "w"], ["g"]),
        node("Cast", ["g"], ["i"], to=kind),
        node("Cast", ["i"], ["j"], to=TensorProto.FLOAT),
        node("MatMul", ["j", "v"], ["y"]),
    ]
    return model(nodes, [X], [Y], {"w": weights(6, 300), "v": weights(300, 6)})


def fp16_io() -> Any:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    constants = {"w": weights(6, 64).astype(np.float16), "v": weights(64, 6).astype(np.float16)}
    return model(nodes, [tensor("x", ("b", 6), "FP16")], [tensor("y", ("b", 6), "FP16")], constants)


def strings() -> Any:
    nodes = [node("Identity", ["x"], ["y"])]
    return model(nodes, [tensor("x", ("b", 2), "BYTES")], [tensor("y", ("b", 2), "BYTES")])


def cut_to_the_longest() -> Any:
    """Cuts the batch to its longest row, which decides how products are blocked and nothing else."""
    nodes = [
        node("ReduceMax", ["length"], ["longest"], keepdims=0),
        node("Unsqueeze", ["longest", "zero"], ["end"]),
        node("Slice", ["x", "zero", "end", "one"], ["cut"]),
        node("Shape", ["cut"], ["n"], start=1, end=2),
        node("Squeeze", ["n"], ["n0"]),
        node("Range", ["zero0", "n0", "one0"], ["places"]),
        node("Less", ["places", "length"], ["valid"]),
        node("Unsqueeze", ["valid", "two"], ["mask"]),
        node("Where", ["mask", "cut", "nothing"], ["kept"]),
        node("MatMul", ["kept", "w"], ["h"]),
        node("ReduceSum", ["h", "one"], ["y"], keepdims=0),
    ]
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "zero0": np.int64(0),
        "one0": np.int64(1),
        "nothing": np.float32(0),
        "w": weights(3, 40),
    }
    inputs = [tensor("x", ("b", 12, 3)), tensor("length", ("b", 1), "INT64")]
    return model(nodes, inputs, [tensor("y", ("b", 40))], constants)


def ill_conditioned(by_batch_size: bool = False) -> Any:
    """Normalises by a variance that is the difference of two large numbers; by_batch_size: and divides by the rows."""
    nodes = [
        node("Mul", ["x", "w"], ["m"]),
        node("Add", ["m", "far"], ["h"]),
        node("Mul", ["h", "h"], ["hh"]),
        node("ReduceMean", ["hh", "time"], ["of_squares"], name="squares"),
        node("ReduceMean", ["h", "time"], ["mean"], name="mean"),
        node("Mul", ["mean", "mean"], ["squared"]),
        node("Sub", ["of_squares", "squared"], ["variance"], name="variance"),
        node("Abs", ["variance"], ["positive"]),
        node("Sqrt", ["positive"], ["deviation"], name="deviation"),
        node("Sub", ["h", "mean"], ["centred"]),
        node("Div", ["centred", "deviation"], ["normal"]),
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        node("Div", ["normal", "f" if by_batch_size else "one"], ["y"]),
    ]
    far = 100 * (1 + np.arange(8, dtype=np.float32) / 8)
    constants = {"w": np.ones(8, np.float32), "far": far, "one": np.float32(1), "time": np.array([1])}
    return model(nodes, [tensor("x", ("b", 512, 8))], [tensor("y", ("b", 512, 8))], constants)


def of_three_trees() -> Any:
    """The mean of three answers, laid one after another in front of the batch by Reshapes whose sizes ONNX cannot infer."""
    nodes = [
        node("Scaler", ["x"], [f"s{n}"], domain="ai.onnx.ml", scale=[float(n)], offset=[0.0])
        for n in (1, 2, 3)
    ]
    nodes += [node("Reshape", [f"s{n}", "shape"], [f"r{n}"]) for n in (1, 2, 3)]
    nodes += [
        node("Concat", ["r1", "r2", "r3"], ["all"], axis=0),
        node("ReduceMean", ["all", "first"], ["y"], keepdims=0),
    ]
    return model(nodes, [X], [Y], {"shape": np.array([1, -1, 6]), "first": np.array([0])})


def recurrent_behind_loop() -> Any:
    """An LSTM in a branch, batch in the middle as it should be, behind a Loop, whose shape ONNX does not infer."""
    loop = helper.make_graph(
        [node("Tanh", ["v"], ["w"]), node("Identity", ["go"], ["on"])],
        "body",
        [tensor("i", (), "INT64"), tensor("go", (), "BOOL"), tensor("v", ("b", 6))],
        [tensor("on", (), "BOOL"), tensor("w", ("b", 6))],
    )
    of_row = [
        node("Unsqueeze", ["l", "first"], ["u"]),
        node("LSTM", ["u", "weights", "r"], ["", "h"], hidden_size=6),
        node("Squeeze", ["h", "first"], ["o"]),
    ]
    branches = {
        "then_branch": helper.make_graph(of_row, "then", [], [tensor("o", ("b", 6))]),
        "else_branch": helper.make_graph(
            [node("Identity", ["l"], ["e"])], "else", [], [tensor("e", ("b", 6))]
        ),
    }
    nodes = [node("Loop", ["n", "", "x"], ["l"], body=loop), node("If", ["yes"], ["y"], **branches)]
    constants = {"n": np.int64(2), "yes": np.array(True), "first": np.array([0])}
    return model(nodes, [X], [Y], {**constants, "weights": weights(1, 24, 6), "r": weights(1, 24, 6)})


KINDS: dict[str, Kind] = {
    "recurrent_behind_loop": Kind(recurrent_behind_loop),
    "of_three_trees": Kind(of_three_trees),
    "ill_conditioned": Kind(ill_conditioned, note="makes much of roundings"),
    "ill_conditioned_by_batch_size": Kind(lambda: ill_conditioned(True), "mixed"),
    "lstm_time_major": Kind(lambda: recurrent("LSTM", False), "mixed", "LSTM 'bad'"),
    "gru_time_major": Kind(lambda: recurrent("GRU", False), "mixed", "GRU 'bad'"),
    "batch_norm_training": Kind(batch_norm_training, "mixed", "BatchNormalization 'bad'"),
    "mean": Kind(mean_over_rows, "mixed", "ReduceMean 'bad'"),
    "cumsum": Kind(cumulative, "mixed", "CumSum 'bad'"),
    "softmax": Kind(lambda: over_axis_0("Softmax"), "mixed", "Softmax 'bad'"),
    "gram": Kind(gram, "mixed", "MatMul 'bad'"),
    "fixed_reshape": Kind(lambda: reshape(4, 6, out=("n", 6)), "cannot_run", note="Reshape"),
    "other_rows": Kind(lambda: reshape(-1, 3, out=("n", 3)), "mixed", "Reshape 'bad'"),
    "sort": Kind(top_rows, "mixed", "TopK 'bad'"),
    "attention_across_rows": Kind(lambda: attention(True), "mixed", "MatMul 'bad'"),
    "selected": Kind(selected, "mixed", "NonZero 'bad'"),
    "scalar": Kind(scalar_out, "mixed", "ReduceSum 'bad'"),
    "reversed": Kind(reversed_rows, "mixed", "Slice 'bad'"),
    "row_number": Kind(row_number, "mixed", "Add 'bad'"),
    "batch_size": Kind(by_batch_size, "mixed", "Div 'bad'"),
    "from_eight_rows": Kind(from_eight_rows, "mixed", "ReduceMean 'bad'"),
    "if": Kind(lambda: in_body("If"), "mixed", "If 'bad'"),
    "loop": Kind(lambda: in_body("Loop"), "mixed", "Loop 'bad'"),
    "scan": Kind(lambda: in_body("Scan"), "mixed", "Scan 'bad'"),
    "dynamic_int8": Kind(dynamic_quantised, note="one scale from all rows"),
    "dynamic_int8_then_mean": Kind(lambda: dynamic_quantised(True), "mixed", "ReduceMean 'bad'"),
    "random": Kind(random_noise, "random", note="RandomNormalLike 'noise' is the first"),
    "layers": Kind(layers),
    "convolution": Kind(convolution),
    "lstm": Kind(lambda: recurrent("LSTM", True)),
    "attention": Kind(lambda: attention(False)),
    "embedding": Kind(embedding),
    "static_int8": Kind(static_int8),
    "fp16_inside": Kind(lambda: halves(TensorProto.FLOAT16)),
    "bf16_inside": Kind(lambda: halves(TensorProto.BFLOAT16)),
    "fp16": Kind(fp16_io),
    "strings": Kind(strings),
    "cut_to_the_longest": Kind(cut_to_the_longest, "unverified", "ReduceMax", "reads the other rows"),
}
