"""The backend's pure parts: completing and judging a config, joining and splitting a batch."""

from __future__ import annotations

import importlib.util
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tritonsmith.perf.server

BACKEND = Path(perf.server.__file__).with_name("backends") / "onnxruntime"


def load(name: str) -> ModuleType:
    """The backend's files are scripts of Triton's interpreter, not a package of ours."""
    spec = importlib.util.spec_from_file_location(name, BACKEND / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ort_config = load("ort_config")
ort_batch = load("ort_batch")


def infos(**tensors: tuple[str, tuple[int, ...]]) -> dict[str, Any]:
    return {n: ort_config.TensorInfo(n, "TYPE_" + kind, dims) for n, (kind, dims) in tensors.items()}


X = infos(x=("FP32", (-1, 3)))
Y = infos(y=("FP32", (-1, 2)))
FIXED = infos(x=("FP32", (1, 3)))
SCALAR = infos(x=("FP32", ()))


def completed(config: dict[str, Any], inputs: Any = X, outputs: Any = Y) -> dict[str, Any]:
    config = deepcopy({"name": "m", **config})
    ort_config.complete(config, inputs, outputs)
    return config


def test_an_empty_config_is_completed() -> None:
    assert completed({}) == {
        "name": "m",
        "max_batch_size": 4,
        "dynamic_batching": {},
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
    }


@pytest.mark.parametrize(
    ("given", "tensors", "expected"),
    [
        # A stated batch size stays, with batching on above one.
        ({"max_batch_size": 1}, X, {"max_batch_size": 1}),
        ({"max_batch_size": 32}, X, {"max_batch_size": 32, "dynamic_batching": {}}),
        # A scheduler that is there is not joined by another.
        ({"sequence_batching": {}}, X, {"max_batch_size": 4, "sequence_batching": {}}),
        # No dynamic first dimension, no batching.
        ({}, FIXED, {}),
        ({}, SCALAR, {}),
    ],
)
def test_batching_is_completed(given: dict[str, Any], tensors: Any, expected: dict[str, Any]) -> None:
    config = completed(given, tensors, tensors)
    for side in ("name", "input", "output"):
        config.pop(side)
    assert config == expected


def test_scalars_become_ones_and_are_reshaped_only_where_they_are_batched() -> None:
    assert completed({}, SCALAR, SCALAR)["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}]
    rows = infos(x=("INT64", (-1,)))
    assert completed({}, rows, rows)["input"] == [
        {"name": "x", "data_type": "TYPE_INT64", "dims": [1], "reshape": {"shape": []}}
    ]


def test_a_config_with_both_sides_is_left_alone() -> None:
    config = {"name": "m", "input": [{"name": "x"}], "output": [{"name": "y"}]}
    before = deepcopy(config)
    ort_config.complete(config, X, Y)
    assert config == before


def test_controls_and_states_are_not_completed_as_inputs() -> None:
    inputs = infos(x=("FP32", (-1, 1)), START=("FP32", (-1, 1)), s_in=("FP32", (-1, 1)))
    outputs = infos(y=("FP32", (-1, 1)), s_out=("FP32", (-1, 1)))
    sequence = {
        "control_input": [
            {"name": "START", "control": [{"kind": "CONTROL_SEQUENCE_START", "fp32_false_true": [0, 1]}]}
        ],
        "state": [{"input_name": "s_in", "output_name": "s_out", "data_type": "TYPE_FP32", "dims": [1]}],
    }
    config = completed({"sequence_batching": sequence}, inputs, outputs)
    assert [i["name"] for i in config["input"]] == ["x"]
    assert [o["name"] for o in config["output"]] == ["y"]
    ort_config.validate(config, inputs, outputs)


def test_a_batch_size_for_a_model_that_cannot_batch_is_refused() -> None:
    with pytest.raises(ort_config.ConfigRefused, match="does not support batching"):
        completed({"max_batch_size": 2}, FIXED, FIXED)


def io(name: str, dims: list[Any], kind: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": name, "data_type": "TYPE_" + kind, "dims": dims, **more}


@pytest.mark.parametrize(
    ("config", "inputs"),
    [
        ({"max_batch_size": 4, "input": [io("x", [3])]}, X),
        # Triton's JSON has 64-bit numbers as strings.
        ({"max_batch_size": 4, "input": [io("x", ["3"])]}, X),
        # Without batching the batch dimension is one like others; an input may be narrower than the model's.
        ({"max_batch_size": 0, "input": [io("x", [-1, 3])]}, X),
        ({"max_batch_size": 0, "input": [io("x", [8, 3])]}, X),
        ({"max_batch_size": 4, "input": [io("x", [1, 3], reshape={"shape": [3]})]}, X),
        ({"max_batch_size": 0, "input": [io("x", [1])]}, SCALAR),
    ],
)
def test_configs_that_describe_the_model_pass(config: dict[str, Any], inputs: Any) -> None:
    ort_config.validate({"name": "m", "output": [], **config}, inputs, Y)


@pytest.mark.parametrize(
    ("config", "inputs", "says"),
    [
        ({"input": []}, X, "configuration expects 0 inputs, model provides 1"),
        ({"input": [io("z", [3])]}, X, "unexpected inference input 'z' for model 'm': allowed inputs are x"),
        (
            {"input": [io("x", [3], "INT8")]},
            X,
            "expects datatype TYPE_INT8 for input 'x', model provides TYPE_FP32",
        ),
        ({"input": [io("x", [4])]}, X, r"the model expects 2 dimensions \(shape \[-1,3\]\)"),
        ({"input": [io("x", [3])]}, FIXED, "first dimension must be -1; but shape expected by the model is"),
        ({"input": [io("x", [2])], "max_batch_size": 0}, SCALAR, "scalar tensor 'x'"),
        (
            {"input": [io("x", [3])], "output": [io("y", [-1])]},
            X,
            r"model expects 2 dimensions \(shape \[-1,2\]\)",
        ),
        ({"input": [io("x", [3])], "output": [io("q", [2])]}, X, "unexpected inference output 'q'"),
        (
            {"input": [io("x", [-1], allow_ragged_batch=True)]},
            X,
            "ragged input 'x' needs a model input of shape",
        ),
    ],
)
def test_configs_that_do_not_are_refused(config: dict[str, Any], inputs: Any, says: str) -> None:
    with pytest.raises(ort_config.ConfigRefused, match=says):
        ort_config.validate({"name": "m", "max_batch_size": 4, "output": [], **config}, inputs, Y)


def test_optional_inputs_need_a_model_without_batching() -> None:
    config = {"name": "m", "input": [io("x", [3]), io("w", [1], optional=True)], "output": []}
    weights = infos(w=("FP32", (1,)))
    ort_config.validate({**config, "input": [io("x", [-1, 3]), config["input"][1]]}, X, Y, weights)
    with pytest.raises(ort_config.ConfigRefused, match="optional input 'w'"):
        ort_config.validate({**config, "max_batch_size": 4}, X, Y, weights)


@pytest.mark.parametrize(
    ("tensor", "control", "says"),
    [
        (None, {"int32_false_true": [0, 1]}, "does not provide that input"),
        (("FP32", (-1, 1)), {"int32_false_true": [0, 1]}, "model expects data-type TYPE_FP32"),
        (("INT32", (-1, 2)), {"int32_false_true": [0, 1]}, r"dims \[2\] but dims \[1\]"),
        (("INT32", (-1, 1)), {"int32_false_true": [0, 1]}, None),
        (("BOOL", (-1, 1)), {"bool_false_true": [False, True]}, None),
        (("UINT64", (-1, 1)), {"data_type": "TYPE_UINT64"}, None),
    ],
)
def test_sequence_controls_must_fit_the_model(tensor: Any, control: dict[str, Any], says: str | None) -> None:
    inputs = {**X, **(infos(C=tensor) if tensor else {})}
    config = {
        "name": "m",
        "max_batch_size": 4,
        "input": [io("x", [3])],
        "output": [],
        "sequence_batching": {
            "control_input": [{"name": "C", "control": [{"kind": "CONTROL_SEQUENCE_START", **control}]}]
        },
    }
    if says is None:
        ort_config.validate(config, inputs, Y)
    else:
        with pytest.raises(ort_config.ConfigRefused, match=says):
            ort_config.validate(config, inputs, Y)


def test_requests_are_grouped_joined_and_split_without_mixing() -> None:
    feeds = [
        {"x": np.full((rows, width), 10 * i, np.float32)}
        for i, (rows, width) in enumerate([(1, 2), (2, 3), (3, 2), (1, 3)])
    ]
    groups = ort_batch.groups_of_equal_shape(feeds, batching=True)
    assert groups == [[0, 2], [1, 3]]
    for group in groups:
        members = [feeds[i] for i in group]
        joined = ort_batch.join(members)["x"]
        rows = [m["x"].shape[0] for m in members]
        assert joined.shape[0] == sum(rows)
        for member, share in zip(members, ort_batch.split("y", joined, rows), strict=True):
            np.testing.assert_array_equal(share, member["x"])
            assert share.flags.c_contiguous
    assert ort_batch.groups_of_equal_shape(feeds, batching=False) == [[0], [1], [2], [3]]


def test_one_request_is_not_copied() -> None:
    feed = {"x": np.zeros((1, 2))}
    assert ort_batch.join([feed])["x"] is feed["x"]


def test_rows_are_the_first_inputs() -> None:
    feeds = [{"x": np.zeros((3, 2)), "y": np.zeros((1, 2))}, {"factor": np.zeros(()), "x": np.zeros((1, 2))}]
    assert ort_batch.rows_of(feeds) == [3, 1]


def test_an_output_without_the_batch_dimension_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"output 'y' has shape \[1, 2\] for a batch of 3"):
        ort_batch.split("y", np.zeros((1, 2)), [1, 2])
    for output in (np.zeros((3, 2)), np.zeros((1, 2)), np.zeros(())):
        with pytest.raises(RuntimeError, match="for a batch of 2"):
            ort_batch.split("y", output, [2])


def test_a_flat_output_is_scattered_to_the_shapes_of_the_inputs() -> None:
    first, second = ort_batch.scatter("y", np.arange(5), [(1, 2), (1, 3)])
    assert (first.tolist(), second.tolist()) == ([[0, 1]], [[2, 3, 4]])
    with pytest.raises(RuntimeError, match="has 5 elements"):
        ort_batch.scatter("y", np.arange(5), [(1, 2)])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("BATCH_ELEMENT_COUNT", [6, 2]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT", [6, 8]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", [0, 6, 8]),
        ("BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", [0] * 6),
        ("BATCH_ITEM_SHAPE", [[3, 1], [3, 1], [1, 2]]),
        ("BATCH_ITEM_SHAPE_FLATTEN", [3, 1, 3, 1, 1, 2]),
    ],
)
def test_batch_inputs_follow_tritons_proto(kind: str, expected: list[Any]) -> None:
    tensor = ort_batch.batch_input(kind, np.float32, [(2, 3, 1), (1, 1, 2)])
    assert tensor.dtype == np.float32
    assert tensor.tolist() == expected
