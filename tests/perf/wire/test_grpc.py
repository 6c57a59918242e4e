from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import hpack
import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.perf.fake_grpc import Peer, Script, grpc_server, scripted_server
from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.load.answers import Validation
from tritonsmith.perf.load.runs.generator import ClientOptions, generate
from tritonsmith.perf.records.schedule import Closed, Load, Open
from tritonsmith.perf.wire.grpc import GrpcTarget, decode_message
from tritonsmith.perf.wire.http2.frames import header_block, indexed_block, indexing_block
from tritonsmith.perf.wire.payload import InferPayload, request_parameters, tensor_from_array
from tritonsmith.perf.wire.target import Responses

X = np.arange(8, dtype=np.float32).reshape(2, 4)
PAYLOAD = InferPayload("m", (tensor_from_array("x", X),), request_id="r", expected={"y": 2 * X}, batch_size=2)
Talked = TypeVar("Talked")
Answer = tuple[int, int, int, str | None, bytes | None]


def run(talk: Coroutine[Any, Any, Talked]) -> Talked:
    loop = uvloop.new_event_loop()
    try:
        result: Talked = loop.run_until_complete(talk)
    finally:
        loop.close()
    return result


class Seen:
    def __init__(self, wanted: int) -> None:
        self.answers: list[Answer] = []
        self.responses: list[Responses] = []
        self.closed = 0
        self.wanted = wanted
        self.event = asyncio.Event()

    def done(self, *answer: Any) -> None:
        self.answers.append(answer[:5])
        self.responses += answer[5:]
        if len(self.answers) >= self.wanted:
            self.event.set()

    def gone(self, connection: object) -> None:
        self.closed += 1

    @property
    def reasons(self) -> list[str | None]:
        return [answer[3] for answer in sorted(self.answers)]


def exchange(
    target: GrpcTarget,
    payload: InferPayload = PAYLOAD,
    streams: int = 1,
    keep: bool = True,
    cancel: int | None = None,
) -> tuple[Seen, bool]:
    """Send on so many streams of one connection at once → what came, and whether it is still open."""

    async def talk() -> tuple[Seen, bool]:
        seen = Seen(streams)
        connection = await target.connect(seen.done, seen.gone)
        request = target.encode(payload)
        for slot in range(streams):
            connection.send(slot, request, keep)
        if cancel is not None:
            await asyncio.sleep(0.05)
            connection.cancel(cancel, "given up")
        await asyncio.wait_for(seen.event.wait(), 10)
        await asyncio.sleep(0.02)
        still_open = connection.open
        connection.close()
        await asyncio.sleep(0)
        return seen, still_open

    return run(talk())


def right(target: GrpcTarget, seen: Seen, want: np.ndarray[Any, Any]) -> None:
    for slot, first_ns, end_ns, reason, raw in seen.answers:
        assert reason is None, slot
        assert 0 < first_ns <= end_ns
        assert raw is not None
        assert np.array_equal(target.decode(raw).outputs["y"], want)


# Against grpcio's own server.


def test_many_streams_share_a_connection_and_each_gets_its_answer() -> None:
    with grpc_server() as server:
        target = GrpcTarget(f"127.0.0.1:{server.port}")
        seen, still_open = exchange(target, streams=40)
    right(target, seen, 2 * X)
    assert sorted(answer[0] for answer in seen.answers) == list(range(40))
    assert still_open
    assert server.last.id == "r"


@pytest.mark.parametrize("megabytes", [0.06, 0.3, 8])
def test_requests_larger_than_the_windows_and_frames_go_through(megabytes: float) -> None:
    x = np.random.default_rng(0).random((1, int(megabytes * 250_000)), dtype=np.float32)
    payload = InferPayload("m", (tensor_from_array("x", x),))
    with grpc_server() as server:
        target = GrpcTarget(f"127.0.0.1:{server.port}")
        seen, _ = exchange(target, payload, streams=3)
    right(target, seen, 2 * x)


def test_answers_that_together_exceed_the_connections_window_go_on() -> None:
    payload = InferPayload("m", (tensor_from_array("x", np.zeros((1, 1_000_000), np.float32)),))
    with grpc_server() as server:
        target = GrpcTarget(f"127.0.0.1:{server.port}")
        records = generate(target, Closed(2), [payload], requests=25, options=ClientOptions(timeout_s=5))
    assert records.ok.all(), records.failures()


