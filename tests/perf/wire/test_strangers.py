"""What answers in a Triton's place, on real sockets: exit 3 and one error that says what it is, where, and what to give."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.perf.certificates import made_certificate
from tests.perf.fake_grpc import grpc_server
from tests.perf.fake_server import fake_server
from tests.perf.hostile_server import always, hostile_server
from tritonsmith.builder.base.errors import ServerError, TrialError, TritonsmithError
from tritonsmith.builder.base.files.http_ask import spoken
from tritonsmith.perf.commands.init import imported_url
from tritonsmith.perf.commands.release.live import LiveRelease
from tritonsmith.perf.load.load_test import LoadTest, fitted, run_load_test
from tritonsmith.perf.load.text import text_of_result
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.server.launch import ServerSpec, launch
from tritonsmith.perf.wire.http import HttpTarget

HTML = b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nServer: nginx/1.25\r\nContent-Length: 20\r\n\r\n<html>Welcome!</html"
GREETING = b"220 mail.example ESMTP\r\n"
SSH = b"SSH-2.0-OpenSSH_9.2\r\n"


def load(url: str) -> object:
    return run_load_test(url, fitted(LoadTest("m", Closed(1), duration_s=0.1, warmup_s=0), url))


def attach(url: str) -> object:
    with launch(ServerSpec(kind="attached", reference=url)) as server:
        return server


def release(url: str) -> None:
    LiveRelease([HttpTarget(url)]).check()


HTTP = [load, attach, release, imported_url]


def error_of(ask: Callable[[str], object], url: str) -> TritonsmithError:
    with pytest.raises(TritonsmithError) as caught:
        ask(url)
    return caught.value


@contextmanager
def talker(said: bytes, first: bool) -> Iterator[str]:
    """HOST:PORT of what says this to everybody, unasked or to the first bytes, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        if not first:
                            connection.recv(4096)
                        connection.sendall(said)
                        connection.shutdown(socket.SHUT_WR)
                        connection.settimeout(2)
                        while connection.recv(4096):
                            pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize("ask", HTTP, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
def test_a_web_server_is_named_with_its_status(ask: Callable[[str], object], status: bytes) -> None:
    with hostile_server(always(HTML % status)) as url:
        error = error_of(ask, url)
    assert isinstance(error, ServerError) and error.exit_code == 3 and error.code == "not_triton"
    wanted = f"what answers at {url} is not a Triton: HTTP {status[:3].decode()} text/html from nginx/1.25"
    assert error.message == wanted and "<html>" in str(error.seen) and "8000" in str(error.fix)


@pytest.mark.parametrize("ask", HTTP, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("said", [SSH, GREETING, b"\xff\x00 noise \x1b[31m"], ids=["ssh", "smtp", "noise"])
def test_what_speaks_no_http_is_quoted(ask: Callable[[str], object], said: bytes) -> None:
    with talker(said, first=True) as address:
        error = error_of(ask, f"http://{address}")
    assert error.exit_code == 3 and error.code == "not_triton" and address in error.message
    assert spoken(said) in error.message and error.message.isprintable() and error.fix


@pytest.mark.parametrize(
    "said", [SSH, GREETING, b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["ssh", "smtp", "http"]
)
def test_what_speaks_no_grpc_is_quoted(said: bytes) -> None:
    with talker(said, first=False) as address:
        error = error_of(load, f"grpc://{address}")
    assert error.exit_code == 3 and error.code == "not_triton" and address in error.message
    assert spoken(said) in error.message and "8001" in str(error.fix)


def test_tls_met_in_plain_and_plain_met_with_tls_name_the_other_scheme(tmp_path: Path) -> None:
    key, certificate = made_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with fake_server(ssl=context) as server:
        for ask in (load, attach, release):
            error = error_of(ask, server.url.replace("https", "http"))
            assert error.exit_code == 3 and server.url in str(error.fix), error
        assert "grpcs://" in str(error_of(load, server.url.replace("https", "grpc")).fix)
    with talker(b"HTTP/1.1 400 Bad Request\r\n\r\n", first=False) as plain:
        error = error_of(load, f"https://{plain}")
    assert (
        error.exit_code == 3 and "does not speak TLS" in error.message and f"http://{plain}" in str(error.fix)
    )


def test_an_alert_of_tls_is_known_by_its_first_bytes() -> None:
    with talker(b"\x15\x03\x03\x00\x02\x02\x46", first=False) as address:
        error = error_of(load, f"http://{address}")
        assert "speaks TLS, not HTTP" in error.message and error.fix == f"https://{address}"
        error = error_of(load, f"grpc://{address}")
        assert "TLS" in error.message and error.fix == f"grpcs://{address}"


def test_each_of_tritons_two_ports_is_known_at_the_other_ones_place() -> None:
    with grpc_server() as server:
        error = error_of(load, f"http://127.0.0.1:{server.port}")
    assert error.exit_code == 3 and "HTTP/2" in error.message and "grpc://" in str(error.fix)
    with fake_server() as http:
        error = error_of(load, http.url.replace("http", "grpc"))
    assert error.exit_code == 3 and "8001" in str(error.fix)


def test_silence_is_no_stranger() -> None:
    for url in ("http://127.0.0.1:1", "grpc://127.0.0.1:1"):
        error = error_of(load, url)
        assert (
            error.code == "server_unreachable" and error.exit_code == 3 and "nothing answers" in error.message
        )


def test_json_of_anybodys_is_no_triton() -> None:
    with hostile_server(always(b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"hello":"you"}\n')) as url:
        assert error_of(load, url).code == "not_triton"


# Who asks.


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_to_know_who_asks_is_told_how(status: int) -> None:
    said = b'HTTP/1.1 %d X\r\nContent-Length: 17\r\n\r\n{"error":"token"}' % status
    with hostile_server(always(said)) as url:
        error = error_of(load, url)
        attached = error_of(attach, url)
    assert isinstance(error, TrialError) and "-H 'Authorization: Bearer …'" in str(error.fix)
    assert "wants to know who asks" in attached.message and attached.exit_code == 3


def test_grpc_that_wants_to_know_who_asks_is_told_how() -> None:
    with grpc_server(require=("authorization", "Bearer t")) as server:
        url = f"grpc://127.0.0.1:{server.port}"
        test = LoadTest("m", Closed(1), duration_s=None, requests=2, warmup_s=0, protocol="grpc")
        refused = run_load_test(url, test)
        text = text_of_result(refused, test.load)
        known = run_load_test(url, replace(test, headers={"Authorization": "Bearer t"}))
        assert server.metadata[-1]["authorization"] == "Bearer t"
    assert known.records.ok.all()
    assert refused.records.failures() == {"gRPC UNAUTHENTICATED: who are you?": 2}
    assert "-H 'Authorization: Bearer …'" in text


def test_a_refused_load_says_how_to_be_let_in() -> None:
    with fake_server(infer_status=401) as server:
        test = LoadTest("m", Closed(1), duration_s=None, requests=2, warmup_s=0)
        text = text_of_result(run_load_test(server.url, test), test.load)
    assert "HTTP 401: no access" in text and "-H 'Authorization: Bearer …'" in text
