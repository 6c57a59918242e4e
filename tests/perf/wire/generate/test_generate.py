"""generate_stream: events however their bytes are cut, errors after HTTP 200, and a load over a real socket."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.load.answers import Validation
from tritonsmith.perf.load.load_test import LoadTest, run_load_test
from tritonsmith.perf.load.runs.generator import ClientOptions, generate
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.schedule import Closed, Load, Open
from tritonsmith.perf.stats import summarise
from tritonsmith.perf.wire.generate.events import EventParser
from tritonsmith.perf.wire.generate.target import GenerateTarget, answer_of, generate_body
from tritonsmith.perf.wire.payload import InferPayload, SharedSlice, WireTensor, tensor_from_array


def payload(count: float, **more: Any) -> InferPayload:
    x = np.full((1, 4), count, np.float32)
    y = np.arange(abs(count), dtype=np.float32).reshape(-1, 1)
    return InferPayload("m", (tensor_from_array("x", x),), expected={"y": y} if count > 0 else None, **more)


# Events.

STREAM = (
    b': a comment\n\ndata: {"y":\ndata: 1}\n\nevent: x\r\ndata:{"y":2}\r\n\r\n\n\nid: 3\rdata: {"y":3}\r\r'
    b'retry: 1\n\ndata: {"error": "no\\n such  number"}\n\n'
)
EVENTS = [b'{"y":\n1}', b'{"y":2}', b'{"y":3}', b'{"error": "no\\n such  number"}']


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_however_their_bytes_are_cut(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    kept: list[bytes] = []
    parser = EventParser(kept)
    for now, (begin, end) in enumerate(pairwise(ends), start=1):
        parser.feed(STREAM[begin:end], now)
    assert kept == EVENTS
    assert parser.responses().total == 4
    assert parser.failure() == "generate_stream: no such number"


def test_the_times_are_those_of_whole_events() -> None:
    parser = EventParser()
    for now, data in ((10, b"data: 1"), (20, b"\n"), (30, b"\ndata: 2\n\n"), (80, b"data: 3\n\n")):
        parser.feed(data, now)
    assert (parser.first_ns, parser.responses()[:3]) == (30, (3, 80, 50))
    assert parser.failure() is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"data: 1\n\ndata: 2", "cut off"),
        (b"data: 1\n\ndata: 2\n", "cut off"),
        (b'{"text_output": "x"}', "not an event stream"),
    ],
)
def test_what_does_not_end_is_a_failure(data: bytes, why: str) -> None:
    parser = EventParser()
    parser.feed(data, 1)
    assert why in (parser.failure() or "")


def test_an_output_that_is_called_error_is_none() -> None:
    parser = EventParser()
    parser.feed(b'data: {"model_name":"m","error":0.5}\n\ndata: "error"\n\ndata: {"error\n\n', 1)
    assert parser.failure() is None and parser.responses().total == 3


# Requests and answers.


def test_a_request_is_its_inputs_by_name_and_its_parameters() -> None:
    tensors = (
        tensor_from_array("text_input", np.array([["hé"]], object)),
        tensor_from_array("ids", np.array([[1, 2, 3]], np.int64)),
        tensor_from_array("flag", np.array([True])),
    )
    body = generate_body(InferPayload("m", tensors, parameters={"max_tokens": 5, "a": 0.5, "b": False}))
    assert json.loads(body) == {
        "text_input": "hé", "ids": [1, 2, 3], "flag": True,
        "parameters": {"max_tokens": 5, "a": 0.5, "b": False},
    }  # fmt: skip


@pytest.mark.parametrize(
    "refused",
    [
        payload(1, batch_size=2),
        InferPayload("m", (tensor_from_array("x", np.ones(1, np.float16)),)),
        InferPayload("m", (tensor_from_array("x", np.array([np.inf], np.float32)),)),
        InferPayload("m", (tensor_from_array("x", np.array([b"\xff"], object)),)),
        InferPayload("m", (WireTensor("x", "FP32", (1,), b"", SharedSlice("r", 0, 4)),)),
    ],
    ids=["rows", "FP16", "infinite", "bytes", "shared memory"],
)
def test_what_json_cannot_carry_is_one_error(refused: InferPayload) -> None:
    with pytest.raises(UsageError) as caught:
        generate_body(refused)
    assert caught.value.code == "bad_streaming" and caught.value.fix


def test_answers_are_joined_flat() -> None:
    events = [b'{"model_name":"m","y":1,"t":"a"}', b'{"model_name":"m","y":[2,3],"t":["b","c"]}']
    answer = answer_of(events)
    assert answer.is_flat and answer.outputs["y"].tolist() == [1, 2, 3]
    assert answer.outputs["t"].tolist() == [b"a", b"b", b"c"]
    with pytest.raises(ValueError):
        answer_of([b"3"])


# Over a socket.


def loaded(load: Load, pool: list[InferPayload], requests: int, **behaviour: Any) -> RequestRecords:
    options = ClientOptions(validation=Validation(every=1), timeout_s=5)
    with fake_server(**behaviour) as server:
        return generate(GenerateTarget(server.url), load, pool, requests=requests, options=options)


@pytest.mark.parametrize("load", [Closed(4), Open(60)])
def test_each_request_has_its_responses_and_their_times(load: Load) -> None:
    records = loaded(load, [payload(4), payload(1), payload(0), payload(-2)], 32, delay_s=0.01)
    assert records.responses is not None and records.longest_gap_ns is not None
    for index, want in enumerate([4, 1, 0, 3]):
        of_payload = records.select(records.payload_index == index)
        assert of_payload.responses is not None and set(of_payload.responses.tolist()) == {want}
    assert records.failures() == {"generate_stream: no such number": 8}, "after HTTP 200; the rest is right"
    assert np.median(records.longest_gap_ns[records.payload_index == 0]) >= 9e6
    streaming = summarise(records).streaming
    assert streaming is not None and streaming.responses_per_request["max"] == 4
    first, each = streaming.first_response_ns["p50"].value, streaming.inter_response_ns["p50"].value
    assert first and each and first >= 9e6 and each >= 8e6


@pytest.mark.parametrize("behaviour", [{"piece_bytes": 7}, {"chunked": 11}, {"chunked": 3, "piece_bytes": 5}])
def test_bodies_may_be_cut_anywhere(behaviour: dict[str, int]) -> None:
    records = loaded(Closed(2), [payload(3), payload(-1)], 6, **behaviour)
    assert records.responses is not None and sorted(records.responses.tolist()) == [2] * 3 + [3] * 3
    assert records.failures() == {"generate_stream: no such number": 3}


def test_wrong_responses_and_refusals_are_failures() -> None:
    wrong = InferPayload("m", payload(2).inputs, expected={"y": np.zeros((2, 1), np.float32)})
    assert loaded(Closed(1), [wrong], 2).failures() == {
        "wrong answer: output `y` differs from the expected values": 2
    }
    with fake_server(require_header=("a", "b")) as server:
        records = generate(GenerateTarget(server.url), Closed(1), [payload(1)], requests=2)
    assert records.failures() == {"HTTP 403: no access": 2}


def test_a_load_test_asks_by_generate_stream_where_http_is_asked_for() -> None:
    test = LoadTest(
        "m", Closed(2), duration_s=None, requests=10, warmup_s=0, streaming=True, protocol="http",
        parameters={"max_tokens": 3},
    )  # fmt: skip
    with fake_server() as server:
        result = run_load_test(server.url, test)
        assert "generate_stream" in server.last_head and server.parameters[-1] == {"max_tokens": 3}
        assert result.records.ok.all() and result.summary.streaming is not None
        for asked in ({"sequences": True}, {"parameters": {"priority": 1}}, {"shared_memory": "system"}):
            with pytest.raises(UsageError) as caught:
                run_load_test(server.url, replace(test, **asked))
            assert caught.value.code == "bad_streaming" and caught.value.fix == "--protocol grpc"
