"""What reads other rows is seen in the graph, whatever the values that were run; what reads none is not named."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from tritonsmith.builder.actions.batch_rows.graph.reads_across import (
    GraphNotReadError,
    operators_across_rows,
    operators_of_file,
)

N = helper.make_node


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


AXIS_0 = numpy_helper.from_array(np.array([0], np.int64), "axis_0")
AXIS_1 = numpy_helper.from_array(np.array([1], np.int64), "axis_1")
SMALL = numpy_helper.from_array(np.array(0, np.int32), "small")
W = numpy_helper.from_array(np.arange(16, dtype=np.float32).reshape(4, 4), "w")
CONSTANTS = [
    ints("0", 0),
    ints("1", 1),
    ints("2", 2),
    ints("-1", -1),
    ints("most", 2**63 - 1),
    ints("-most", -(2**31)),
    ints("1_all", 1, -1),
    ints("-1_2", -1, 2),
    ints("-1_4", -1, 4),
    ints("4_-1", 4, -1),
    ints("-1_2_2", -1, 2, 2),
    ints("2_-1_1", 2, -1, 1),
    ints("2_1", 2, 1),
    ints("4", 4),
    ints("four", 4, 4, 4, 4),
    ints("one_1", 1),
    ints("front", 0, 1),
    ints("pads_0", 1, 0, 0, 0),
    ints("pads_1", 0, 1, 0, 1),
    ints("pads_2", 1, 1),
    ints("pads_shift", 1, 0, -1, 0),
    numpy_helper.from_array(np.array([[0]], np.int64), "row_0"),
    numpy_helper.from_array(np.array(0, np.int64), "zero"),
    numpy_helper.from_array(np.array(1, np.int64), "one"),
    numpy_helper.from_array(np.ones((1, 4), np.float32), "w1"),
    numpy_helper.from_array(np.ones((1, 1, 3), np.float32), "kernel"),
    numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "scales"),
]

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


T = N("Transpose", ["x"], ["t"], perm=[1, 0])
COUNTED = [  # 0, 1, 2, … of the rows
    N("Shape", ["x"], ["s"], start=0, end=1),
    N("Squeeze", ["s"], ["n"]),
    N("Range", ["zero", "n", "one"], ["rows"]),
]
LONG = [N("Cast", ["x"], ["i"], to=TensorProto.INT64)]
JOINED = N("Reshape", ["x", "1_all"], ["j"])  # all rows one after another in one

MORE: dict[str, tuple[list[onnx.NodeProto], list[str]]] = {
    "rows from the last to the first": (
        [N("Slice", ["x", "-1", "-most", "axis_0", "-1"], ["y"], name="b")],
        ["Slice 'b'"],
    ),
    "columns from the last to the first": ([N("Slice", ["x", "-1", "-most", "axis_1", "-1"], ["y"])], []),
    "the first row for all": (
        [N("Slice", ["x", "0", "1", "axis_0"], ["f"], name="b"), N("Add", ["x", "f"], ["y"])],
        ["Slice 'b'"],
    ),
    "all rows but the first": ([N("Slice", ["x", "1", "most", "axis_0"], ["y"], name="b")], ["Slice 'b'"]),
    "each second row": ([N("Slice", ["x", "0", "most", "axis_0", "2"], ["y"], name="b")], ["Slice 'b'"]),
    "a slice of all rows": ([N("Slice", ["x", "0", "most", "axis_0"], ["y"])], []),
    "rows up to a number that they have": (
        [N("Shape", ["x"], ["s"], start=0, end=1), N("Slice", ["x", "0", "s", "axis_0"], ["y"])],
        [],
    ),
    "one row by its number": (
        [N("Gather", ["x", "0"], ["f"], axis=0, name="b"), N("Add", ["x", "f"], ["y"])],
        ["Gather 'b'"],
    ),
    "one column by its number": ([N("Gather", ["x", "0"], ["y"], axis=1)], []),
    "a table by each row's ids": ([*LONG, N("Gather", ["w", "i"], ["y"])], []),
    "rows by what other rows say": (
        [
            *LONG,
            N("Gather", ["i", "0"], ["c"], axis=1),
            N("Squeeze", ["c", "axis_1"], ["at"]),
            N("Gather", ["x", "at"], ["y"], axis=0, name="b"),
        ],
        ["Gather 'b'"],
    ),
    "elements of other rows": (
        [*LONG, N("GatherElements", ["x", "i"], ["y"], axis=0, name="b")],
        ["GatherElements 'b'"],
    ),
    "elements of a row by what it says": ([*LONG, N("GatherElements", ["x", "i"], ["y"], axis=1)], []),
    "x[arange(n), largest]": (
        [
            *COUNTED,
            N("ArgMax", ["x"], ["k"], axis=1, keepdims=1),
            N("Unsqueeze", ["rows", "axis_1"], ["r"]),
            N("Concat", ["r", "k"], ["at"], axis=1),
            N("GatherND", ["x", "at"], ["y"]),
        ],
        [],
    ),
    "x[arange(n), largest] with rows and columns in one": (
        [
            *COUNTED,
            N("ArgMax", ["x"], ["k"], axis=1, keepdims=0),
            N("Mul", ["rows", "4"], ["r"]),
            N("Add", ["r", "k"], ["at"]),
            N("Reshape", ["x", "-1"], ["all"]),
            N("Gather", ["all", "at"], ["y"]),
        ],
        [],
    ),
    "elements by places that the batch states": (
        [*LONG, N("GatherND", ["x", "i"], ["y"], name="b")],
        ["GatherND 'b'"],
    ),
    "places within each row": (
        [*LONG, N("Slice", ["i", "0", "1", "axis_1"], ["k"]), N("GatherND", ["x", "k"], ["y"], batch_dims=1)],
        [],
    ),
    "one row overwritten": ([N("ScatterND", ["x", "row_0", "w1"], ["y"], name="b")], ["ScatterND 'b'"]),
    "rows written over each other": (
        [*LONG, N("ScatterElements", ["w", "i", "x"], ["y"], axis=0, name="b")],
        ["ScatterElements 'b'"],
    ),
    "elements written within each row": ([*LONG, N("ScatterElements", ["x", "i", "x"], ["y"], axis=1)], []),
    "a column written in each row": (
        [T, N("Slice", ["t", "0", "1", "axis_0"], ["u"]), N("ScatterND", ["t", "row_0", "u"], ["y"])],
        [],
    ),
    "sequences reversed along the batch": (
        [N("ReverseSequence", ["x", "four"], ["y"], time_axis=0, batch_axis=1, name="b")],
        ["ReverseSequence 'b'"],
    ),
    "sequences reversed in each row": (
        [
            N("ReduceMax", ["x", "axis_1"], ["m"], keepdims=0),
            N("Cast", ["m"], ["l"], to=TensorProto.INT64),
            N("ReverseSequence", ["x", "l"], ["y"], time_axis=1, batch_axis=0),
        ],
        [],
    ),
    "a label that the result lacks": (
        [N("Einsum", ["x", "x"], ["y"], equation="bi,bj->ij", name="b")],
        ["Einsum 'b'"],
    ),
    "a diagonal of rows by rows": (
        [
            N("Einsum", ["x", "x"], ["g"], equation="bi,ci->bc"),
            N("Einsum", ["g"], ["y"], equation="bb->b", name="b"),
        ],
        ["Einsum 'b'"],
    ),
    "an ellipsis that the result lacks": (
        [N("Einsum", ["x"], ["y"], equation="...i->i", name="b")],
        ["Einsum 'b'"],
    ),
    "products of each row": ([N("Einsum", ["x", "w"], ["y"], equation="...i,ij->...j")], []),
    "an implicit result": ([N("Einsum", ["x", "w"], ["y"], equation="bi,ij")], []),
    "all in one row, then softmax": (
        [N("Flatten", ["x"], ["f"], axis=0), N("Softmax", ["f"], ["y"], name="b")],
        ["Softmax 'b'"],
    ),
    "the batch joined with an axis behind one of 1": (
        [JOINED, N("TopK", ["j", "one_1"], ["y", "k"], name="b")],
        ["TopK 'b'"],
    ),
    "rows and columns joined": ([N("Reshape", ["x", "-1_2"], ["j"]), N("Softmax", ["j"], ["y"])], []),
    "rows cut otherwise": ([N("Reshape", ["x", "4_-1"], ["y"], name="b")], ["Reshape 'b'"]),
    "rows cut otherwise, where both axes are of equal rank": (
        [T, N("Reshape", ["t", "-1_4"], ["y"], name="b")],
        ["Reshape 'b'"],
    ),
    "joined and parted again": (
        [N("Reshape", ["x", "-1"], ["j"]), N("Reshape", ["j", "-1_4"], ["y"])],
        [],
    ),
    "heads parted from the batch while time is joined with it": (
        [
            N("Reshape", ["x", "-1_2_2"], ["e"]),
            N("Transpose", ["e"], ["t"], perm=[1, 0, 2]),
            N("Reshape", ["t", "2_-1_1"], ["h"]),
            N("Reshape", ["h", "-1_2"], ["y"]),
        ],
        [],
    ),
    "normalised from the first axis": (
        [N("LayerNormalization", ["x", "w"], ["y"], axis=0, name="b")],
        ["LayerNormalization 'b'"],
    ),
    "normalised over the batch behind another axis": (
        [T, N("Unsqueeze", ["t", "axis_0"], ["u"]), N("LayerNormalization", ["u", "w"], ["y"], name="b")],
        ["LayerNormalization 'b'"],
    ),
    "the batch as channels": (
        [
            T,
            N("Unsqueeze", ["t", "axis_0"], ["u"]),
            N("Transpose", ["u"], ["c"], perm=[0, 2, 1]),
            N("GlobalAveragePool", ["c"], ["p"]),
            N("Conv", ["c", "kernel"], ["y"], name="b"),
        ],
        ["Conv 'b'"],
    ),
    "a convolution of each row": (
        [N("Unsqueeze", ["x", "axis_1"], ["u"]), N("Conv", ["u", "kernel"], ["y"])],
        [],
    ),
    "a row of zeros in front": ([N("Concat", ["w1", "x"], ["y"], axis=0, name="b")], ["Concat 'b'"]),
    "the batch twice": (
        [N("Concat", ["x", "x"], ["d"], axis=0), N("Split", ["d"], ["y", "o"], axis=0, num_outputs=2)],
        [],
    ),
    "half of the batch": (
        [N("Split", ["x"], ["y", "o"], axis=0, num_outputs=2, name="b")],
        ["Split 'b'"],
    ),
    "padded rows": ([N("Pad", ["x", "pads_0"], ["y"], name="b")], ["Pad 'b'"]),
    "rows pushed along": ([N("Pad", ["x", "pads_shift"], ["y"], name="b")], ["Pad 'b'"]),
    "padded columns": ([N("Pad", ["x", "pads_1"], ["y"])], []),
    "columns only, of three axes": ([N("Pad", ["x", "pads_2", "", "axis_1"], ["y"])], []),
    "the batch laid out twice": ([N("Tile", ["x", "2_1"], ["y"])], []),
    "columns between columns": (
        [N("Unsqueeze", ["x", "front"], ["u"]), N("Resize", ["u", "", "scales"], ["y"])],
        [],
    ),
    "rows between rows": (
        [T, N("Unsqueeze", ["t", "front"], ["u"]), N("Resize", ["u", "", "scales"], ["y"], name="b")],
        ["Resize 'b'"],
    ),
    "a triangle of the batch": ([N("Trilu", ["x"], ["y"], name="b")], ["Trilu 'b'"]),
    "features of each row scaled by their own length": (
        [N("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm="L2")],
        [],
    ),
    "an operator of ONNX Runtime": (
        [T, N("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft", transA=1, name="b")],
        ["FusedMatMul 'b'"],
    ),
}
GRAPHS |= MORE


def model_of(nodes: list[onnx.NodeProto], opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [AXIS_0, AXIS_1, SMALL, W, *CONSTANTS],
    )
    opsets = [helper.make_opsetid(*o) for o in (("", opset), ("ai.onnx.ml", 3), ("com.microsoft", 1))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


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


@pytest.mark.parametrize("name", [name for name, (_, named) in GRAPHS.items() if not named])
def test_what_is_not_named_keeps_rows_apart_when_it_runs(name: str) -> None:
    """No element changes with the first row and with the others, too."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model_of(GRAPHS[name][0]).SerializeToString(), options)
    rng = np.random.default_rng(0)
    x, other = (rng.uniform(0, 3, (4, 4)).astype(np.float32) for _ in range(2))
    first, rest = x.copy(), other.copy()
    first[0], rest[0] = other[0], x[0]
    base, by_first, by_rest = (session.run(["y"], {"x": rows})[0] for rows in (x, first, rest))
    assert not ((base != by_first) & (base != by_rest)).any()
    assert (base != by_first).any() and (base != by_rest).any()


