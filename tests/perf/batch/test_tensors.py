"""JSON values into arrays and back: nothing is changed on the way."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve
from tritonsmith.perf.batch.rows.lines import BadLineError
from tritonsmith.perf.batch.rows.tensors import array_of, cell_value, json_of_array, placed


def spec(kserve: str, *shape: int) -> TensorSpec:
    return TensorSpec("x", dtype_from_kserve(kserve), shape)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([np.float16, np.float32, np.float64]), st.binary(min_size=8, max_size=64))
def test_floats_come_back_bit_for_bit(dtype: Any, raw: bytes) -> None:
    array = (
        np.frombuffer(raw[: len(raw) // 8 * 8], dtype).reshape(2, -1)
        if dtype != np.float64
        else np.frombuffer(raw[:8], dtype)
    )
    back = np.asarray(json.loads(json_of_array(array, "")), np.float64).astype(dtype)
    assert back.shape == array.shape and np.array_equal(back, array, equal_nan=True)


def test_values_that_no_float_of_json_is_are_texts() -> None:
    assert (
        json_of_array(np.array([np.nan, np.inf, -np.inf, 1], np.float32), "FP32")
        == '["NaN","Infinity","-Infinity",1.0]'
    )


def test_minus_zero_is_not_read_as_an_integer() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        array = np.array([-0.0, 0.0, -1e-5, -0.5, -10], dtype)
        back = json.loads(json_of_array(array, ""))
        assert np.signbit(np.array(back, dtype)).tolist() == [True, False, True, True, True]
        assert json.loads(json_of_array(array[0], "")) is not 0  # noqa: F632


def test_answers_can_be_asked_again_as_they_are_written() -> None:
    floats = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    again = array_of(spec("FP32", -1), json.loads(json_of_array(floats, "FP32")), "x")
    assert np.array_equal(again, floats, equal_nan=True) and np.signbit(again[3])
    texts = np.array([b"\xff\x00", "é".encode()], object)
    assert (
        array_of(spec("BYTES", -1), json.loads(json_of_array(texts, "BYTES")), "x").tolist() == texts.tolist()
    )
    assert array_of(spec("BYTES", -1), [b"\xff"], "x").tolist() == [b"\xff"]
    with pytest.raises(BadLineError, match="half a character"):
        array_of(spec("BYTES", 1), "\ud800", "x")
    assert (
        cell_value(spec("FP32", 1), "-inf", "x") == -np.inf
        and cell_value(spec("BYTES", 1), "nan", "x") == "nan"
    )


@pytest.mark.parametrize("kserve", ["FP16", "BF16", "FP32", "FP64"])
def test_arrays_with_values_that_are_not_finite_are_taken(kserve: str) -> None:
    given = np.array([np.nan, np.inf, -np.inf, 1.5])
    for value in (given, given.astype(np.float32), given.tolist()):
        assert np.array_equal(array_of(spec(kserve, -1), value, "x"), given, equal_nan=True)
    with pytest.raises(BadLineError):
        array_of(spec("FP32", -1), np.array([np.nan, 1e39]), "x")


def test_other_values_come_back() -> None:
    assert json_of_array(np.array([[1, 2]], np.int64), "INT64") == "[[1,2]]"
    assert json_of_array(np.array([True]), "BOOL") == "[true]"
    texts = np.array(["é".encode(), b"\xff"], object)
    assert [
        t.encode("utf-8", "surrogateescape") for t in json.loads(json_of_array(texts, "BYTES"))
    ] == texts.tolist()
    bits = np.array([0x3F80, 0xC000], np.uint16)  # bfloat16's 1 and -2
    assert json_of_array(bits, "BF16") == "[1.0,-2.0]"


@pytest.mark.parametrize(
    ("kserve", "value"),
    [
        ("INT8", 300), ("INT64", 2**63), ("UINT8", [-1]), ("INT32", [1.5]), ("FP16", [70000.0]), ("FP32", ["1"]),
        ("BF16", [3.4e38]), ("BOOL", [2]), ("BYTES", [1]), ("FP32", [[1, 2], [3]]), ("FP32", None), ("FP32", {"a": 1}),
    ],
)  # fmt: skip
def test_a_value_that_would_become_another_is_refused(kserve: str, value: Any) -> None:
    with pytest.raises(BadLineError):
        array_of(spec(kserve, -1), value, "x")


@pytest.mark.parametrize(
    ("kserve", "value", "dtype"),
    [
        ("INT8", [1, -128], "int8"),
        ("UINT64", [2**64 - 1], "uint64"), ("INT32", [3.0], "int32"), ("FP32", [1, 2.5], "float32"),
        ("BOOL", [True, False], "bool"), ("BYTES", ["a", "é"], "object"), ("BF16", [1.5], "float32"), ("FP64", [], "float64"),
    ],
)  # fmt: skip
def test_values_of_the_type_are_taken(kserve: str, value: Any, dtype: str) -> None:
    array = array_of(spec(kserve, -1), value, "x")
    assert array.dtype.name == dtype and array.shape == (len(value),)


def test_one_value_fills_a_tensor_that_has_room_for_one_and_cells_are_json() -> None:
    assert placed(spec("BYTES", 1), array_of(spec("BYTES", 1), "a", "x"), "x").shape == (1,)
    assert (
        cell_value(spec("FP32", 2), "[1, 2]", "x") == [1, 2]
        and cell_value(spec("BYTES", 1), "[1]", "x") == "[1]"
    )
    with pytest.raises(BadLineError, match="values of FP32"):
        cell_value(spec("FP32", 2), "one", "x")
    with pytest.raises(BadLineError, match="has the shape"):
        placed(spec("FP32", 2), np.zeros(3, np.float32), "x")
