"""ONNX files taken over byte for byte, and the ones that must not be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tritonsmith.builder.actions.accuracy.accuracy import AccuracyReport
from tritonsmith.builder.actions.accuracy.samples import load_samples
from tritonsmith.builder.actions.export.checks.verify import stated_samples, verify
from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.onnx_graph import open_session
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.onnx import take_over
from tritonsmith.builder.base.errors import ExportError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config

FP32 = dtype_from_config("TYPE_FP32")


def scaled(shape: list[Any], out_shape: list[Any] | None = None) -> Any:
    """x → y = x · w, with w of 3 values."""
    weight = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out_shape or shape)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def save(directory: Path, model: Any, name: str = "m.onnx") -> Path:
    path = directory / name
    onnx.save(model, str(path))
    return path


def save_external(
    directory: Path, location: str, name: str = "m.onnx", offset: str = "0", length: str = "12"
) -> Path:
    """The same model with w in a file of its own, whatever the location says."""
    model = scaled(["n", 3])
    weight = model.graph.initializer[0]
    (directory / "real.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        weight.external_data.add(key=key, value=value)
    path = directory / name
    path.write_bytes(model.SerializeToString())
    return path


def request(path: Path | str, **changes: Any) -> ExportRequest:
    values: dict[str, Any] = {"max_batch_size": 0, "search_path": str(Path(path).parent), **changes}
    return ExportRequest(model="m", kind="onnx", reference=str(path), **values)


def taken(asked: ExportRequest, out: Path) -> tuple[Exported, AccuracyReport, str | None]:
    out.mkdir(exist_ok=True)
    exported = take_over(asked, out)
    report, _, samples = verify(asked, exported, stated_samples(asked), out)
    return exported, report, samples


def failing(asked: ExportRequest, out: Path) -> ExportError:
    with pytest.raises(ExportError) as caught:
        taken(asked, out)
    assert not (out / "model.onnx").exists()
    return caught.value


def test_the_bytes_names_and_opset_are_the_files_own(tmp_path: Path) -> None:
    path = save(tmp_path, scaled(["rows", 3]))
    exported, report, _ = taken(request(path, opset=20, max_batch_size=4), tmp_path / "out")
    assert exported.files == ("model.onnx",)
    assert (tmp_path / "out" / "model.onnx").read_bytes() == path.read_bytes()
    assert (exported.opset, exported.ir_version) == (15, 8)
    assert exported.inputs == (TensorSpec("x", FP32, ("rows", 3)),)
    assert exported.dependencies == (path,)
    assert report.passed
    assert report.samples == 2


@pytest.mark.parametrize("param", ["?", "", "None", "-1"])
def test_placeholders_for_a_name_are_no_name(tmp_path: Path, param: str) -> None:
    model = scaled(["a", 3])
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = param
    exported, _, _ = taken(request(save(tmp_path, model)), tmp_path / "out")
    assert exported.inputs[0].shape == (-1, 3)


def test_a_nameless_first_dimension_is_the_batch_when_there_is_batching(tmp_path: Path) -> None:
    path = save(tmp_path, scaled([None, 3]))
    exported, _, _ = taken(request(path, max_batch_size=4, sample_batch_sizes=(1, 3, 4)), tmp_path / "out")
    assert exported.inputs[0].shape == ("batch", 3)
    sizes = [s.inputs["x"].shape[0] for s in load_samples(tmp_path / "out" / "samples.npz").samples]
    assert sizes == [1, 3, 4]


def test_stated_names_and_sizes_of_dynamic_dimensions_hold(tmp_path: Path) -> None:
    path = save(tmp_path, scaled(["a", "b", 3]))
    stated = (TensorSpec("x", FP32, ("batch", 7, 3)),)
    exported, _, _ = taken(request(path, inputs=stated, max_batch_size=2), tmp_path / "out")
    assert exported.inputs == stated
    (sample, *_) = load_samples(tmp_path / "out" / "samples.npz").samples
    assert sample.inputs["x"].shape == (1, 7, 3)


def test_external_data_is_laid_out_as_triton_wants_it(tmp_path: Path) -> None:
    path = save_external(tmp_path, "real.bin")
    exported, report, _ = taken(request(path), tmp_path / "out")
    assert exported.files == ("model.onnx/model.onnx", "model.onnx/real.bin")
    assert (tmp_path / "out/model.onnx/model.onnx").read_bytes() == path.read_bytes()
    assert set(exported.dependencies) == {path, tmp_path / "real.bin"}
    assert report.passed


def test_an_earlier_export_of_the_other_layout_is_replaced(tmp_path: Path) -> None:
    plain, external = save(tmp_path, scaled(["n", 3]), "plain.onnx"), save_external(tmp_path, "real.bin")
    for path, files in ((external, 2), (plain, 1), (external, 2)):
        exported, _, _ = taken(request(path), tmp_path / "out")
        assert len(exported.files) == files
        assert all((tmp_path / "out" / file).is_file() for file in exported.files)


@pytest.mark.parametrize(
    "location",
    [
        "../real.bin",
        "/nowhere/real.bin",
        "sub/../../real.bin",
        "C:\\x.bin",
        "",
        "a\0b",
        "x" * 5000,
        "a/" * 2000,
    ],
)
def test_external_data_outside_the_directory_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "real.bin").write_bytes(b"\0" * 12)
    error = failing(request(save_external(tmp_path / "inner", location)), tmp_path / "out")
    assert error.code == "external_data_path"


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 12)
    path = save_external(tmp_path / "inner", "link.bin")
    (tmp_path / "inner" / "link.bin").symlink_to(tmp_path / "secret.bin")
    assert failing(request(path), tmp_path / "out").code == "external_data_path"


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        ("0", "13"),
        ("1", "12"),
        ("-1", "4"),
        ("9" * 19, "12"),
        ("9" * 5000, "1"),
        ("0", "x"),
        ("0x0", "4"),
        ("٣", "4"),
    ],
)
def test_a_tensor_outside_its_external_file_is_refused(tmp_path: Path, offset: str, length: str) -> None:
    error = failing(
        request(save_external(tmp_path, "real.bin", offset=offset, length=length)), tmp_path / "out"
    )
    assert error.code == "external_data_range" and len(str(error)) < 1000


def test_external_data_that_is_a_fifo_and_a_model_that_is_one_are_not_waited_for(tmp_path: Path) -> None:
    path = save_external(tmp_path, "fifo")
    os.mkfifo(tmp_path / "fifo")
    assert failing(request(path), tmp_path / "out").code == "external_data_missing"
    assert failing(request(tmp_path / "fifo"), tmp_path / "out").code == "source_unreadable"


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    error = failing(request(save_external(tmp_path, "gone.bin")), tmp_path / "out")
    assert error.code == "external_data_missing"
    assert error.seen == "gone.bin"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(lambda good: b"", "corrupt_onnx", id="an empty file"),
        pytest.param(lambda good: b"hello, this is no model", "corrupt_onnx", id="text"),
        pytest.param(lambda good: good[: len(good) // 2], "corrupt_onnx", id="half a file"),
        pytest.param(lambda good: b"\x80\x04\x95" + good, "corrupt_onnx", id="a pickle"),
        pytest.param(
            lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "git_lfs_pointer",
            id="a Git LFS pointer",
        ),
    ],
)
def test_what_is_no_onnx_file(tmp_path: Path, content: Callable[[bytes], bytes], code: str) -> None:
    path = save(tmp_path, scaled(["n", 3]))
    path.write_bytes(content(path.read_bytes()))
    error = failing(request(path), tmp_path / "out")
    assert error.code == code
    assert error.where is not None
    assert error.where.path == path


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    assert failing(request(tmp_path / "none.onnx"), tmp_path / "out").code == "source_missing"
    assert failing(request(tmp_path), tmp_path / "out").code == "source_unreadable"


def test_an_invalid_graph_is_rejected_with_the_checkers_words(tmp_path: Path) -> None:
    model = scaled(["n", 3])
    model.graph.node[0].input[1] = "nowhere"
    error = failing(request(save(tmp_path, model)), tmp_path / "out")
    assert error.code == "invalid_onnx"
    assert "nowhere" in error.message


def test_an_operator_that_onnx_runtime_does_not_know(tmp_path: Path) -> None:
    model = scaled(["n", 3])
    model.graph.node[0].op_type, model.graph.node[0].domain = "Frobnicate", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    error = failing(request(save(tmp_path, model)), tmp_path / "out")
    assert error.code == "onnxruntime_rejects"
    assert "Frobnicate" in error.message


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        pytest.param([1, 3], "fixed_batch", id="a fixed first dimension of 1"),
        pytest.param([8, 3], "fixed_batch", id="a fixed first dimension equal to max_batch_size"),
    ],
)
def test_a_fixed_first_dimension_does_not_batch(tmp_path: Path, shape: list[int], code: str) -> None:
    path = save(tmp_path, scaled(shape))
    error = failing(request(path, max_batch_size=8), tmp_path / "out")
    assert error.code == code
    assert f"x: shape {shape}" in str(error)
    assert error.fix is not None
    assert "max_batch_size: 0" in error.fix
    exported, report, _ = taken(request(path, max_batch_size=0), tmp_path / "out")
    assert exported.inputs[0].shape == tuple(shape)
    assert report.passed


def test_a_fixed_first_dimension_of_an_output_does_not_batch_either(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[0], keepdims=1)],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    path = save(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8))
    error = failing(request(path, max_batch_size=8), tmp_path / "out")
    assert error.code == "fixed_batch"
    assert "y: shape [1, 3]" in str(error)


@pytest.mark.parametrize(
    "stated",
    [
        pytest.param(TensorSpec("x", dtype_from_config("TYPE_INT64"), ("n", 3)), id="another dtype"),
        pytest.param(TensorSpec("x", FP32, ("n", 4)), id="another size"),
        pytest.param(TensorSpec("x", FP32, ("n", 3, 1)), id="another rank"),
        pytest.param(TensorSpec("xx", FP32, ("n", 3)), id="another name"),
    ],
)
def test_stated_inputs_must_be_the_models(tmp_path: Path, stated: TensorSpec) -> None:
    error = failing(request(save(tmp_path, scaled(["n", 3])), inputs=(stated,)), tmp_path / "out")
    assert error.code == "stated_tensor"


def test_a_sequence_output_and_a_complex_tensor_are_refused(tmp_path: Path) -> None:
    sequence = helper.make_graph(
        [helper.make_node("SplitToSequence", ["x"], ["s"])],
        "sequence",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)],
    )
    path = save(
        tmp_path, helper.make_model(sequence, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    )
    assert failing(request(path), tmp_path / "out").code == "unsupported_tensor"
    identity = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "complex",
        [helper.make_tensor_value_info("x", TensorProto.COMPLEX64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.COMPLEX64, ["n"])],
    )
    path = save(
        tmp_path, helper.make_model(identity, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    )
    error = failing(request(path), tmp_path / "out")
    assert error.seen == "COMPLEX64"


def test_strings_and_scalars_pass_through(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["text"], ["same"]), helper.make_node("Neg", ["rate"], ["minus"])],
        "strings",
        [
            helper.make_tensor_value_info("text", TensorProto.STRING, ["n", 2]),
            helper.make_tensor_value_info("rate", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("same", TensorProto.STRING, ["n", 2]),
            helper.make_tensor_value_info("minus", TensorProto.INT64, []),
        ],
    )
    path = save(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8))
    exported, report, _ = taken(request(path), tmp_path / "out")
    assert [t.dtype.kserve for t in exported.inputs] == ["BYTES", "INT64"]
    assert report.passed
    (sample, *_) = load_samples(tmp_path / "out" / "samples.npz").samples
    assert sample.outputs["same"].tolist() == sample.inputs["text"].tolist()
    assert sample.outputs["minus"].shape == ()
    error = failing(request(path, max_batch_size=4), tmp_path / "fresh")
    assert error.code == "no_batch_dimension"


def test_a_model_whose_inputs_cannot_be_guessed_is_taken_over_with_a_note(tmp_path: Path) -> None:
    """Rows must be 7: no guessed size fits, and a build must not fail because we have no imagination."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "seven",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])],
        [numpy_helper.from_array(np.ones((7, 5), np.float32), "w")],
    )
    node = helper.make_node("Reshape", ["y0", "shape"], ["y"])
    graph.node[0].output[0] = "y0"
    graph.node.append(node)
    graph.initializer.append(numpy_helper.from_array(np.array([7, 5], np.int64), "shape"))
    graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["x7"]))
    graph.node[1].input[0] = "x7"
    path = save(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8))
    exported, report, samples = taken(request(path), tmp_path / "out")
    assert exported.files == ("model.onnx",)
    assert report.passed
    assert (report.samples, samples) == (0, None)
    assert report.note is not None
    assert "accuracy.samples" in report.note
    # stated sizes make it testable
    _, report, samples = taken(request(path, dynamic_dims={"n": (7, 7, 7), "m": (5, 5, 5)}), tmp_path / "out")
    assert report.samples > 0
    assert samples == "samples.npz"