def test_parameters_and_metadata_arrive_as_triton_reads_them() -> None:
    parameters = request_parameters(
        sequence_id=5, sequence_start=True, priority=2, timeout_us=100, other={"a": "b", "f": 0.5}
    )
    payload = InferPayload("m", PAYLOAD.inputs, version="3", outputs=("y",), parameters=parameters)
    with grpc_server() as server:
        target = GrpcTarget(f"127.0.0.1:{server.port}", headers={"authorization": "Bearer " + "t" * 300})
        exchange(target, payload)
        request = server.last
    got = {name: p.WhichOneof("parameter_choice") for name, p in request.parameters.items()}
    assert got == {
        "sequence_id": "int64_param",
        "sequence_start": "bool_param",
        "sequence_end": "bool_param",
        "priority": "uint64_param",
        "timeout": "int64_param",
        "a": "string_param",
        "f": "double_param",
    }
    assert (request.model_version, [o.name for o in request.outputs]) == ("3", ["y"])
    assert server.metadata[-1]["authorization"] == "Bearer " + "t" * 300


def test_a_refusal_is_the_status_and_its_decoded_text() -> None:
    with grpc_server(error_every=2) as server:
        seen, still_open = exchange(GrpcTarget(f"127.0.0.1:{server.port}"), streams=4)
    refusal = "gRPC UNAVAILABLE: Request timeout expired: 100 % µs"
    assert sorted(map(str, seen.reasons)) == ["None", "None", refusal, refusal]
    assert still_open


