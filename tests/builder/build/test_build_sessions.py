"""Directories and variants are held against ONNX Runtime's session of their files before anything is laid out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper

from tests.conftest import Run
from tests.odd_models import graph
from tests.onnx_models import tensor
from tritonsmith.perf.server.launch import ServerSpec, launch

X = {"name": "x", "data_type": "TYPE_FP32", "dims": [16]}
Y = {"name": "y", "data_type": "TYPE_FP32", "dims": [8]}
CPU = [{"kind": "KIND_CPU"}]


def layer() -> bytes:
    """y = relu(x · w): the file says [rows, columns] of y, ONNX Runtime's session [batch, 8]."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    weights = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    made = graph(nodes, [tensor("x", ["batch", 16])], [tensor("y", ["rows", "columns"])], {"w": weights})
    return bytes(made.SerializeToString())


def build(tmp_path: Path, tritonsmith: Run, models: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    plain = json.loads(json.dumps({"models": models}))  # no aliases: each tensor has its own line
    text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=200)
    (tmp_path / "models.yaml").write_text(text)
    built = tritonsmith("build", "--format", "json")
    return built.returncode, {m["model"]: m for m in json.loads(built.stdout)["models"]}


def line_of(tmp_path: Path, text: str, after: str) -> int:
    """The first line of the model that has the text."""
    lines = (tmp_path / "models.yaml").read_text().splitlines()
    start = lines.index(f"  {after}:")
    return next(i for i in range(start, len(lines)) if text in lines[i]) + 1


DIRECTORIES: dict[str, tuple[dict[str, Any], str, str]] = {
    "open_dim": ({"output": [{**Y, "dims": [-1]}]}, "IO015 'y' is [-1, -1]", "dims: [-1]"),
    "wrong_dim": ({"output": [{**Y, "dims": [9]}]}, "IO015 'y' is [-1, 9]", "dims: [9]"),
    "wrong_rank": ({"input": [{**X, "dims": [4, 4]}]}, "IO015 'x' is [-1, 4, 4]", "dims: [4, 4]"),
    "wrong_type": ({"output": [{**Y, "data_type": "TYPE_FP16"}]}, "IO014 'y'", "data_type: TYPE_FP16"),
    "wrong_name": ({"output": [{**Y, "name": "z"}]}, "IO013 the graph of 1 has no output 'z'", "name: z"),
}
"""Row → what its spec says otherwise, how the refusal begins, and the line that it names."""


def test_a_directory_whose_config_does_not_fit_its_files_is_refused_at_its_line(
    tmp_path: Path, tritonsmith: Run
) -> None:
    (tmp_path / "ready" / "1").mkdir(parents=True)
    (tmp_path / "ready" / "1" / "model.onnx").write_bytes(layer())
    ready = {"source": {"directory": "ready"}, "backend": "onnxruntime", "max_batch_size": 4}
    models = {
        name: {**ready, "input": [X], "output": [Y], **said} for name, (said, _, _) in DIRECTORIES.items()
    }
    models["right"] = {**ready, "input": [X], "output": [Y]}
    models["completed"] = {"source": {"directory": "ready"}, "backend": "onnxruntime"}
    status, outcomes = build(tmp_path, tritonsmith, models)
    assert status == 4
    for name, (_, told, text) in DIRECTORIES.items():
        error = outcomes[name]["error"]
        assert error["code"] == "lint" and f"Triton would not load this model: {told}" in error["message"]
        assert error["where"].endswith(f"models.yaml:{line_of(tmp_path, text, name)}"), name
    assert {p.name for p in (tmp_path / "model_repository").iterdir() if p.is_dir()} == {"right", "completed"}