def test_initializers_listed_as_inputs_are_none(tmp_path: Path) -> None:
    model = scaled(["n", 3])
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    exported, _, _ = taken(request(save(tmp_path, model)), tmp_path / "out")
    assert [t.name for t in exported.inputs] == ["x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = save(tmp_path, scaled(["n", 3]))
    path.chmod(0)
    assert failing(request(path), tmp_path / "out").code == "source_unreadable"


def test_a_range_beyond_the_models_position_table_is_refused(tmp_path: Path) -> None:
    """Samples of a usual length pass; TensorRT would build an engine for lengths that the model has no positions for."""
    table = np.ones((1, 16, 2), np.float32)
    nodes = [
        helper.make_node("Shape", ["x"], ["length"], start=1, end=2),
        helper.make_node("Slice", ["table", "start", "length", "axis"], ["positions"]),
        helper.make_node("Add", ["x", "positions"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "seq", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq", 2])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([0], np.int64), "start"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    path = save(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8))
    np.savez(tmp_path / "samples.npz", x=np.ones((2, 5, 2), np.float32))
    fits = request(path, max_batch_size=4, samples="samples.npz", dynamic_dims={"seq": (1, 8, 16)})
    assert taken(fits, tmp_path / "fits")[1].passed
    beyond = request(path, max_batch_size=4, samples="samples.npz", dynamic_dims={"seq": (1, 8, 17)})
    with pytest.raises(ExportError) as refused:
        taken(beyond, tmp_path / "beyond")
    assert (refused.value.code, refused.value.seen) == ("range_beyond_model", "seq 17")


@pytest.mark.parametrize(
    ("shape", "requests"),
    [([1, 3], 3), ([2048, 3], 1), (["n", 3], 3)],
    ids=["few values", "thousands", "an open size"],
)
def test_a_copy_is_run_on_as_many_requests_as_tell_something(
    tmp_path: Path, shape: list[Any], requests: int
) -> None:
    _, report, samples = taken(request(save(tmp_path, scaled(shape))), tmp_path / "out")
    assert samples is not None and report.samples == requests
    assert len(load_samples(tmp_path / "out" / samples).samples) == requests


def test_a_session_takes_the_threads_of_its_action(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, scaled(["n", 3]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = open_session(path, optimised=True).get_session_options()
    assert options.intra_op_num_threads == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert open_session(path, optimised=True).get_session_options().intra_op_num_threads == 0
