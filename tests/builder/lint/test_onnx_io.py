"""ONNX bytes → surface; what onnx itself reads is the oracle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builder.lint.fixtures import onnx_bytes
from tritonsmith.builder.lint.read.onnx_io import OnnxProblem, model_from_bytes, read_onnx

onnx = pytest.importorskip("onnx")
LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").rglob("model.onnx"))


def test_names_types_and_shapes() -> None:
    model = model_from_bytes(
        onnx_bytes(
            {"ids": ("INT64", ("batch", "seq")), "scale": ("FLOAT", ())},
            {"out": ("INT64", ("batch", 7)), "s": ("FLOAT", (3,))},
            opset=19,
            ir_version=9,
            external="w.bin",
        )
    )
    assert [(t.name, t.element, t.shape) for t in model.inputs] == [
        ("ids", 7, ("batch", "seq")),
        ("scale", 1, ()),
    ]
    assert model.outputs[0].wire_shape == (-1, 7)
    assert (model.ir_version, model.opset, model.external_data, model.node_count) == (9, 19, ("w.bin",), 2)


@pytest.mark.parametrize("path", LIGHT[::25], ids=lambda p: p.parent.name)
def test_agrees_with_onnx(path: Path) -> None:
    model, oracle = read_onnx(path), onnx.load(str(path), load_external_data=False)
    defaults = {t.name for t in oracle.graph.initializer} | {
        t.values.name for t in oracle.graph.sparse_initializer
    }
    assert [t.name for t in model.inputs] == [i.name for i in oracle.graph.input if i.name not in defaults]
    assert [t.name for t in model.overridable] == [i.name for i in oracle.graph.input if i.name in defaults]
    assert model.ir_version == oracle.ir_version
    assert dict(model.opsets) == {o.domain: o.version for o in oracle.opset_import}
    for tensor, info in zip(model.outputs, oracle.graph.output, strict=True):
        kind = info.type.tensor_type
        assert (tensor.name, tensor.element) == (info.name, kind.elem_type)
        if kind.HasField("shape"):
            dims = tuple(
                d.dim_param or (d.dim_value if d.HasField("dim_value") else -1) for d in kind.shape.dim
            )
            assert tensor.shape == dims
        else:
            assert tensor.shape is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\x00" * 64, "zeros"),
        (b"not an onnx file at all", "text"),
        (b"\x08\x08", "no graph"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "a length beyond the file"),
        (b"\x08" + b"\xff" * 20, "a number of more than 64 bits"),
        (b"\x3b\x3b\x3b", "groups"),
    ],
)
def test_damaged_bytes_are_a_problem(data: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(OnnxProblem):
        model_from_bytes(data)
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(OnnxProblem):
        read_onnx(path)


def test_every_prefix_is_a_problem_or_a_model() -> None:
    data = onnx_bytes()
    for length in range(len(data)):
        try:
            model_from_bytes(data[:length])
        except OnnxProblem as problem:
            assert str(problem)


def test_weights_are_stepped_over(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    weights = helper.make_tensor("w", TensorProto.FLOAT, [1024, 1024], bytes(4 << 20), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ("b", 1024)) for n in ("x", "w")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("b", 1024))],
        [weights],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    model = read_onnx(path)
    assert [t.name for t in model.inputs] == ["x"]
    assert [t.name for t in model.overridable] == ["w"]


def test_graphs_in_one_another_are_stepped_over() -> None:
    """An If in an If, a thousand times: the surface is the outermost graph's."""

    def field(number: int, payload: bytes) -> bytes:
        length, encoded = len(payload), b""
        while length >= 0x80:
            encoded, length = encoded + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([number << 3 | 2]) + encoded + bytes([length]) + payload

    graph = b""
    for _ in range(1000):  # GraphProto.node.attribute.g
        graph = field(1, field(5, field(6, graph)))
    surface = graph + field(12, field(1, b"y"))
    read = model_from_bytes(bytes([1 << 3, 8]) + field(7, surface))
    assert [t.name for t in read.outputs] == ["y"] and read.node_count == 1
