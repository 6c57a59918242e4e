"""A config as written → as Triton judges it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builder.lint.fixtures import onnx_bytes
from tritonsmith.builder.lint.check import check
from tritonsmith.builder.lint.read.model import read_model

FLOAT = ("FLOAT", ("batch", 4))
FIXED = ("FLOAT", (1, 4))


def model_dir(
    tmp_path: Path, config: str | None, file: str = "model.onnx", data: bytes = b"", name: str = "m"
) -> Path:
    path = tmp_path / name
    (path / "1").mkdir(parents=True)
    (path / "1" / file).write_bytes(data)
    if config is not None:
        (path / "config.pbtxt").write_text(config)
    return path


@pytest.mark.parametrize(
    ("config", "file", "backend", "platform", "filename"),
    [
        (None, "model.onnx", "onnxruntime", "onnxruntime_onnx", "model.onnx"),
        (None, "model.plan", "tensorrt", "tensorrt_plan", "model.plan"),
        (None, "model.pt", "pytorch", "pytorch_libtorch", "model.pt"),
        (None, "model.py", "python", "", "model.py"),
        (None, "model.xml", "openvino", "", "model.xml"),
        ('backend: "onnxruntime"', "model.onnx", "onnxruntime", "onnxruntime_onnx", "model.onnx"),
        ('platform: "onnxruntime_onnx"', "model.onnx", "onnxruntime", "onnxruntime_onnx", "model.onnx"),
        ('default_model_filename: "model.plan"', "model.plan", "tensorrt", "tensorrt_plan", "model.plan"),
        ('backend: "python" default_model_filename: "net.py"', "net.py", "python", "", "net.py"),
        ('platform: "torch_aoti"', "model.pt2", "pytorch", "torch_aoti", "model.pt2"),
        ('backend: "mine"', "weights.bin", "mine", "", ""),
        (None, "model.graphdef", "tensorflow", "tensorflow_graphdef", "model.graphdef"),
        (
            'backend: "tensorflow"',
            "model.savedmodel",
            "tensorflow",
            "tensorflow_savedmodel",
            "model.savedmodel",
        ),
    ],
)
def test_backend_platform_and_file_are_filled_from_each_other(
    config: str | None, file: str, backend: str, platform: str, filename: str, tmp_path: Path
) -> None:
    done = read_model(model_dir(tmp_path, config, file)).config
    assert (done.backend, done.platform, done.default_model_filename) == (backend, platform, filename)


def test_name_names_a_custom_backend(tmp_path: Path) -> None:
    done = read_model(model_dir(tmp_path, None, "model.identity", name="copy.identity")).config
    assert (done.name, done.backend, done.default_model_filename) == (
        "copy.identity",
        "identity",
        "model.identity",
    )


@pytest.mark.parametrize(
    ("config", "inputs", "outputs", "max_batch_size", "dynamic", "why"),
    [
        (None, {"x": FLOAT}, {"y": FLOAT}, 4, True, "a dynamic first dimension batches up to 4"),
        ("max_batch_size: 16", {"x": FLOAT}, {"y": FLOAT}, 16, True, "what is written stays"),
        ("max_batch_size: 1", {"x": FLOAT}, {"y": FLOAT}, 1, False, "1 needs no batcher"),
        ("sequence_batching { }", {"x": FLOAT}, {"y": FLOAT}, 4, False, "a scheduler is there already"),
        (None, {"x": FIXED}, {"y": FIXED}, 0, False, "a fixed first dimension does not batch"),
        (None, {"x": FLOAT}, {"y": FIXED}, 0, False, "nor when only an output is fixed"),
        (None, {"x": FLOAT, "s": ("FLOAT", ())}, {"y": FLOAT}, 0, False, "nor with a scalar"),
    ],
)
def test_batching_is_filled_from_the_graph(
    config: str | None,
    inputs: dict[str, tuple[str, tuple[int | str, ...]]],
    outputs: dict[str, tuple[str, tuple[int | str, ...]]],
    max_batch_size: int,
    dynamic: bool,
    why: str,
    tmp_path: Path,
) -> None:
    done = read_model(model_dir(tmp_path, config, data=onnx_bytes(inputs, outputs))).config
    assert done.max_batch_size == max_batch_size, why
    assert done.HasField("dynamic_batching") is dynamic, why


def test_tensors_are_filled_from_the_graph(tmp_path: Path) -> None:
    data = onnx_bytes(
        {"ids": ("INT64", ("b", "s")), "x": ("FLOAT", ("b",))},
        {"y": ("FLOAT", ("b",)), "z": ("INT64", ("b", 3, 5))},
    )
    done = read_model(model_dir(tmp_path, None, data=data)).config
    assert [(t.name, t.data_type, list(t.dims)) for t in done.input] == [("ids", 9, [-1]), ("x", 11, [1])]
    assert [t.HasField("reshape") for t in done.input] == [False, True]
    assert [(t.name, list(t.dims)) for t in done.output] == [("y", [1]), ("z", [3, 5])]


def test_stated_tensors_leave_the_rest_alone(tmp_path: Path) -> None:
    config = (
        'input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: [ -1, 4 ] }'
    )
    done = read_model(model_dir(tmp_path, config, data=onnx_bytes())).config
    assert done.max_batch_size == 0
    assert check([tmp_path]) == []


@pytest.mark.parametrize("config", [None, "", 'backend: "onnxruntime"', "max_batch_size: 32", 'name: "m"'])
def test_minimal_configs_pass(config: str | None, tmp_path: Path) -> None:
    model_dir(tmp_path, config, data=onnx_bytes())
    assert check([tmp_path]) == []


def test_written_config_is_not_changed(tmp_path: Path) -> None:
    model = read_model(model_dir(tmp_path, "max_batch_size: 8", data=onnx_bytes()))
    assert model.written.backend == "" and not len(model.written.input)
    assert model.config.backend == "onnxruntime"
