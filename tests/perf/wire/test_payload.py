from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.tensors import DTYPES
from tritonsmith.perf.wire.payload import (
    InferPayload,
    array_from_raw,
    decode_http,
    http_request,
    request_parameters,
    tensor_from_array,
)

NUMERIC = [d for d in DTYPES if d.numpy not in (None, "object")]
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def numeric_arrays(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any]]:
    row = draw(st.sampled_from(NUMERIC))
    assert row.numpy is not None
    return row.kserve, draw(hnp.arrays(np.dtype(row.numpy), shapes))


@settings(max_examples=100, deadline=None)
@given(numeric_arrays())
def test_numeric_tensors_come_back_bit_for_bit(drawn: tuple[str, np.ndarray[Any, Any]]) -> None:
    kserve, array = drawn
    tensor = tensor_from_array("x", array)
    assert tensor.datatype == kserve
    back = array_from_raw(tensor.datatype, tensor.shape, tensor.data)
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=9), st.text(max_size=5)), max_size=6))
def test_bytes_tensors_come_back_as_bytes(elements: list[bytes | str]) -> None:
    array = np.empty(len(elements), object)
    array[:] = elements
    tensor = tensor_from_array("x", array)
    back = array_from_raw("BYTES", tensor.shape, tensor.data)
    assert back.tolist() == [e.encode() if isinstance(e, str) else e for e in elements]


def test_a_non_contiguous_and_a_big_endian_array_go_out_in_order() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    tensor = tensor_from_array("x", array)
    assert np.array_equal(array_from_raw("FP32", (4, 3), tensor.data), array)


def test_bf16_takes_raw_bits_or_rounds_floats_to_nearest_even() -> None:
    bits = np.array([0x3F80, 0xC000], np.uint16)
    assert tensor_from_array("x", bits, "BF16").data == bits.tobytes()
    # 1 + 2^-8 lies midway between 1 and 1 + 2^-7 and goes to the even one, 1; the next midpoint goes up.
    floats = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -2.0, np.inf, np.nan], np.float32)
    back = array_from_raw("BF16", (6,), tensor_from_array("x", floats, "BF16").data)
    assert [hex(b) for b in back.tolist()[:5]] == ["0x3f80", "0x3f80", "0x3f82", "0xc000", "0x7f80"]
    assert back[5] & 0x7FFF > 0x7F80


def test_bf16_agrees_with_ml_dtypes_everywhere() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    floats = bits.view(np.float32)
    floats = floats[~np.isnan(floats)]
    want = floats.astype(ml_dtypes.bfloat16)
    assert tensor_from_array("x", floats, "BF16").data == want.tobytes()
    assert tensor_from_array("x", want).datatype == "BF16"


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.zeros(2, np.float64), "FP32"),
        (np.zeros(2, np.int32), "INT64"),
        (np.zeros(2, np.complex64), None),
        (np.zeros(2, np.float64), "BF16"),
        (np.zeros(2, np.float32), "FP12"),
    ],
)
def test_a_dtype_that_is_not_the_models_is_refused(array: np.ndarray[Any, Any], datatype: str | None) -> None:
    with pytest.raises(UsageError) as error:
        tensor_from_array("x", array, datatype)
    assert error.value.code == "input_dtype"


def split(request: bytes) -> tuple[str, dict[str, str], dict[str, Any], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    fields = {n.lower(): v for n, _, v in (line.partition(": ") for line in rest)}
    length = int(fields["inference-header-content-length"])
    assert int(fields["content-length"]) == len(body)
    return first, fields, json.loads(body[:length]), body[length:]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("m-1_2.3~", b"m-1_2.3~"),
        ("a+b=c:d,e@f", b"a+b=c:d,e@f"),
        ("50%#", b"50%#"),
        ("\u00e9", b"\xc3\xa9"),
        ("a b?c/d\r\n", b"a%20b%3Fc%2Fd%0D%0A"),
    ],
)
def test_a_name_is_sent_as_it_is_but_for_what_would_end_the_path(name: str, path: bytes) -> None:
    """Triton decodes nothing."""
    x = tensor_from_array("x", np.zeros((1, 1), np.float32))
    first = http_request(InferPayload(name, (x,)), "h:1").partition(b"\r\n")[0]
    assert first == b"POST /v2/models/" + path + b"/infer HTTP/1.1"


