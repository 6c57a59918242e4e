"""(URL, one request) → its whole answer, within a time and a size; the only place that asks something once over HTTP.

Who answers may be anybody: what it sends is bounded as it is read, whatever its head says of it.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.base.errors import ServerError, UsageError
from tritonsmith.builder.base.files.address import address_of
from tritonsmith.builder.base.files.untrusted import json_value
from tritonsmith.builder.base.text.shown import one_line

ANSWER_LIMIT_BYTES = 4 << 20
"""Of an answer in JSON: the statistics of two thousand models have less."""
MOST_VALUES = 400_000
"""In an answer of this size. As Python objects they take up to thirty times what they take as JSON."""
_MOST_CONTAINERS = 200_000
_HEAD_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
_REASON_CHARACTERS = 2000
_FIRST_BYTES = 80
# How OpenSSL calls an answer that is no TLS.
_PLAIN = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
SIGN_IN = "-H 'Authorization: Bearer …', or --header @FILE with such lines: the server wants to know who asks"
"""What mends HTTP 401 and 403, gRPC's UNAUTHENTICATED and PERMISSION_DENIED."""


class NotHttpError(ConnectionError):
    """Something answered, and not in HTTP. first: its first bytes; none when it closed at once."""

    def __init__(self, why: str, first: bytes = b"") -> None:
        super().__init__(why)
        self.first = first


ANSWERED_ERRORS = (NotHttpError, ssl.SSLError, ConnectionResetError)
"""What `ask` raises where something is there."""


@dataclass(frozen=True, slots=True)
class Reply:
    """fields: of the head, names in lower case."""

    status: int
    fields: Mapping[str, str]
    body: bytes


def ask(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    fields: Mapping[str, str] | None = None,
    *,
    timeout_s: float,
    limit_bytes: int = ANSWER_LIMIT_BYTES,
    tls: ssl.SSLContext | None = None,
) -> Reply:
    """One request on a connection of its own, `url` being http(s)://HOST[:PORT][/PREFIX].

    timeout_s: from the first packet to the last byte. Raises OSError when nothing answers, or when what came is no
    answer: broken, cut off, late, larger than limit_bytes, encoded, or a redirect, which is not followed.
    """
    try:
        parts = address_of(url, ("http", "https"), "http://127.0.0.1:8000")
    except UsageError as error:  # a redirection of a stranger's, or metrics that are told wrong
        raise ConnectionError(error.message) from None
    secure = parts.scheme == "https"
    host, port = parts.host, parts.port or (443 if secure else 80)
    deadline_s = time.monotonic() + timeout_s
    first = bytearray()
    try:
        with socket.create_connection((host, port), timeout_s) as plain:
            context = tls or (ssl.create_default_context() if secure else None)
            connected = context.wrap_socket(plain, server_hostname=host) if context and secure else plain
            with connected:
                bounded = _BoundedSocket(connected, deadline_s, limit_bytes + _HEAD_BYTES, first)
                connection = _Connection(host, port)
                connection.sock = bounded
                sent = {**(fields or {}), "Connection": "close"}
                connection.request(method, parts.path + path, body, sent)
                return _reply(connection.getresponse(), limit_bytes)
    except TimeoutError:
        raise TimeoutError(f"no whole answer within {timeout_s:g} s") from None
    except OSError:  # ssl.SSLCertVerificationError is a ValueError, too
        raise
    except (http.client.HTTPException, ValueError) as error:
        why = f"not an HTTP answer: {str(error)[:200] or type(error).__name__}"
        raise NotHttpError(why, bytes(first)) from error


def spoken(first: bytes) -> str:
    """What the first bytes of an answer show of who speaks: `TLS`, `HTTP/1`, `HTTP/2`, else the bytes as text."""
    if first[:2] in (b"\x15\x03", b"\x16\x03"):  # an alert, or a handshake (RFC 8446, 5.1)
        return "TLS"
    if first.startswith(b"HTTP/"):
        return "HTTP/1"
    if len(first) >= 9 and first[3] == 4 and not any(first[5:9]):  # SETTINGS of stream 0 (RFC 9113, 6.5)
        return "HTTP/2"
    line = first.partition(b"\n")[0].strip() or first
    return f"`{one_line(line.decode('latin-1'))}`" if line else "nothing, and it closed the connection"


def no_answer(url: str, error: OSError) -> ServerError:
    """What `ask` raised → one error: what answers at the address instead of a Triton, if anything, and what to give."""
    seen, secure = str(error) or type(error).__name__, url.startswith("https:")
    other = url.replace("https:", "http:", 1) if secure else url.replace("http:", "https:", 1)
    usual = "is the server up, and is this its HTTP port (8000 by default)?"
    if isinstance(error, ssl.SSLCertVerificationError):
        trust = "--ca-file with the certificate that vouches for the server's"
        return ServerError(
            f"nothing answers HTTP at {url} that can be trusted",
            code="server_unreachable",
            seen=seen,
            fix=trust,
        )
    if isinstance(error, ssl.SSLError) and "CERTIFICATE_REQUIRED" in seen:
        return ServerError(
            f"{url} wants to see a client certificate",
            code="server_unreachable",
            seen=seen,
            fix="--cert and --key",
        )
    if isinstance(error, ssl.SSLError) and any(word in seen for word in _PLAIN):
        return ServerError(
            f"what answers at {url} does not speak TLS", code="not_triton", seen=seen, fix=f"is it {other}?"
        )
    if isinstance(error, ConnectionResetError):
        return ServerError(
            f"what answers at {url} broke the connection off",
            code="server_unreachable",
            seen=seen,
            fix=f"{usual} Does it want a client certificate? --cert and --key"
            if secure
            else f"{usual} With TLS it is {other}",
        )
    if not isinstance(error, NotHttpError):
        fix = f"{usual} Without TLS it is {other}" if secure and isinstance(error, TimeoutError) else usual
        return ServerError(f"nothing answers HTTP at {url}", code="server_unreachable", seen=seen, fix=fix)
    tongue = spoken(error.first)
    other_port = "that is a gRPC port: give the HTTP one (8000 by default), or grpc://HOST:PORT"
    fixes = {"TLS": other, "HTTP/2": other_port}
    return ServerError(
        f"what answers at {url} is not a Triton: it says {tongue}"
        if tongue not in fixes
        else f"what answers at {url} speaks {tongue}, not HTTP",
        code="not_triton",
        seen=seen,
        fix=fixes.get(tongue, usual if error.first else f"{usual} With TLS it is {other}"),
    )


