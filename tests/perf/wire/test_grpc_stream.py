"""ModelStreamInfer: responses counted and timed as their bytes come, against grpcio's server and by the byte."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.perf.fake_grpc import grpc_server
from tritonsmith.perf.load.answers import Validation
from tritonsmith.perf.load.runs.generator import ClientOptions, generate
from tritonsmith.perf.records.schedule import Closed, Load, Open
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.stats import Summary, summarise
from tritonsmith.perf.wire.grpc import GrpcTarget, decode_stream
from tritonsmith.perf.wire.http2.grpc_stream import ResponseParser
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array


def payload(responses: int) -> InferPayload:
    x = np.array([responses], np.float32)
    want = {"y": np.arange(responses, dtype=np.float32)} if responses > 0 else {}
    return InferPayload("m", (tensor_from_array("x", x),), expected=want)


def message(error: str = "", outputs: int = 1) -> bytes:
    response = service_pb2.ModelStreamInferResponse(error_message=error)
    for number in range(outputs):
        response.infer_response.outputs.add(name="y", datatype="FP32", shape=[1])
        response.infer_response.raw_output_contents.append(np.float32(number).tobytes())
    data: bytes = response.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


EMPTY = b"\0\0\0\0\0"


@pytest.mark.parametrize("step", [1, 2, 5, 7, 1000])
def test_responses_are_counted_however_their_bytes_are_cut(step: int) -> None:
    data = message() + EMPTY + message() + message(outputs=0)
    parser = ResponseParser()
    for now, at in enumerate(range(0, len(data), step), start=1):
        parser.feed(data[at : at + step], now)
    total, last_ns, gap_ns, _ = parser.responses()
    assert total == 4
    assert last_ns == -(-len(data) // step)
    assert parser.first_ns == -(-len(message()) // step)
    assert 0 <= gap_ns <= last_ns
    assert parser.failure() is None


@pytest.mark.parametrize("step", [1, 6, 1000])
def test_the_first_error_is_the_failure(step: int) -> None:
    text = "no such\nnumber" * 20
    data = message() + message(text) + message("later")
    parser = ResponseParser()
    for at in range(0, len(data), step):
        parser.feed(data[at : at + step], 1)
    assert parser.failure() == f"gRPC stream: {' '.join(text.split())[:300]}"


@pytest.mark.parametrize("data", [message()[:-1], message() + b"\0\0", b"\0\0\0\0\x01"])
def test_a_response_that_is_cut_off_is_a_failure(data: bytes) -> None:
    parser = ResponseParser()
    parser.feed(data, 1)
    assert parser.failure() == "protocol: a response that is cut off"


def test_the_outputs_of_all_responses_are_joined() -> None:
    joined = decode_stream(message(outputs=0) + message() + message())
    assert joined.outputs["y"].tolist() == [0, 0]
    assert decode_stream(b"").outputs == {}
    assert decode_stream(message("bad")).error == "bad"
    for raw in (message()[:-1], b"\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x01\xff"):
        with pytest.raises(ValueError):
            decode_stream(raw)


@pytest.mark.parametrize("load", [Closed(6), Open(60)])
def test_each_request_has_its_responses_and_their_times(load: Load) -> None:
    pool = [payload(4), payload(1), payload(0), payload(-1)]
    options = ClientOptions(validation=Validation(every=1))
    with grpc_server(delay_s=0.01) as server:
        target = GrpcTarget(f"127.0.0.1:{server.port}", streaming=True)
        records = generate(target, load, pool, duration_s=0.8, options=options)
    assert records.responses is not None and records.last_response_ns is not None
    assert records.longest_gap_ns is not None
    for index, want in enumerate([4, 1, 0, 1]):
        of_payload = records.select(records.payload_index == index)
        assert of_payload.responses is not None and set(of_payload.responses.tolist()) == {want}
    assert records.failures() == {"gRPC stream: no such number": int((records.payload_index == 3).sum())}, (
        "and every answer is the expected one"
    )
    four = records.payload_index == 0
    between = (records.last_response_ns - records.first_byte_ns)[four] / 1e6
    assert np.median(between) >= 25, "a busy client reads some of them together"
    assert (records.end_ns >= records.last_response_ns).all()
    assert np.median(records.longest_gap_ns[four]) >= 9e6
    summary = summarise(records)
    assert summary.streaming is not None
    assert summary.streaming.responses_per_request["max"] == 4
    first, each = summary.streaming.first_response_ns["p50"], summary.streaming.inter_response_ns["p50"]
    assert first.value and each.value and each.value >= 8e6
    assert typed(Summary, json_of(summary)) == summary


def test_wrong_responses_and_a_timeout_inside_the_stream_are_failures() -> None:
    wrong = InferPayload("m", payload(2).inputs, expected={"y": np.zeros(2, np.float32)})
    options = ClientOptions(validation=Validation(every=1), timeout_s=0.3)
    with grpc_server(delay_s=0.05) as server:
        target = GrpcTarget(f"127.0.0.1:{server.port}", streaming=True)
        records = generate(target, Closed(2), [wrong, payload(100)], requests=4, options=options)
    assert records.failures() == {
        "wrong answer: output `y` differs from the expected values": 2,
        "timeout: no answer within 0.3 s": 2,
    }
    late = records.select(records.payload_index == 1)
    assert late.responses is not None and 2 <= int(late.responses.min()) <= 6, "what came is counted"


def test_the_times_are_those_that_grpcios_own_client_sees() -> None:
    import grpc  # type: ignore[import-untyped]

    with grpc_server(delay_s=0.02) as server:
        target = GrpcTarget(f"127.0.0.1:{server.port}", streaming=True)
        records = generate(target, Closed(1), [payload(5)], requests=8)
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = channel.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                request_serializer=None,
                response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
            )
            request = target.encode(payload(5))[5:]
            seen = []
            for _ in range(8):
                sent = time.monotonic_ns()
                seen.append([time.monotonic_ns() - sent for _ in call(iter([request]))])
    theirs = np.array(seen)
    assert theirs.shape == (8, 5)
    assert records.last_response_ns is not None
    ours_first = np.median(records.first_byte_ns - records.sent_ns)
    ours_last = np.median(records.last_response_ns - records.sent_ns)
    assert abs(ours_first - np.median(theirs[:, 0])) < 30e6
    assert abs(ours_last - np.median(theirs[:, -1])) < 60e6