def test_a_directory_that_onnxruntime_refuses_is_refused_with_its_line(
    tmp_path: Path, tritonsmith: Run
) -> None:
    made = graph([helper.make_node("NoSuchOp", ["x"], ["y"])], [tensor("x", ["n"])], [tensor("y", ["n"])])
    (tmp_path / "ready" / "1").mkdir(parents=True)
    (tmp_path / "ready" / "1" / "model.onnx").write_bytes(made.SerializeToString())
    cast = graph(
        [
            helper.make_node("Cast", ["x"], ["low"], to=TensorProto.BFLOAT16),
            helper.make_node("MatMul", ["low", "low"], ["product"]),
            helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
        ],
        [tensor("x", [4, 4])],
        [tensor("y", [4, 4])],
    )
    (tmp_path / "bf16" / "1").mkdir(parents=True)
    (tmp_path / "bf16" / "1" / "model.onnx").write_bytes(cast.SerializeToString())
    bf16 = {"source": {"directory": "bf16"}, "backend": "onnxruntime"}
    models = {
        "unknown": {"source": {"directory": "ready"}, "backend": "onnxruntime"},
        "on_cpus": {**bf16, "instance_group": CPU},
        "anywhere": bf16,
    }
    status, outcomes = build(tmp_path, tritonsmith, models)
    assert status == 1
    assert {n: o["error"] and o["error"]["code"] for n, o in outcomes.items()} == {
        "unknown": "onnxruntime_rejects",
        "on_cpus": "onnxruntime_rejects",
        "anywhere": None,
    }
    assert "NoSuchOp" in outcomes["unknown"]["error"]["message"]
    assert outcomes["unknown"]["error"]["where"].endswith("models.yaml:3")
    assert outcomes["on_cpus"]["error"]["message"].startswith("on_cpus: version 1 cannot run on a CPU")


def test_a_variant_is_laid_out_as_its_session_has_it_or_refused_at_its_line(
    tmp_path: Path, tritonsmith: Run
) -> None:
    (tmp_path / "layer.onnx").write_bytes(layer())
    rows = np.random.default_rng(3).normal(0.1, 2, (64, 16)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    model = {"source": {"onnx": "layer.onnx"}, "max_batch_size": 4, "calibration": "rows.npz"}
    half: dict[str, Any] = {"precision": "fp16", "keep_io": False}
    models: dict[str, Any] = {
        "int8": {**model, "variants": {"v": {"precision": "int8"}}},
        "half": {**model, "variants": {"v": half}},
        "half_stated": {**model, "output": [Y], "variants": {"v": half}},
        "bf16": {**model, "instance_group": CPU, "variants": {"v": {"precision": "bf16"}}},
    }
    _, outcomes = build(tmp_path, tritonsmith, models)
    told = {name: o["error"] and o["error"]["code"] for name, o in outcomes.items()}
    assert told == {
        "int8": None,
        "half": None,
        "half_stated": "dtype_mismatch",
        "bf16": "onnxruntime_rejects",
    }
    line = line_of(tmp_path, "name: y", "half_stated")
    assert outcomes["half_stated"]["error"]["where"].endswith(f"models.yaml:{line}")
    for name, data_type in (("int8", "TYPE_FP32"), ("half", "TYPE_FP16")):
        config = (tmp_path / "model_repository" / name / "config.pbtxt").read_text()
        output = config.split("output")[1]
        assert data_type in output and "dims: [ 8 ]" in output


@pytest.mark.server
@pytest.mark.nightly
@pytest.mark.parametrize(
    "held",
    [
        test_a_variant_is_laid_out_as_its_session_has_it_or_refused_at_its_line,
        test_a_directory_whose_config_does_not_fit_its_files_is_refused_at_its_line,
    ],
    ids=["variants", "directories"],
)
def test_what_is_held_against_a_session_is_served(
    tmp_path: Path, tritonsmith: Run, held: Callable[[Path, Run], None]
) -> None:
    held(tmp_path, tritonsmith)
    with launch(ServerSpec(repositories=(tmp_path / "model_repository",), exit_timeout_s=0)) as server:
        assert server.refusals() == {}
