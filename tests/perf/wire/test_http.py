from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import uvloop

from tests.perf.fake_server import FakeServer, fake_server
from tests.perf.hostile_server import BROKEN, hostile_server
from tritonsmith.builder.base.errors import ServerError, UsageError
from tritonsmith.perf.load.load_test import LoadTest, run_load_test
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.wire.http import _HEADS, HttpTarget, http_reason, parse_head
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array
from tritonsmith.perf.wire.rest import RestApi

X = np.arange(8, dtype=np.float32).reshape(2, 4)
Talked = TypeVar("Talked")
PAYLOAD = InferPayload("m", (tensor_from_array("x", X),), request_id="r")


def run(talk: Coroutine[Any, Any, Talked]) -> Talked:
    loop = uvloop.new_event_loop()
    try:
        result: Talked = loop.run_until_complete(talk)
    finally:
        loop.close()
    return result


class Seen:
    """What a connection reported."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, int, int, str | None, bytes | None]] = []
        self.closed = 0
        self.event = asyncio.Event()

    def done(self, *answer: Any) -> None:
        self.answers.append(answer)
        self.event.set()

    def gone(self, connection: object) -> None:
        self.closed += 1


def exchange(
    target: HttpTarget, times: int = 1, keep: bool = True, payload: InferPayload = PAYLOAD
) -> tuple[Seen, bool]:
    """Send the payload so often on one connection → what came, and whether it is still open."""

    async def talk() -> tuple[Seen, bool]:
        seen = Seen()
        connection = await target.connect(seen.done, seen.gone)
        for slot in range(times):
            seen.event.clear()
            connection.send(slot, target.encode(payload), keep)
            await asyncio.wait_for(seen.event.wait(), 5)
            if not connection.open:
                break
        still_open = connection.open
        connection.close()
        await asyncio.sleep(0)
        return seen, still_open

    return run(talk())


@pytest.mark.parametrize(
    "behaviour",
    [
        {},
        {"chunked": 7},
        {"chunked": 10_000},
        {"piece_bytes": 1},
        {"piece_bytes": 33},
        {"piece_bytes": 5, "chunked": 3},
        {"continue_first": True},
        {"continue_first": True, "piece_bytes": 9},
        {"until_eof": True},
        {"close_every": 1},
    ],
    ids=str,
)
def test_an_answer_is_whole_however_it_arrives(behaviour: dict[str, int]) -> None:
    with fake_server(**behaviour) as server:
        target = HttpTarget(server.url)
        seen, still_open = exchange(target, times=3)
        for slot, first_ns, end_ns, reason, raw in seen.answers:
            assert reason is None
            assert 0 < first_ns <= end_ns
            assert raw is not None
            answer = target.decode(raw)
            assert np.array_equal(answer.outputs["y"], 2 * X), slot
            assert answer.request_id == "r"
    closing = "until_eof" in behaviour or "close_every" in behaviour
    assert len(seen.answers) == (1 if closing else 3)
    assert still_open == (not closing)
    assert seen.closed == (1 if closing else 0)


def test_an_answer_that_is_not_kept_is_counted_but_not_stored() -> None:
    big = InferPayload("m", (tensor_from_array("x", np.zeros((1, 300_000), np.float32)),))
    with fake_server() as server:
        seen, _ = exchange(HttpTarget(server.url), times=3, keep=False, payload=big)
    assert [(reason, raw) for _, _, _, reason, raw in seen.answers] == [(None, None)] * 3
    assert any(first_ns < end_ns for _, first_ns, end_ns, _, _ in seen.answers), "1.2 MB in one read?"


def test_a_refused_request_carries_the_servers_reason_and_the_connection_lives() -> None:
    with fake_server(error_every=2) as server:
        seen, still_open = exchange(HttpTarget(server.url), times=4, keep=False)
    assert [reason for _, _, _, reason, _ in seen.answers] == [
        None,
        "HTTP 503: Request timeout expired",
    ] * 2
    assert still_open


@pytest.mark.parametrize(
    ("inside", "when"), [(False, "before an answer"), (True, "inside the answer")], ids=["before", "inside"]
)
def test_a_lost_connection_is_a_failed_request(inside: bool, when: str) -> None:
    with fake_server(drop_every=1, drop_inside=inside) as server:
        seen, still_open = exchange(HttpTarget(server.url))
    ((_, first_ns, end_ns, reason, _),) = seen.answers
    assert reason is not None and reason.startswith("connection: ") and reason.endswith(when)
    assert (first_ns > 0) == inside
    assert end_ns > 0
    assert not still_open
    assert seen.closed == 1


def test_headers_for_auth_are_sent() -> None:
    with fake_server(require_header=("Authorization", "Bearer s3cret")) as server:
        good, _ = exchange(HttpTarget(server.url, headers={"Authorization": "Bearer s3cret"}))
        bad, _ = exchange(HttpTarget(server.url))
    assert good.answers[0][3] is None
    assert bad.answers[0][3] == "HTTP 403: no access"


def raw_answer(pieces: Sequence[bytes]) -> Seen:
    """A server that writes these bytes for any request and then stays open."""

    async def talk() -> Seen:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.005)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        seen = Seen()
        target = HttpTarget(f"127.0.0.1:{port}")
        connection = await target.connect(seen.done, seen.gone)
        connection.send(0, target.encode(PAYLOAD), True)
        await asyncio.wait_for(seen.event.wait(), 5)
        await asyncio.sleep(0.02)
        connection.close()
        server.close()
        return seen

    return run(talk())


@pytest.mark.parametrize(
    "pieces",
    [
        [b"SSH-2.0-OpenSSH\r\n\r\n"],
        [b"HTTP/1.1 abc\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc"],
        [b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore"],
        [b"x" * 70_000],
    ],
    ids=range(9),
)
def test_what_is_not_http_is_a_failed_request_that_says_so(pieces: list[bytes]) -> None:
    seen = raw_answer(pieces)
    ((_, _, _, reason, _),) = seen.answers
    assert reason is not None and reason.startswith("protocol: ")
    assert seen.closed == 1


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    seen = raw_answer([plain, plain])
    assert len(seen.answers) == 1
    assert seen.closed == 1


@pytest.mark.parametrize(
    ("head", "want"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", (200, 5, True)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5", (200, 5, False)),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\ncontent-length: 5", (200, 5, True)),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5", (200, 5, False)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", (200, -1, True)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", (200, -1, True)),
        (b"HTTP/1.1 204 No Content", (204, 0, True)),
        (b"HTTP/1.1 200", (200, -2, False)),
    ],
)
def test_heads_are_read_as_rfc_9112_says(head: bytes, want: tuple[int, int, bool]) -> None:
    got = parse_head(head)
    assert (got.status, got.length, got.keep_alive) == want


def test_a_reason_is_one_short_line() -> None:
    assert http_reason(502, b"<html>\n  Bad   Gateway\n</html>") == "HTTP 502: <html> Bad Gateway </html>"
    assert http_reason(500, b"") == "HTTP 500"
    assert len(http_reason(500, b"x" * 10_000)) < 400


@pytest.mark.parametrize("url", ["ftp://x", "http://", "grpc://h:1"])
def test_a_url_that_is_not_http_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as error:
        HttpTarget(url)
    assert error.value.code == "bad_url"


def test_nobody_listening_is_an_oserror() -> None:
    with pytest.raises(OSError):
        exchange(HttpTarget("http://127.0.0.1:1"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the test's certificate")
    directory = tmp_path_factory.mktemp("tls")
    key, cert = directory / "key.pem", directory / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


def https_server(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate[1], certificate[0])
    return context


def test_https_works_with_a_trusted_certificate_only(certificate: tuple[Path, Path]) -> None:
    with fake_server(ssl=https_server(certificate)) as server:
        assert isinstance(server, FakeServer)
        trusted = HttpTarget(server.url, ca_file=str(certificate[1]))
        seen, _ = exchange(trusted, times=2)
        assert [reason for _, _, _, reason, _ in seen.answers] == [None, None]
        with pytest.raises(OSError):
            exchange(HttpTarget(server.url))
        seen, _ = exchange(HttpTarget(server.url, verify=False))
        assert seen.answers[0][3] is None


@pytest.mark.nightly
def test_a_load_test_of_an_https_url_is_https_from_end_to_end(certificate: tuple[Path, Path]) -> None:
    test = LoadTest("m", Closed(2), duration_s=0.3, warmup_s=0.1, ca_file=str(certificate[1]))
    with fake_server(ssl=https_server(certificate)) as server:
        result = run_load_test(server.url, test)
        assert result.summary.answered > 0 and not result.records.failures()
        assert result.server is not None, "its counters were read, too"
        with pytest.raises(ServerError, match="nothing answers HTTP"):
            run_load_test(server.url, replace(test, ca_file=None))
    with fake_server() as plain, pytest.raises(ServerError):
        run_load_test(plain.url.replace("http://", "https://"), test)
    assert plain.infer_requests == 0


def test_the_code_of_an_https_url_trusts_what_it_was_told_to(
    certificate: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tests.perf.commands.serving.test_infer import run_code
    from tritonsmith.perf.commands.serving.infer import infer

    with fake_server(ssl=https_server(certificate)) as server:
        infer(server.url, ["x=[1, 2, 3, 4]"], model="m", ca_file=certificate[1], show_code=True)
        by_curl, by_python = run_code(capsys.readouterr().out, tmp_path)
        infer(server.url, ["x=[1, 2, 3, 4]"], model="m", insecure=True, show_code=True)
        trusting = run_code(capsys.readouterr().out, tmp_path)
    assert json.loads(by_curl)["outputs"][0]["data"] == [2, 4, 6, 8]
    assert by_python == trusting[1] == "y [[2.0, 4.0, 6.0, 8.0]]"
    assert trusting[0] == by_curl


def test_what_is_asked_once_trusts_no_stranger_either(certificate: tuple[Path, Path]) -> None:
    with fake_server(ssl=https_server(certificate)) as server:
        assert (
            RestApi(HttpTarget(server.url, ca_file=str(certificate[1]))).server_metadata()["name"] == "fake"
        )
        with pytest.raises(ServerError) as caught:
            RestApi(HttpTarget(server.url)).server_metadata()
    assert caught.value.fix is not None and "--ca-file" in caught.value.fix


@pytest.mark.parametrize("chunked", [0, 7])
def test_an_answer_that_is_kept_has_a_limit(monkeypatch: pytest.MonkeyPatch, chunked: int) -> None:
    monkeypatch.setattr("tritonsmith.perf.wire.http.KEPT_LIMIT_BYTES", 100)
    _HEADS.clear()  # an answer that is whole in one read, behind a known head, is never large
    with fake_server(chunked=chunked) as server:
        seen, _ = exchange(HttpTarget(server.url))
    assert seen.answers[0][3] is not None and "an answer of more than" in seen.answers[0][3]


def test_the_text_of_a_failure_has_a_limit() -> None:
    with hostile_server(BROKEN["huge-error"]) as url:
        target = HttpTarget(url)

        async def talk() -> Seen:
            seen = Seen()
            connection = await target.connect(seen.done, seen.gone)
            connection.send(0, target.encode(PAYLOAD), False)
            await asyncio.sleep(0.2)
            assert len(connection._body) <= 65536
            connection.close()
            return seen

        run(talk())