def is_strange(reply: Reply) -> bool:
    """Whether no Triton gives this answer to what every Triton knows (GET /v2, /v2/health/live): a page, or "unknown"."""
    if reply.status == 200:
        return "html" in reply.fields.get("content-type", "") or reply.body.lstrip().startswith(b"<")
    return reply.status in (404, 405, 406, 410, 421, 426, 501, 505)


def not_triton(url: str, reply: Reply) -> ServerError:
    """An answer in HTTP that no Triton gives → the error that says whose it is."""
    kind = one_line(reply.fields.get("content-type", "").partition(";")[0][:60])
    server = one_line(reply.fields.get("server", "")[:60])
    what = " ".join(filter(None, (f"HTTP {reply.status}", kind, f"from {server}" if server else "")))
    text = one_line(" ".join(reply.body[:400].decode(errors="replace").split())[:80])
    return ServerError(
        f"what answers at {url} is not a Triton: {what}",
        code="not_triton",
        seen=text or "no body",
        fix="give the address of a Triton's HTTP port (8000 by default), with its path where it lies behind one",
    )


def json_from(body: bytes, most_values: int = MOST_VALUES) -> Any:
    """An answer's JSON; ValueError for what `json_value` refuses, or for more values than a server should tell."""
    if body.count(b"[") + body.count(b"{") > _MOST_CONTAINERS or body.count(b",") > most_values:
        raise ValueError("more values than a server should tell")
    return json_value(body)


def reason_of(body: bytes) -> str:
    """Why a request was refused: Triton's {"error": …}, else the text itself; cut when it is long."""
    try:
        reason = str(json_from(body)["error"])
    except (ValueError, KeyError, TypeError):
        reason = body.decode(errors="replace")
    reason = reason.strip()
    return reason if len(reason) <= _REASON_CHARACTERS else f"{reason[:_REASON_CHARACTERS]}…"


def _reply(response: http.client.HTTPResponse, limit_bytes: int) -> Reply:
    fields = {name.lower(): value for name, value in response.getheaders()}
    if 300 <= response.status < 400:
        told = fields.get("location", "another place")[:200]
        raise ConnectionError(f"it redirects to {told}, and redirects are not followed")
    if fields.get("content-encoding", "identity").lower() != "identity":
        raise ConnectionError(
            f"its answer is encoded ({fields['content-encoding'][:40]}), which was not asked for"
        )
    for length in response.headers.get_all("content-length", []):
        if not re.fullmatch(r"[0-9]{1,18}", length.strip()):
            raise ConnectionError(f"not a length: Content-Length: {length[:40]}")
        if int(length) > limit_bytes:
            raise _too_large(limit_bytes)
    pieces, total = [], 0
    while piece := response.read(_PIECE_BYTES):
        pieces.append(piece)
        total += len(piece)
        if total > limit_bytes:
            raise _too_large(limit_bytes)
    if response.length:
        raise ConnectionError(f"its answer ends {response.length} bytes early")
    return Reply(response.status, fields, b"".join(pieces))


def _too_large(limit_bytes: int) -> ConnectionError:
    return ConnectionError(f"its answer is larger than {limit_bytes >> 20} MiB")


class _Connection(http.client.HTTPConnection):
    """Paths in UTF-8, as Triton takes names; control characters and spaces are refused by http.client."""

    def _encode_request(self, request: str) -> bytes:
        return request.encode()


class _BoundedSocket:
    """What http.client uses of a socket; the owner of the socket itself closes it."""

    def __init__(
        self, connected: socket.socket, deadline_s: float, limit_bytes: int, first: bytearray
    ) -> None:
        self._socket = connected
        self._deadline_s = deadline_s
        self._limit_bytes = limit_bytes
        self._first = first

    def sendall(self, data: Any) -> None:
        _arm(self._socket, self._deadline_s)
        self._socket.sendall(data)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(
            _BoundedReader(self._socket, self._deadline_s, self._limit_bytes, self._first), _PIECE_BYTES
        )

    def close(self) -> None:
        """Nothing: http.client closes before it has read."""


class _BoundedReader(io.RawIOBase):
    """All that comes of a socket, up to a time and a size; a broken length or chunk cannot get around it.

    first: gets the first bytes, for the error of what is no HTTP.
    """

    def __init__(
        self, connected: socket.socket, deadline_s: float, limit_bytes: int, first: bytearray
    ) -> None:
        self._socket = connected
        self._first = first
        self._deadline_s = deadline_s
        self._left_bytes = self._limit_bytes = limit_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        _arm(self._socket, self._deadline_s)
        count = self._socket.recv_into(buffer)
        self._left_bytes -= count
        if len(self._first) < _FIRST_BYTES:
            self._first += memoryview(buffer)[: min(count, _FIRST_BYTES - len(self._first))]
        if self._left_bytes < 0:
            raise _too_large(self._limit_bytes)
        return count


def _arm(connected: socket.socket, deadline_s: float) -> None:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connected.settimeout(left_s)