@pytest.mark.demo
@pytest.mark.parametrize(
    "name",
    ["ch_PP-OCRv4_det_infer", "ch_PP-OCRv4_rec_infer", "ch_ppocr_mobile_v2.0_cls_infer"],
)
def test_nothing_is_named_in_real_networks(name: str) -> None:
    """A detector, a transformer that reads text, a classifier, whose rows were held against ONNX Runtime by themselves."""
    found = find_spec("rapidocr_onnxruntime")
    if found is None or found.origin is None:
        pytest.skip("rapidocr_onnxruntime is not installed")
    assert (
        operators_of_file(Path(found.origin).parent / "models" / f"{name}.onnx", (), {"x": (3, 48, 192)})
        == []
    )


def test_functions_of_the_file_are_looked_into() -> None:
    inner = [N("ReduceSum", ["v", "a"], ["s"], name="sum"), N("Sub", ["v", "s"], ["w"])]
    own = helper.make_function("own", "Centred", ["v", "a"], ["w"], inner, [helper.make_opsetid("", 18)])
    model = model_of([N("Centred", ["x", "axis_0"], ["y"], domain="own")])
    model.functions.append(own)
    model.opset_import.append(helper.make_opsetid("own", 1))
    (named,) = operators_across_rows(model)
    assert named.startswith("ReduceSum")