@pytest.mark.parametrize("load", [Closed(40), Open(400)])
def test_the_generator_drives_it_and_finds_wrong_answers(load: Load) -> None:
    options = ClientOptions(validation=Validation(every=1))
    with grpc_server(wrong_every=5) as server:
        target = GrpcTarget(f"127.0.0.1:{server.port}")
        records = generate(target, load, [PAYLOAD], duration_s=0.5, options=options)
        seen = server.requests
    assert len(records) == seen
    assert records.failures() == {"wrong answer: output `y` differs from the expected values": seen // 5}


def test_a_timeout_cancels_one_stream_and_the_connection_lives() -> None:
    with grpc_server(delay_s=0.3) as server:
        seen, still_open = exchange(GrpcTarget(f"127.0.0.1:{server.port}"), streams=3, cancel=1)
    assert seen.reasons == [None, "given up", None]
    assert still_open


def test_a_server_that_goes_away_is_failed_rows() -> None:
    with grpc_server(delay_s=0.01) as server:
        threading.Timer(0.3, lambda: server.server.stop(0)).start()
        target = GrpcTarget(f"127.0.0.1:{server.port}")
        records = generate(target, Closed(4), [PAYLOAD], duration_s=0.7)
    failures = records.failures()
    assert any(reason.startswith("connect: ") for reason in failures), failures
    assert records.ok.sum() > 20


def test_an_http1_server_is_not_taken_for_grpc() -> None:
    with fake_server() as server:
        target = GrpcTarget(f"127.0.0.1:{server.port}", connect_timeout_s=0.5)
        with pytest.raises(OSError):
            exchange(target)


def test_tls_works_with_a_trusted_certificate_only(tmp_path: Path) -> None:
    import shutil
    import subprocess

    import grpc  # type: ignore[import-untyped]

    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the test's certificate")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    with grpc_server(credentials) as server:
        url = f"grpcs://127.0.0.1:{server.port}"
        target = GrpcTarget(url, ca_file=str(cert))
        right(target, exchange(target, streams=3)[0], 2 * X)
        with pytest.raises(OSError):
            exchange(GrpcTarget(url))


# Against a server that plays a script, for what a good one seldom does.

ENCODER = hpack.Encoder()
ENCODER.header_table_size = 0
HEAD = b"\x88" + header_block([("content-type", "application/grpc")])
TRAILER = header_block([("grpc-status", "0")])
EMPTY = b"\x00\x00\x00\x00\x00"


def good_answer(peer: Peer, stream: int) -> None:
    peer.write(1, 4, stream, HEAD)
    peer.write(0, 0, stream, EMPTY)
    peer.write(1, 5, stream, TRAILER)


def scripted(script: Script, settings: bytes = b"", **options: Any) -> tuple[Seen, bool]:
    with scripted_server(script, settings) as port:
        return exchange(GrpcTarget(f"127.0.0.1:{port}"), **options)


def test_padding_continuation_ping_unknown_frames_and_single_bytes_are_all_understood() -> None:
    pongs: list[bytes] = []

    async def script(peer: Peer) -> None:
        stream = await peer.read_request()
        peer.write(6, 0, 0, b"12345678")
        peer.write(99, 7, 0, b"whatever")
        peer.write(1, 0x8, stream, b"\x03" + HEAD[:4] + b"\0\0\0")
        peer.write(9, 0, stream, HEAD[4:9])
        peer.write(9, 4, stream, HEAD[9:])
        peer.write(0, 0x8, stream, b"\x02" + EMPTY + b"\0\0")
        trailer = (len(TRAILER) + 5).to_bytes(3, "big") + b"\x01\x25" + stream.to_bytes(4, "big")
        for byte in trailer + b"\0\0\0\0\0" + TRAILER:
            peer.writer.write(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0.001)
        while True:
            kind, flags, _, payload = await peer.read_frame()
            if kind == 6 and flags == 1:
                pongs.append(payload)

    seen, still_open = scripted(script)
    ((_, first_ns, end_ns, reason, raw),) = seen.answers
    assert reason is None
    assert raw == EMPTY
    assert first_ns < end_ns
    assert still_open
    assert pongs == [b"12345678"]


def test_a_huffman_coded_block_is_decoded() -> None:
    block = ENCODER.encode([("grpc-status", "3"), ("grpc-message", "bad%20shape")], huffman=True)

    async def script(peer: Peer) -> None:
        stream = await peer.read_request()
        peer.write(1, 5, stream, block)

    assert scripted(script)[0].reasons == ["gRPC INVALID_ARGUMENT: bad shape"]


def test_the_stream_and_connection_windows_hold_a_large_request_back() -> None:
    got: list[int] = []

    async def script(peer: Peer) -> None:
        received = 0
        window = 1000
        while True:
            kind, flags, stream, payload = await peer.read_frame()
            if kind != 0:
                continue
            assert len(payload) <= 16384
            received += len(payload)
            got.append(received)
            assert received <= window, "more than the window"
            if flags & 1:
                good_answer(peer, stream)
                return
            if received == window:
                await asyncio.sleep(0.001)
                window += 7000
                peer.write(8, 0, stream, (7000).to_bytes(4, "big"))
                peer.write(8, 0, 0, (7000).to_bytes(4, "big"))

    x = np.zeros((1, 50_000), np.float32)
    payload = InferPayload("m", (tensor_from_array("x", x),))
    # SETTINGS_INITIAL_WINDOW_SIZE (4) = 1000
    seen, _ = scripted(script, b"\x00\x04" + (1000).to_bytes(4, "big"), payload=payload)
    assert seen.reasons == [None]
    assert len(got) > 20


def test_a_changed_initial_window_changes_streams_that_wait() -> None:
    async def script(peer: Peer) -> None:
        received = 0
        while received < 100:
            kind, _, _, payload = await peer.read_frame()
            received += len(payload) if kind == 0 else 0
        peer.write(4, 0, 0, b"\x00\x04" + (60_000).to_bytes(4, "big"))
        good_answer(peer, await peer.read_request())

    x = np.zeros((1, 10_000), np.float32)
    payload = InferPayload("m", (tensor_from_array("x", x),))
    seen, _ = scripted(script, b"\x00\x04" + (100).to_bytes(4, "big"), payload=payload)
    assert seen.reasons == [None]


def test_the_servers_limit_of_streams_is_kept() -> None:
    most = 0

    async def script(peer: Peer) -> None:
        nonlocal most
        pending: set[int] = set()
        for _ in range(6):
            pending.add(await peer.read_request())
            most = max(most, len(pending))
            if len(pending) == 2:
                await asyncio.sleep(0.02)
                for stream in sorted(pending):
                    good_answer(peer, stream)
                pending.clear()

    # SETTINGS_MAX_CONCURRENT_STREAMS (3) = 2
    seen, _ = scripted(script, b"\x00\x03\x00\x00\x00\x02", streams=6)
    assert seen.reasons == [None] * 6
    assert most == 2


def test_a_reset_stream_fails_alone() -> None:
    async def script(peer: Peer) -> None:
        first, second = await peer.read_request(), await peer.read_request()
        peer.write(3, 0, first, (7).to_bytes(4, "big"))
        good_answer(peer, second)

    seen, still_open = scripted(script, streams=2)
    assert seen.reasons == ["connection: stream reset by the server: REFUSED_STREAM", None]
    assert still_open


def test_goaway_fails_what_it_did_not_take_and_lets_the_rest_finish() -> None:
    async def script(peer: Peer) -> None:
        first, _ = await peer.read_request(), await peer.read_request()
        peer.write(7, 0, 0, first.to_bytes(4, "big") + bytes(4) + b"bye")
        await asyncio.sleep(0.02)
        good_answer(peer, first)

    seen, still_open = scripted(script, streams=2)
    assert seen.reasons == [None, "connection: refused by the server's GOAWAY: NO_ERROR"]
    assert not still_open
    assert seen.closed == 1


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ((1, 5, 1, b"\xff\xff\xff\xff\xff\xff"), "protocol: a header block that cannot be read"),
        ((1, 5, 1, b"\xbe"), "protocol: a header block that cannot be read"),
        ((9, 4, 1, b""), "protocol: a CONTINUATION of nothing"),
        ((5, 4, 1, b"\0\0\0\x02"), "protocol: a push that was forbidden"),
        ((8, 0, 0, b"\0"), "protocol: a frame of a wrong size"),
        ((4, 0, 0, b"\0"), "protocol: a SETTINGS frame of a wrong size"),
        ((0, 1, 1, EMPTY), "protocol: an answer without a grpc-status"),
        ((1, 5, 1, b"\x88"), "HTTP 200 instead of gRPC"),
        ((1, 5, 1, b"\x8d"), "HTTP 404 instead of gRPC"),
        ((1, 5, 1, header_block([("grpc-status", "77")])), "gRPC status 77"),
    ],
)
def test_what_breaks_the_protocol_is_a_failed_request_that_says_so(
    frame: tuple[int, int, int, bytes], reason: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.read_request()
        peer.write(*frame)

    (got,) = scripted(script)[0].reasons
    assert got is not None and got.startswith(reason)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text("abcdefghij-", min_size=1, max_size=300),
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=400),
        ),
        max_size=5,
    )
)
def test_header_blocks_are_what_an_hpack_decoder_reads(fields: list[tuple[str, str]]) -> None:
    decoded = hpack.Decoder().decode(header_block(fields))
    assert [(str(name), str(value)) for name, value in decoded] == fields
    decoder, first = hpack.Decoder(), indexing_block(fields)
    assert (first is None) == (sum(len(n) + len(v) + 32 for n, v in fields) > 4096)
    for block in () if first is None else (first, *[indexed_block(len(fields))] * 2):
        assert [(str(name), str(value)) for name, value in decoder.decode(block)] == fields


