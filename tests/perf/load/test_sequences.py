"""Sequences: ids, flags and order of every request, on fake servers over both protocols."""

from __future__ import annotations

import os
import signal
import threading
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from tests.perf.fake_grpc import grpc_server
from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.data.distribution import Normal, Span
from tritonsmith.perf.load.runs.generator import ClientOptions, SequenceOptions, generate
from tritonsmith.perf.records.schedule import Closed, Open
from tritonsmith.perf.wire.grpc import GrpcTarget
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import InferPayload, request_parameters, tensor_from_array
from tritonsmith.perf.wire.per_request.sequence_bytes import HIGHEST_ID, LOWEST_ID, SequenceRequests
from tritonsmith.perf.wire.target import Target

PAYLOADS = [
    InferPayload("m", (tensor_from_array("x", np.full((1, 4), i, np.float32)),), parameters={"priority": 1})
    for i in range(6)
]
Step = tuple[bool, bool]


def played(parameters: list[dict[str, Any]]) -> dict[Any, list[Step]]:
    """Each sequence's (start, end) flags in the order that the server saw."""
    seen: dict[Any, list[Step]] = defaultdict(list)
    for p in parameters:
        seen[p["sequence_id"]].append((p["sequence_start"], p["sequence_end"]))
    return seen


def whole(steps: list[Step]) -> bool:
    last = len(steps) - 1
    return steps == [(i == 0, i == last) for i in range(len(steps))]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("text_ids", [False, True])
@pytest.mark.parametrize("number", [LOWEST_ID, 1_987_654_321, HIGHEST_ID])
@pytest.mark.parametrize(("start", "end"), [(True, False), (False, False), (False, True), (True, True)])
def test_a_request_with_its_id_put_in_is_the_one_encoded_with_it(
    protocol: str, text_ids: bool, number: int, start: bool, end: bool
) -> None:
    target: Target = HttpTarget("h:1") if protocol == "http" else GrpcTarget("h:1")
    x = tensor_from_array("1111111111", np.full((1, 4), 1111111111, np.int64))
    payload = InferPayload("1111111111", (x,), request_id="1111111111", parameters={"priority": 2})
    parameters = request_parameters(
        sequence_id=str(number) if text_ids else number,
        sequence_start=start,
        sequence_end=end,
        other=payload.parameters,
    )
    want = InferPayload(payload.model, (x,), request_id=payload.request_id, parameters=parameters)
    assert SequenceRequests(target, [payload], text_ids).request(0, number, start, end) == target.encode(want)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_sequence_starts_goes_on_and_ends_in_order(protocol: str) -> None:
    options = ClientOptions(sequences=SequenceOptions(Span(3, 5)))
    with fake_server(delay_s=0.002) as http, grpc_server() as grpc:
        target: Target = HttpTarget(http.url)
        if protocol == "grpc":
            target = GrpcTarget(f"127.0.0.1:{grpc.port}")
        records = generate(target, Closed(4), PAYLOADS, requests=100, options=options)
        parameters = http.parameters if protocol == "http" else grpc.parameters
    assert records.ok.all()
    assert len(records) == len(parameters) in range(100, 105), "at the end, what is open is ended"
    sequences = played(parameters)
    assert all(whole(steps) for steps in sequences.values())
    lengths = [len(steps) for steps in sequences.values()]
    assert (
        sorted(lengths)[-1] == 5
        and lengths.count(3) + lengths.count(4) + lengths.count(5) >= len(lengths) - 4
    )
    assert all(LOWEST_ID <= int(number) <= HIGHEST_ID for number in sequences)
    assert all(p["priority"] == 1 for p in parameters)
    alive, most = set(), 0
    for p in parameters:
        alive.add(p["sequence_id"])
        most = max(most, len(alive))
        if p["sequence_end"]:
            alive.remove(p["sequence_id"])
    assert most == 4 and not alive


def test_a_sequence_plays_its_stream_in_order() -> None:
    streams = ((0, 1, 2), (3,), (5, 4))
    options = ClientOptions(sequences=SequenceOptions(streams=streams))
    with fake_server() as server:
        records = generate(HttpTarget(server.url), Closed(1), PAYLOADS, requests=24, options=options)
        sequences = played(server.parameters)
    assert sorted(len(steps) for steps in sequences.values()) == [1] * 4 + [2] * 4 + [3] * 4
    payloads = records.payload_index.tolist()
    for stream in streams:
        text = ",".join(map(str, stream))
        assert ",".join(map(str, payloads)).count(text) == 4
    longer = ClientOptions(sequences=SequenceOptions(Span(4, 4), ((5, 4),)))
    with fake_server() as server:
        records = generate(HttpTarget(server.url), Closed(1), PAYLOADS, requests=8, options=longer)
    assert records.payload_index.tolist() == [5, 4, 5, 4] * 2


def test_a_failed_request_ends_its_sequence_and_another_begins() -> None:
    options = ClientOptions(sequences=SequenceOptions(Span(10, 10)))
    with fake_server(error_every=7) as server:
        records = generate(HttpTarget(server.url), Closed(1), PAYLOADS, requests=35, options=options)
        starts = [p["sequence_start"] for p in server.parameters]
    assert records.failures() == {"HTTP 503: Request timeout expired": 5}
    assert [i for i, start in enumerate(starts) if start] == [0, 6, 12, 18, 24], (
        "the refused ones are not listed"
    )


def test_ctrl_c_ends_open_sequences_on_the_server() -> None:
    options = ClientOptions(sequences=SequenceOptions(Normal(1000, 10)))
    with fake_server(delay_s=0.01) as server:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        records = generate(HttpTarget(server.url), Closed(3), PAYLOADS, duration_s=60, options=options)
        timer.join()
        assert records.header.interrupted
        sequences = played(server.parameters)
    assert len(sequences) == 3
    assert all(whole(steps) for steps in sequences.values())


def test_processes_keep_their_ids_apart() -> None:
    options = ClientOptions(sequences=SequenceOptions(Span(2, 3)), processes=2)
    with fake_server() as server:
        records = generate(HttpTarget(server.url), Closed(4), PAYLOADS, requests=60, options=options)
        sequences = played(server.parameters)
    assert records.ok.all() and records.header.processes == 2
    assert all(whole(steps) for steps in sequences.values())


def test_sequences_need_a_closed_loop_and_a_length() -> None:
    options = ClientOptions(sequences=SequenceOptions(Span(2, 2)))
    with pytest.raises(UsageError, match="closed loop"):
        generate(HttpTarget("h:1"), Open(5), PAYLOADS, duration_s=1, options=options)
    with pytest.raises(UsageError, match="length"):
        SequenceOptions()
