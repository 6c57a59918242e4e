"""A real HTTP proxy before a server, which fails when it is told to: `with failing_proxy(url) as proxy: proxy.fail_from(3)`."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Failure = Literal["503", "403", "drop", "lost", "cut", "stall"]
"""What a failing request gets: an answer; no answer, and the server never hears of it, or does what it asks; the half
of one; or none before `release`."""

_XML = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>told to fail</Message></Error>'
_CODES = {"503": "ServiceUnavailable", "403": "AccessDenied"}
_OF_ONE_HOP = {"connection", "transfer-encoding", "expect", "keep-alive"}


class FailingProxy:
    """Requests are counted from 1, anew after each call of a method here."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[str] = []
        self.stalled = threading.Event()
        self._released = threading.Event()
        self._guard = threading.Lock()
        self._first: int | None = None
        self._last: int | None = None
        self._how: Failure = "503"
        self._methods: tuple[str, ...] = ()

    def fail_from(self, first: int, how: Failure = "503", methods: tuple[str, ...] = ()) -> None:
        """Every request from the n-th on fails; methods: only these are counted and fail, () means all."""
        self._set(first, None, how, methods)

    def fail_once(self, at: int, how: Failure = "503", methods: tuple[str, ...] = ()) -> None:
        """Only the n-th request fails."""
        self._set(at, at, how, methods)

    def heal(self) -> None:
        """No request fails any more; stalled ones go on."""
        self._set(None, None, "503", ())
        self._released.set()

    def _set(self, first: int | None, last: int | None, how: Failure, methods: tuple[str, ...]) -> None:
        with self._guard:
            self._first, self._last, self._how, self._methods = first, last, how, methods
            self.requests = []
            self.stalled.clear()
            self._released = threading.Event()

    def judge(self, method: str, path: str) -> Failure | None:
        """What becomes of a request that arrives now."""
        with self._guard:
            if self._methods and method not in self._methods:
                return None
            self.requests.append(f"{method} {path}")
            number = len(self.requests)
            if (
                self._first is None
                or number < self._first
                or (self._last is not None and number > self._last)
            ):
                return None
            return self._how

    def wait_released(self) -> None:
        """Holds a stalled request."""
        self.stalled.set()
        self._released.wait(60)


@contextmanager
def failing_proxy(upstream_url: str) -> Iterator[FailingProxy]:
    """A proxy on a free port of 127.0.0.1, which lets everything through until it is told otherwise."""
    upstream = urlsplit(upstream_url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            with suppress(ConnectionError, TimeoutError):
                super().handle_one_request()
                return
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self) -> None:
            body = self._body()
            failure = proxy.judge(self.command, self.path)
            if failure == "stall":
                proxy.wait_released()
            if failure in _CODES:
                self._send(int(failure), _XML.format(code=_CODES[failure]).encode(), [])
            elif failure == "drop":
                self._drop()
            elif failure == "lost":
                self._forward(body, cut=False, lost=True)
            else:
                self._forward(body, cut=failure == "cut")

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _forward(self, body: bytes, cut: bool, lost: bool = False) -> None:
            connection = http.client.HTTPConnection(str(upstream.hostname), upstream.port, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_ONE_HOP}
            headers["Content-Length"] = str(len(body))
            try:
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                if lost:
                    self._drop()
                else:
                    self._send(answer.status, content, answer.getheaders(), cut)
            finally:
                connection.close()

        def _send(self, status: int, body: bytes, headers: list[tuple[str, str]], cut: bool = False) -> None:
            self.send_response(status)
            length = str(len(body))
            for name, value in headers:
                if name.lower() == "content-length":
                    length = value  # of what a HEAD request asks about
                elif name.lower() not in (*_OF_ONE_HOP, "server", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self._drop()

        def _drop(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = FailingProxy(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.heal()
        server.shutdown()
        server.server_close()
        thread.join(5)