def test_the_request_says_what_the_protocol_asks_for() -> None:
    x = tensor_from_array("x", np.arange(4, dtype=np.float32).reshape(1, 4))
    flag = tensor_from_array("flag", np.array([[True]]))
    payload = InferPayload(
        "a/b c",
        (x, flag),
        version="3",
        request_id="r1",
        parameters=request_parameters(
            sequence_id=7, sequence_start=True, priority=2, timeout_us=500, other={"custom": "v"}
        ),
    )
    first, fields, header, binary = split(
        http_request(payload, "h:1", "/prefix", {"authorization": "Bearer t"})
    )
    assert first == "POST /prefix/v2/models/a%2Fb%20c/versions/3/infer HTTP/1.1"
    assert fields["host"] == "h:1"
    assert fields["authorization"] == "Bearer t"
    assert header["id"] == "r1"
    assert header["parameters"] == {
        "custom": "v",
        "sequence_id": 7,
        "sequence_start": True,
        "sequence_end": False,
        "priority": 2,
        "timeout": 500,
        "binary_data_output": True,
    }
    assert [(i["name"], i["shape"], i["datatype"]) for i in header["inputs"]] == [
        ("x", [1, 4], "FP32"),
        ("flag", [1, 1], "BOOL"),
    ]
    assert [i["parameters"]["binary_data_size"] for i in header["inputs"]] == [16, 1]
    assert binary == x.data + flag.data


def test_named_outputs_are_asked_for_in_binary() -> None:
    payload = InferPayload("m", (), outputs=("y", "z"))
    _, _, header, _ = split(http_request(payload, "h"))
    assert header["outputs"] == [{"name": n, "parameters": {"binary_data": True}} for n in ("y", "z")]


def test_a_header_cannot_smuggle_a_second_request() -> None:
    with pytest.raises(UsageError) as error:
        http_request(InferPayload("m", ()), "h", headers={"x": "1\r\nHost: other"})
    assert error.value.code == "bad_header"


def test_answers_in_json_and_in_binary_decode_alike() -> None:
    y = np.array([[1.5, -2.0]], np.float32)
    outputs = [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
        {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["a", "bc"]},
        {"name": "z", "datatype": "INT64", "shape": [1], "data": [9]},
    ]
    text = json.dumps({"id": "r", "outputs": outputs}).encode()
    answer = decode_http(len(text), text + y.tobytes())
    assert answer.request_id == "r"
    assert np.array_equal(answer.outputs["y"], y)
    assert answer.outputs["s"].tolist() == [b"a", b"bc"]
    assert answer.outputs["z"].dtype == np.int64


def test_an_error_answer_is_its_text() -> None:
    assert decode_http(None, b'{"error":"no"}').error == "no"


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (None, b"<html>"),
        (None, b"[]"),
        (None, b'{"outputs":[{"name":"y"}]}'),
        (None, b'{"outputs":[]}extra'),
        (14, b'{"outputs":[]}extra'),
        (None, b'{"outputs":[{"name":"y","datatype":"FP32","shape":[3],"data":[1]}]}'),
        (None, b'{"outputs":[{"name":"y","datatype":"FP99","shape":[1],"data":[1]}]}'),
    ],
)
def test_a_malformed_answer_is_a_value_error(length: int | None, body: bytes) -> None:
    with pytest.raises(ValueError):
        decode_http(length, body)


@pytest.mark.parametrize("data", [b"\x05", b"\x05\x00\x00\x00abc"])
def test_a_bytes_tensor_cut_short_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="ends inside"):
        array_from_raw("BYTES", [1], data)
