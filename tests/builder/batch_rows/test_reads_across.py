"""What reads other rows is seen in the graph, whatever the values that were run; what reads none is not named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tritonsmith.builder.actions.batch_rows.reads_across import operators_across_rows

N = helper.make_node
AXIS_0 = numpy_helper.from_array(np.array([0], np.int64), "axis_0")
AXIS_1 = numpy_helper.from_array(np.array([1], np.int64), "axis_1")
SMALL = numpy_helper.from_array(np.array(0, np.int32), "small")
W = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")

GRAPHS: dict[str, tuple[list[onnx.NodeProto], list[str]]] = {
    "a sum over the batch": ([N("ReduceSum", ["x", "axis_0"], ["y"], name="sum")], ["ReduceSum 'sum'"]),
    "a sum of each row": ([N("ReduceSum", ["x", "axis_1"], ["y"])], []),
    "a sum over all": ([N("ReduceSum", ["x"], ["y"], name="all")], ["ReduceSum 'all'"]),
    "softmax of each row": ([N("Softmax", ["x"], ["y"])], []),
    "softmax over the batch": ([N("Softmax", ["x"], ["y"], axis=0, name="s")], ["Softmax 's'"]),
    "over what was the batch before it was transposed": (
        [N("Transpose", ["x"], ["t"], perm=[1, 0]), N("Softmax", ["t"], ["y"], axis=-1, name="s")],
        ["Softmax 's'"],
    ),
    "a running sum along the batch": ([N("CumSum", ["x", "axis_0"], ["y"], name="c")], ["CumSum 'c'"]),
    "axes that a node states": (
        [N("Constant", [], ["a"], value_ints=[0]), N("ReduceSum", ["x", "a"], ["y"], name="s")],
        ["ReduceSum 's'"],
    ),
    "a running sum by a small integer": ([N("CumSum", ["x", "small"], ["y"], name="c")], ["CumSum 'c'"]),
    "a product with weights": ([N("MatMul", ["x", "w"], ["y"])], []),
    "rows times rows": (
        [N("Transpose", ["x"], ["t"], perm=[1, 0]), N("MatMul", ["t", "x"], ["y"], name="gram")],
        ["MatMul 'gram'"],
    ),
    "the number of rows is no value of theirs": (
        [
            N("Shape", ["x"], ["n"]),
            N("ConstantOfShape", ["n"], ["zeros"]),
            N("ReduceSum", ["zeros", "axis_0"], ["none"], keepdims=1),
            N("Add", ["x", "none"], ["y"]),
        ],
        [],
    ),
}


def model_of(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [AXIS_0, AXIS_1, SMALL, W],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("name", GRAPHS)
def test_operators_that_read_other_rows_are_named(name: str) -> None:
    nodes, named = GRAPHS[name]
    assert operators_across_rows(model_of(nodes)) == named


@pytest.mark.parametrize(("axis", "named"), [("axis_0", ["ReduceSum 'sum'"]), ("axis_1", [])])
def test_a_body_is_looked_into(axis: str, named: list[str]) -> None:
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    body = helper.make_graph([N("ReduceSum", ["x", axis], ["b"], name="sum", keepdims=1)], "b", [], [out])
    other = helper.make_graph([N("Identity", ["x"], ["b"])], "o", [], [out])
    yes = numpy_helper.from_array(np.array(True), "yes")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=yes),
        N("If", ["c"], ["y"], then_branch=body, else_branch=other),
    ]
    assert operators_across_rows(model_of(nodes)) == named


def test_what_is_not_served_may_read_what_it_will() -> None:
    both = model_of([N("Relu", ["x"], ["y"]), N("ReduceSum", ["x", "axis_0"], ["all"], name="sum")])
    both.graph.output.append(helper.make_tensor_value_info("all", TensorProto.FLOAT, None))
    assert operators_across_rows(onnx.ModelProto.FromString(both.SerializeToString()), ("y",)) == []
    assert operators_across_rows(both) == ["ReduceSum 'sum'"]


def test_behind_a_loop_an_open_first_axis_is_taken_for_the_batch() -> None:
    """Shape inference knows nothing of what a loop carries."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [N("Identity", ["go"], ["on"]), N("Relu", ["v"], ["w"])],
        "b",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("v", TensorProto.FLOAT, None),
        ],
        [value("on", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, None)],
    )
    two = numpy_helper.from_array(np.array(2, np.int64), "two")

    def after(*nodes: onnx.NodeProto) -> list[str]:
        loop = [N("Constant", [], ["n"], value=two), N("Loop", ["n", "", "x"], ["r"], body=body)]
        return operators_across_rows(model_of([*loop, *nodes]))

    assert after(N("ReduceMax", ["r"], ["y"], name="m")) == ["ReduceMax 'm'"]
    assert after(N("Softmax", ["r"], ["y"], name="m")) == []