@pytest.mark.parametrize("table", [None, 0, 8192])
def test_the_servers_table_keeps_a_requests_fields_as_far_as_it_may(table: int | None) -> None:
    decoder = hpack.Decoder()
    if table == 0:
        decoder.header_table_size = decoder.max_allowed_table_size = 0
    seen_fields: list[list[tuple[str, str]]] = []
    sizes: list[int] = []

    async def script(peer: Peer) -> None:
        for number in range(4):
            stream = await peer.read_request()
            (block,) = [payload for kind, _, of, payload in peer.frames if kind == 1 and of == stream]
            sizes.append(len(block))
            seen_fields.append([(str(name), str(value)) for name, value in decoder.decode(block)])
            if number == 2:  # the table is taken away in the middle
                peer.write(4, 0, 0, b"\x00\x01\x00\x00\x00\x00")
                decoder.max_allowed_table_size = 0
            good_answer(peer, stream)

    one_at_a_time = b"\x00\x03\x00\x00\x00\x01"
    size = b"" if table is None else b"\x00\x01" + table.to_bytes(4, "big")
    seen, _ = scripted(script, one_at_a_time + size, streams=4)
    assert seen.reasons == [None] * 4
    assert seen_fields[0][2] == (":path", "/inference.GRPCInferenceService/ModelInfer")
    assert all(fields == seen_fields[0] for fields in seen_fields)
    if table == 0:
        assert set(sizes[:3]) == {sizes[0]}
    else:
        assert sizes[1] == sizes[2] == len(seen_fields[0]) < 10, "a byte a field"
        assert sizes[3] > 100


def test_a_message_that_is_not_an_answer_is_a_value_error() -> None:
    for raw in (b"", b"\x01\0\0\0\0", b"\0\0\0\0\x02\x08", b"\0\0\0\0\x02\xff\xff"):
        with pytest.raises(ValueError):
            decode_message(raw)


@pytest.mark.parametrize("url", ["http://h:1", "grpc://"])
def test_a_url_that_is_not_grpc_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        GrpcTarget(url)


def test_a_server_that_says_nothing_is_a_timeout_and_leaves_no_connection() -> None:
    closed: list[bool] = []

    def listen() -> int:
        import socket

        server = socket.create_server(("127.0.0.1", 0))

        def accept() -> None:
            peer, _ = server.accept()
            peer.settimeout(5)
            while peer.recv(4096):
                pass
            closed.append(True)
            peer.close()
            server.close()

        threading.Thread(target=accept, daemon=True).start()
        return int(server.getsockname()[1])

    with pytest.raises(TimeoutError):
        exchange(GrpcTarget(f"127.0.0.1:{listen()}", connect_timeout_s=0.2))
    time.sleep(0.2)
    assert closed == [True]
