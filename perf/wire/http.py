"""Request bytes → answer bytes over raw HTTP/1.1: one protocol a connection, one request in flight on it.

A load generator that spends its time in an HTTP library measures itself. Here a request was made once, an
answer's head is looked up whole in a table of heads seen before (Triton repeats them byte for byte), and
only a head never seen is parsed. Format: RFC 9112 (HTTP/1.1), sections 6 and 7.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import TypeVar, cast

from tritonsmith.builder.base.files.address import Address, address_of, refuse_bare_ipv6
from tritonsmith.builder.base.text.shown import refuse_secrets
from tritonsmith.perf.wire.payload import Answer, InferPayload, decode_http, http_request
from tritonsmith.perf.wire.target import HEADER_FIX, KEPT_LIMIT_BYTES, Closed, Done, Tls

_HEAD_LIMIT_BYTES = 65536
_HEADS_LIMIT = 256
_TEXT_LIMIT = 300
_REASON_LIMIT_BYTES = 65536
_INTERIM_LIMIT = 16  # in one read
_HEADS: dict[bytes, int] = {}
"""Head with its empty line → bytes of head and body, of plain 200 answers; a memo of parse_head."""


@dataclass(frozen=True, slots=True)
class Head:
    """A parsed response head.

    length: bytes of the body; -1 chunked, -2 until the connection closes.
    """

    status: int
    length: int
    keep_alive: bool
    json_length: int | None


def parse_head(head: bytes) -> Head:
    """Status line and header fields (without the empty line) → Head; ValueError when malformed."""
    lines = head.split(b"\r\n")
    version, _, rest = lines[0].partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
        raise ValueError(f"not an HTTP/1 status line: {lines[0][:60]!r}")
    status = int(rest[:3])
    length, keep_alive, json_length = -2, version == b"HTTP/1.1", None
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            raise ValueError(f"not a header field: {line[:60]!r}")
        name, value = name.lower(), value.strip()
        if name == b"content-length" and length != -1:
            length = _number(value)
        elif name == b"transfer-encoding" and value.lower().endswith(b"chunked"):
            length = -1
        elif name == b"connection":
            keep_alive = b"keep-alive" in value.lower() or (keep_alive and b"close" not in value.lower())
        elif name == b"inference-header-content-length":
            json_length = _number(value)
    if status in (204, 304) or status < 200:
        length = 0
    return Head(status, length, keep_alive and length != -2, json_length)


def _number(value: bytes) -> int:
    if not value.isdigit():
        raise ValueError(f"not a length: {value[:40]!r}")
    return int(value)


Opened = TypeVar("Opened", bound="HttpConnection")


class HttpConnection(asyncio.Protocol):
    """One keep-alive connection; implements perf.wire.target.Connection."""

    __slots__ = (
        "_body", "_done", "_first_ns", "_got", "_head", "_head_bytes", "_keep",
        "_left", "_on_closed", "_slot", "_transport", "_write", "open", "received_bytes",
    )  # fmt: skip

    def __init__(self, done: Done, closed: Closed) -> None:
        self._done = done
        self._on_closed: Closed | None = closed
        self._slot = -1
        self._keep = False
        self.open = False
        self.received_bytes = 0
        self._head: Head | None = None
        self._head_bytes = bytearray()
        self._body = bytearray()
        self._got = bytearray()
        self._left = 0
        self._first_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        self.open = True

    def send(self, slot: int, request: bytes, keep: bool) -> None:
        """See Connection.send."""
        self._slot = slot
        self._keep = keep
        self._write(request)

    def cancel(self, slot: int, reason: str) -> None:
        """See Connection.cancel."""
        if slot == self._slot:
            self._fail(reason)

    def close(self) -> None:
        """See Connection.close."""
        self._on_closed = None
        self.open = False
        self._transport.close()

    # Receiving. The usual answer is whole in one read and has a head seen before; it takes the first branch.

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        now = monotonic_ns()
        self.received_bytes += len(data)
        if not self._first_ns and self._slot >= 0:
            end = data.find(b"\r\n\r\n") + 4
            if _HEADS.get(data[:end]) == len(data):
                slot = self._slot
                self._slot = -1
                self._done(slot, now, now, None, data if self._keep else None)
                return
        self._receive(data, now)

    def _receive(self, data: bytes, now: int) -> None:
        self._first_ns = self._first_ns or now
        if self._slot < 0:
            self._drop("connection: the server sent bytes nobody asked for")
            return
        try:
            self._feed(data, now)
        except ValueError as error:
            self._fail(f"protocol: {error}")

    def _feed(self, data: bytes, now: int) -> None:
        interim = 0
        while self._head is None:
            self._head_bytes += data
            end = self._head_bytes.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head_bytes) > _HEAD_LIMIT_BYTES:
                    raise ValueError(f"no end of the response head in {_HEAD_LIMIT_BYTES} bytes")
                return
            data = bytes(self._head_bytes[end + 4 :])
            del self._head_bytes[end + 4 :]
            head = parse_head(bytes(self._head_bytes[:end]))
            if head.status < 200:  # 100 Continue and the like: the real head follows
                self._head_bytes.clear()
                interim += 1
                if interim > _INTERIM_LIMIT:
                    raise ValueError("interim answers without end")
                continue
            self._head = head
            self._left = head.length
        if self._head.length == -1:
            self._feed_chunked(data, now)
        elif self._head.length == -2:
            self._take(data, now)
        else:
            self._left -= len(data)
            self._take(data, now)
            if self._left < 0:
                raise ValueError("more bytes than Content-Length")
            if self._left == 0:
                self._finish(now)

    def _take(self, data: bytes, now: int) -> None:
        if self._head is not None and self._head.status != 200:  # the reason is in the body
            self._body += data[: _REASON_LIMIT_BYTES - len(self._body)]
        elif self._keep:
            self._body += data
            if len(self._body) > KEPT_LIMIT_BYTES:
                raise ValueError(f"an answer of more than {KEPT_LIMIT_BYTES >> 20} MiB")

    def _feed_chunked(self, data: bytes, now: int) -> None:
        """`_got` holds bytes not yet understood; `_left` is what the chunk and its line end still lack, -1 between chunks.

        -2 means the last chunk was seen and trailers follow.
        """
        self._got += data
        got = self._got
        while True:
            if self._left > 2:
                part = bytes(got[: self._left - 2])
                self._take(part, now)
                del got[: len(part)]
                self._left -= len(part)
            if self._left >= 0:
                if self._left > 2 or len(got) < 2:
                    return
                if got[:2] != b"\r\n":
                    raise ValueError("a chunk does not end where it said")
                del got[:2]
                self._left = -1
                continue
            end = got.find(b"\r\n")
            if end < 0:
                if len(got) > _HEAD_LIMIT_BYTES:
                    raise ValueError("no end of a chunk's size")
                return
            line = bytes(got[:end])
            del got[: end + 2]
            if self._left == -2:
                if line:
                    continue
                if got:
                    raise ValueError("more bytes than the chunks")
                self._finish(now)
                return
            size = line.partition(b";")[0].strip()
            if not size or size.strip(b"0123456789abcdefABCDEF"):
                raise ValueError(f"not a chunk's size: {size[:40]!r}")
            length = int(size, 16)
            self._left = length + 2 if length else -2

    def _finish(self, now: int) -> None:
        head, slot, first_ns = self._head, self._slot, self._first_ns
        assert head is not None
        raw_head = bytes(self._head_bytes)
        answer = raw_head + bytes(self._body) if self._keep or head.status != 200 else None
        if head.status == 200 and head.keep_alive and head.length >= 0:
            if len(_HEADS) >= _HEADS_LIMIT:  # a server that puts the date into its head
                _HEADS.clear()
            _HEADS[raw_head] = len(raw_head) + head.length
        reason = None if head.status == 200 else http_reason(head.status, bytes(self._body))
        self._slot = -1
        self._reset()
        if not head.keep_alive:
            self.open = False
        self._end(slot, first_ns, now, reason, answer)
        if not head.keep_alive:
            self._drop("")

    def _end(self, slot: int, first_ns: int, end_ns: int, reason: str | None, answer: bytes | None) -> None:
        """The end of a request that was not taken whole by its head."""
        self._done(slot, first_ns, end_ns, reason, answer)

    def _reset(self) -> None:
        self._head = None
        self._head_bytes = bytearray()
        self._body = bytearray()
        self._got = bytearray()
        self._left = 0
        self._first_ns = 0

    # Ending.

    def _fail(self, reason: str) -> None:
        """End the request in flight with a reason, and the connection with it."""
        slot, first_ns = self._slot, self._first_ns
        self._slot = -1
        self.open = False
        if slot >= 0:
            self._end(slot, first_ns, monotonic_ns(), reason, None)
        self._drop(reason)

    def _drop(self, reason: str) -> None:
        self.open = False
        self._transport.abort()
        closed, self._on_closed = self._on_closed, None
        if closed is not None:
            closed(self)

    def eof_received(self) -> bool:
        """Called by the loop."""
        if self._slot >= 0 and self._head is not None and self._head.length == -2:
            self._finish(monotonic_ns())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.open = False
        if self._slot >= 0:
            when = "inside the answer" if self._first_ns else "before an answer"
            self._fail(f"connection: {'reset' if exc else 'closed'} by the server {when}")
        else:
            self._drop("")


def http_reason(status: int, body: bytes) -> str:
    """`HTTP 503: Request timeout expired` from an error answer; the text is cut at 300 characters."""
    try:
        said = json.loads(body.removeprefix(b"data: "))  # or the one event of a stream
        error = next(said[name] for name in ("error", "message", "detail") if said.get(name))
        text = str(
            error.get("message", error) if isinstance(error, dict) else error
        )  # as OpenAI's API has it
    except (ValueError, AttributeError, TypeError, StopIteration):
        text = body.decode("utf-8", "replace")
    text = " ".join(text.split())[:_TEXT_LIMIT]
    return f"HTTP {status}: {text}" if text else f"HTTP {status}"


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """A KServe v2 server over HTTP/1.1; implements perf.wire.target.Target.

    base_url: `http://host:port[/prefix]` or https; `host:port` means http.
    headers:  sent with every request (auth).
    ca_file, verify, cert_file, key_file: what https trusts and shows, see Tls.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: str | None = None
    verify: bool = True
    connect_timeout_s: float = 5.0
    cert_file: str | None = None
    key_file: str | None = None

    def __post_init__(self) -> None:
        refuse_bare_ipv6(self.base_url)
        if "://" not in self.base_url:
            object.__setattr__(self, "base_url", f"http://{self.base_url}")
        refuse_secrets(self.base_url, HEADER_FIX)
        self.address()

    def address(self) -> Address:
        """The URL's parts; UsageError bad_url when it is none."""
        return address_of(self.base_url, ("http", "https"), "http://127.0.0.1:8000")

    @property
    def url(self) -> str:
        """As the user would write it."""
        return self.base_url

    @property
    def tls(self) -> Tls:
        """What https trusts and shows."""
        return Tls(self.ca_file, self.verify, self.cert_file, self.key_file)

    @property
    def protocol(self) -> str:
        """`http`."""
        return "http"

    @property
    def streams_per_connection(self) -> int:
        """1: a second request would wait behind the first."""
        return 1

    @property
    def streaming(self) -> bool:
        """One response a request."""
        return False

    @property
    def differs_by_slot(self) -> bool:
        """No: every slot sends the same bytes."""
        return False

    def of_process(self, part: int, parts: int) -> HttpTarget:
        """See Target."""
        return self

    def encode(self, payload: InferPayload, slot: int | None = None) -> bytes:
        """See Target.encode."""
        at = self.address()
        return http_request(payload, at.authority, at.path, self.headers)

    def decode(self, answer: bytes) -> Answer:
        """See Target.decode; the answer is head, empty line and body with any chunking undone."""
        head, _, body = answer.partition(b"\r\n\r\n")
        return decode_http(parse_head(head).json_length, body)

    async def connect(self, done: Done, closed: Closed) -> HttpConnection:
        """See Target.connect."""
        return await self.opened(lambda: HttpConnection(done, closed))

    async def opened(self, make: Callable[[], Opened]) -> Opened:
        """A connection of this kind."""
        at = self.address()
        context = self.tls.context() if at.scheme == "https" else None
        port = at.port or (443 if context else 80)
        opening = asyncio.get_running_loop().create_connection(make, at.host, port, ssl=context)
        try:
            _, connection = await asyncio.wait_for(opening, self.connect_timeout_s)
        except asyncio.TimeoutError as error:
            raise TimeoutError(f"no connection in {self.connect_timeout_s:g} s") from error
        return connection
