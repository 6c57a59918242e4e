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
from urllib.parse import urlsplit

from tritonsmith.builder.base.files.untrusted import json_value

ANSWER_LIMIT_BYTES = 4 << 20
"""Of an answer in JSON: the statistics of two thousand models have less."""
MOST_VALUES = 400_000
"""In an answer of this size. As Python objects they take up to thirty times what they take as JSON."""
_MOST_CONTAINERS = 200_000
_HEAD_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
_REASON_CHARACTERS = 2000


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
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    deadline_s = time.monotonic() + timeout_s
    try:
        with socket.create_connection((host, port), timeout_s) as plain:
            context = tls or (ssl.create_default_context() if secure else None)
            connected = context.wrap_socket(plain, server_hostname=host) if context and secure else plain
            with connected:
                bounded = _BoundedSocket(connected, deadline_s, limit_bytes + _HEAD_BYTES)
                connection = _Connection(host, port)
                connection.sock = bounded
                sent = {**(fields or {}), "Connection": "close"}
                connection.request(method, parts.path.rstrip("/") + path, body, sent)
                return _reply(connection.getresponse(), limit_bytes)
    except TimeoutError:
        raise TimeoutError(f"no whole answer within {timeout_s:g} s") from None
    except OSError:  # ssl.SSLCertVerificationError is a ValueError, too
        raise
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"not an HTTP answer: {str(error)[:200] or type(error).__name__}") from error


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

    def __init__(self, connected: socket.socket, deadline_s: float, limit_bytes: int) -> None:
        self._socket = connected
        self._deadline_s = deadline_s
        self._limit_bytes = limit_bytes

    def sendall(self, data: Any) -> None:
        _arm(self._socket, self._deadline_s)
        self._socket.sendall(data)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(
            _BoundedReader(self._socket, self._deadline_s, self._limit_bytes), _PIECE_BYTES
        )

    def close(self) -> None:
        """Nothing: http.client closes before it has read."""


class _BoundedReader(io.RawIOBase):
    """All that comes of a socket, up to a time and a size; a broken length or chunk cannot get around it."""

    def __init__(self, connected: socket.socket, deadline_s: float, limit_bytes: int) -> None:
        self._socket = connected
        self._deadline_s = deadline_s
        self._left_bytes = self._limit_bytes = limit_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        _arm(self._socket, self._deadline_s)
        count = self._socket.recv_into(buffer)
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise _too_large(self._limit_bytes)
        return count


def _arm(connected: socket.socket, deadline_s: float) -> None:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connected.settimeout(left_s)
