"""Kinds of models that people bring → one small x → y model of each, with 16 channels in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import tensor

node = helper.make_node
ROWS, WIDTH, OUT = 8, 16, 32


def weight(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph_model(
    nodes: list[Any],
    constants: dict[str, Any],
    opset: int = 17,
    ir: int = 8,
    y: list[Any] | None = None,
    x: list[Any] | None = None,
    **extra: Any,
) -> Any:
    graph = helper.make_graph(
        nodes,
        "kinds",
        [tensor("x", x or [ROWS, WIDTH]), *extra.pop("inputs", [])],
        [tensor("y", y or [ROWS, OUT]), *extra.pop("outputs", [])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
        **{k: extra.pop(k) for k in ("sparse_initializer", "value_info") if k in extra},
    )
    imports = [helper.make_opsetid("", opset), *extra.pop("imports", [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, **extra)


W = {"w": weight(WIDTH, OUT)}
PRODUCT = node("MatMul", ["x", "w"], ["y"], name="product")


def shared() -> Any:
    """One weight, read by two products and by an Add, which no precision of few bits takes."""
    square = {"w": weight(WIDTH, WIDTH)}
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="one"),
        node("MatMul", ["a", "w"], ["b"], name="two"),
        node("MatMul", ["b", "rows"], ["c"], name="three"),
        node("ReduceSum", ["w"], ["total"], name="total", keepdims=0),
        node("Mul", ["c", "total"], ["y"], name="last"),
    ]
    return graph_model(nodes, square | {"rows": weight(WIDTH, OUT, seed=2)})


def tied() -> Any:
    """An embedding that is looked up and, transposed, multiplied with."""
    nodes = [
        node("ArgMax", ["x"], ["ids"], name="ids", axis=1, keepdims=0),
        node("Gather", ["table", "ids"], ["looked"], name="look"),
        node("Add", ["looked", "x"], ["h"], name="add"),
        node("Transpose", ["table"], ["head"], name="turn", perm=[1, 0]),
        node("MatMul", ["h", "head"], ["y"], name="product"),
    ]
    return graph_model(nodes, {"table": weight(OUT, WIDTH)})


def experts() -> Any:
    nodes = [node("MatMul", ["x", "w"], ["y"], name="product")]
    return graph_model(nodes, {"w": weight(4, WIDTH, OUT)}, x=[4, ROWS, WIDTH], y=[4, ROWS, OUT])


def gemm() -> Any:
    nodes = [node("Gemm", ["x", "w", "b"], ["y"], name="product", transB=1, alpha=0.5, beta=2.0)]
    return graph_model(nodes, {"w": weight(OUT, WIDTH), "b": weight(OUT)})


def gemm_turned() -> Any:
    nodes = [
        node("Transpose", ["x"], ["t"], name="turn", perm=[1, 0]),
        node("Gemm", ["t", "w", "b"], ["y"], name="product", transA=1, alpha=0.5),
    ]
    return graph_model(nodes, W | {"b": weight(OUT)})


def transposed() -> Any:
    nodes = [
        node("Transpose", ["stored"], ["w"], name="turn", perm=[1, 0]),
        node("Cast", ["w"], ["v"], name="cast", to=TensorProto.FLOAT),
        node("MatMul", ["x", "v"], ["y"], name="product"),
    ]
    return graph_model(nodes, {"stored": weight(OUT, WIDTH)})


def chained() -> Any:
    value = numpy_helper.from_array(W["w"])
    nodes = [
        node("Constant", [], ["w0"], name="constant", value=value),
        node("Identity", ["w0"], ["w1"], name="i1"),
        node("Identity", ["w1"], ["w"], name="i2"),
        PRODUCT,
    ]
    return graph_model(nodes, {})


def half_stored() -> Any:
    nodes = [node("Cast", ["stored"], ["w"], name="cast", to=TensorProto.FLOAT), PRODUCT]
    return graph_model(nodes, {"stored": W["w"].astype(np.float16)})


def sparse() -> Any:
    dense = np.where(np.abs(W["w"]) > 1, W["w"], 0).astype(np.float32)
    at = np.flatnonzero(dense).astype(np.int64)
    values = helper.make_tensor("w", TensorProto.FLOAT, [len(at)], dense.reshape(-1)[at])
    indices = helper.make_tensor("w_at", TensorProto.INT64, [len(at)], at)
    one = helper.make_sparse_tensor(values, indices, [WIDTH, OUT])
    return graph_model([PRODUCT], {}, sparse_initializer=[one])


def old_inputs() -> Any:
    return graph_model([PRODUCT], W, opset=8, ir=3, inputs=[tensor("w", [WIDTH, OUT])])


def old_opset() -> Any:
    nodes = [node("MatMul", ["x", "w"], ["a"], name="product"), node("Relu", ["a"], ["y"], name="relu")]
    return graph_model(nodes, W, opset=9, ir=4)


def body(kind: str, own: bool) -> Any:
    """A product below an If or a Loop; own: its weight is the body's, else the outer graph's."""
    inner = [numpy_helper.from_array(W["w"], "inner")] if own else []
    name = "inner" if own else "w"
    product = node("MatMul", ["h", name], ["p"], name="hidden")
    result = tensor("p", [ROWS, OUT])
    if kind == "If":
        other = helper.make_graph(
            [node("Identity", ["a"], ["q"], name="skip")], "no", [], [tensor("q", [ROWS, OUT])]
        )
        yes = helper.make_graph([product], "yes", [], [result], inner)
        nodes = [node("If", ["yes"], ["z"], name="branch", then_branch=yes, else_branch=other)]
        constants: dict[str, Any] = {"yes": np.array(True)}
    else:
        keep = node("Identity", ["go"], ["going"], name="keep")
        inputs = [tensor("i", [], "INT64"), tensor("go", [], "BOOL")]
        loop = helper.make_graph(
            [keep, product], "loop", inputs, [tensor("going", [], "BOOL"), result], inner
        )
        nodes = [
            node("Loop", ["twice", ""], ["all"], name="branch", body=loop),
            node("ReduceSum", ["all", "first"], ["z"], name="sum", keepdims=0),
        ]
        constants = {"twice": np.array(2, np.int64), "first": np.array([0], np.int64)}
    nodes = [
        node("Relu", ["x"], ["h"], name="relu"),
        node("MatMul", ["h", "w"], ["a"], name="product"),
        *nodes,
        node("Add", ["a", "z"], ["y"], name="add"),
    ]
    return graph_model(nodes, W | constants)


def recurrent(kind: str) -> Any:
    gates = {"LSTM": 4, "GRU": 3}[kind]
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("Unsqueeze", ["a", "axis"], ["s"], name="up"),
        node(kind, ["s", "W", "R"], ["o", "last"], name="cell", hidden_size=OUT),
        node("Squeeze", ["last", "axis"], ["y"], name="down"),
    ]
    constants = {"W": weight(1, gates * OUT, OUT), "R": weight(1, gates * OUT, OUT, seed=2)}
    return graph_model(nodes, W | constants | {"axis": np.array([0], np.int64)})


def function() -> Any:
    inner = [node("MatMul", ["a", "b"], ["c0"]), node("Relu", ["c0"], ["c"])]
    made = helper.make_function("mine", "Layer", ["a", "b"], ["c"], inner, [helper.make_opsetid("", 17)])
    return graph_model(
        [node("Layer", ["x", "w"], ["y"], name="layer", domain="mine")],
        W,
        imports=[helper.make_opsetid("mine", 1)],
        functions=[made],
    )


def einsum() -> Any:
    return graph_model([node("Einsum", ["x", "w"], ["y"], name="product", equation="ij,jk->ik")], W)


def qdq() -> Any:
    nodes = [node("DequantizeLinear", ["q", "scale"], ["w"], name="dq"), PRODUCT]
    return graph_model(nodes, {"q": (W["w"] * 20).astype(np.int8), "scale": np.float32(0.05).reshape(())})


def dynamic() -> Any:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["xq", "s", "z"], name="quantize"),
        node("MatMulInteger", ["xq", "q", "z"], ["i"], name="product"),
        node("Cast", ["i"], ["f"], name="cast", to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["g"], name="scaled"),
        node("Mul", ["g", "t"], ["y"], name="again"),
    ]
    return graph_model(nodes, {"q": (W["w"] * 20).astype(np.int8), "t": np.float32(0.05).reshape(())})


def half() -> Any:
    nodes = [
        node("Cast", ["x"], ["h"], name="in", to=TensorProto.FLOAT16),
        node("MatMul", ["h", "w"], ["p"], name="product"),
        node("Cast", ["p"], ["y"], name="out", to=TensorProto.FLOAT),
    ]
    return graph_model(nodes, {"w": W["w"].astype(np.float16)})


def masked(value: float) -> Any:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("Greater", ["a", "zero"], ["up"], name="up"),
        node("Where", ["up", "a", "mask"], ["m"], name="where"),
        node("Softmax", ["m"], ["y"], name="softmax"),
    ]
    zero = np.float32(0).reshape(())
    return graph_model(nodes, W | {"zero": zero, "mask": np.float32(value).reshape(())})


def underflow() -> Any:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("Div", ["a", "tiny"], ["b"], name="up"),
        node("Mul", ["b", "tiny"], ["y"], name="down"),
    ]
    return graph_model(nodes, W | {"tiny": np.float32(1e-9).reshape(())})


def outside() -> Any:
    """Outputs that are an input and a weight."""
    outputs = [tensor("x", [ROWS, WIDTH]), tensor("w", [WIDTH, OUT])]
    return graph_model([PRODUCT], W, outputs=outputs)


def dead() -> Any:
    nodes = [PRODUCT, node("MatMul", ["x", "w2"], ["never"], name="dead")]
    return graph_model(nodes, W | {"w2": weight(WIDTH, OUT, seed=2), "unused": weight(64, 64)})


def stale() -> Any:
    """Casts to fp32 within, and types stated for inner tensors."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("Cast", ["a"], ["b"], name="wide", to=TensorProto.FLOAT),
        node("Relu", ["b"], ["y"], name="relu"),
    ]
    return graph_model(nodes, W, value_info=[tensor("a", [ROWS, OUT]), tensor("b", [ROWS, OUT])])