def test_branches_may_use_one_name_for_two_things() -> None:
    """In one of them `t` is the transposed batch, in the other it is not."""
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    one = helper.make_graph([N("Relu", ["x"], ["t"]), N("Softmax", ["t"], ["o"], name="s")], "a", [], [out])
    other = helper.make_graph([T, N("Softmax", ["t"], ["o"], name="b")], "b", [], [out])
    nodes = [N("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))]
    nodes.append(N("If", ["c"], ["y"], then_branch=one, else_branch=other))
    assert operators_across_rows(model_of(nodes)) == ["Softmax 'b'"]


def scanned(carries: bool, **attributes: list[int]) -> list[onnx.NodeProto]:
    """Over the rows, or columns; each step's sum of all so far, or its own value beside what does not change."""
    value = helper.make_tensor_value_info
    made = [N("Add", ["s", "e"], ["o"]), N("Identity", ["o" if carries else "s"], ["next"])]
    body = helper.make_graph(
        made,
        "b",
        [value("s", TensorProto.FLOAT, None), value("e", TensorProto.FLOAT, None)],
        [value("next", TensorProto.FLOAT, None), value("o", TensorProto.FLOAT, None)],
    )
    return [N("Scan", ["w1", "x"], ["last", "y"], body=body, num_scan_inputs=1, name="s", **attributes)]


@pytest.mark.parametrize(
    ("nodes", "named"),
    [
        (scanned(True), ["Scan 's'"]),
        (scanned(True, scan_input_axes=[0]), ["Scan 's'"]),
        (scanned(True, scan_input_axes=[-2]), ["Scan 's'"]),
        (scanned(True, scan_input_axes=[1]), []),
        (scanned(False), []),
    ],
)
def test_a_scan_reads_other_rows_by_what_a_step_hands_on(
    nodes: list[onnx.NodeProto], named: list[str]
) -> None:
    assert operators_across_rows(model_of(nodes)) == named


def test_a_graph_whose_shapes_cannot_be_inferred_is_said_and_a_fault_shows(tmp_path: Path) -> None:
    unknown = model_of([N("Unheard", ["x"], ["y"], domain="not.imported")])
    with pytest.raises(GraphNotReadError, match=r"not\.imported"):
        operators_across_rows(unknown)
    (tmp_path / "m.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(DecodeError):
        operators_of_file(tmp_path / "m.onnx")