def fixed() -> Any:
    """Operators that have no fp16 form, or that converters leave in fp32."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("Range", ["start", "end", "one"], ["r"], name="range"),
        node("Add", ["a", "r"], ["y"], name="add"),
    ]
    numbers = {"start": 0.0, "end": float(OUT), "one": 1.0}
    return graph_model(nodes, W | {k: np.float32(v).reshape(()) for k, v in numbers.items()})


def convolution(kind: str, group: int) -> Any:
    shape = (WIDTH, 4 // group) if kind == "Conv" else (4, WIDTH // group)
    constants = {"w": weight(*shape, 3, 3), "b": weight(WIDTH)}
    nodes = [node(kind, ["x", "w", "b"], ["y"], name="product", pads=[1, 1, 1, 1], group=group)]
    return graph_model(nodes, constants, x=[ROWS, 4, 6, 6], y=[ROWS, WIDTH, 6, 6])


def no_weights() -> Any:
    return graph_model([node("MatMul", ["x", "x"], ["y"], name="product")], {}, x=[16, 16], y=[16, 16])


KINDS: dict[str, Callable[[], Any]] = {
    "shared": shared,
    "tied embedding": tied,
    "3-D experts": experts,
    "Gemm transB": gemm,
    "Gemm transA": gemm_turned,
    "Transpose of a weight": transposed,
    "Constant, Identity chain": chained,
    "Cast of an fp16 weight": half_stored,
    "sparse": sparse,
    "weight is an input": old_inputs,
    "opset 9": old_opset,
    "If, own weight": lambda: body("If", True),
    "If, outer weight": lambda: body("If", False),
    "Loop, own weight": lambda: body("Loop", True),
    "Loop, outer weight": lambda: body("Loop", False),
    "LSTM": lambda: recurrent("LSTM"),
    "GRU": lambda: recurrent("GRU"),
    "function": function,
    "Einsum": einsum,
    "QDQ": qdq,
    "MatMulInteger": dynamic,
    "fp16": half,
    "mask 1e9": lambda: masked(-1e9),
    "mask inf": lambda: masked(-np.inf),
    "underflow": underflow,
    "outputs that are input and weight": outside,
    "dead": dead,
    "stale types": stale,
    "Range": fixed,
    "Conv": lambda: convolution("Conv", 1),
    "Conv in groups": lambda: convolution("Conv", 2),
    "ConvTranspose": lambda: convolution("ConvTranspose", 1),
    "no weights": no_weights,
}


def made(kind: str) -> Any:
    """The kind's model, valid by onnx's checker."""
    model = KINDS[kind]()
    onnx.checker.check_model(model)
    return model
