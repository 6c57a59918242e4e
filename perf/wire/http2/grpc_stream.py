"""The bytes of a gRPC answer of many messages → how many came and when, without decoding them.

Format: gRPC's length-prefixed messages (PROTOCOL-HTTP2.md), each an inference.ModelStreamInferResponse of
Triton's grpc_service.proto, whose field 1 is the error text and comes first when there is one.
"""

from __future__ import annotations

from tritonsmith.perf.wire.target import Responses

_PREFIX_BYTES = 5
_ERROR_TAG = 0x0A  # field 1, length-delimited
_TEXT_LIMIT = 300
_ERROR_LIMIT_BYTES = 4096


class ResponseParser:
    """Counts and times the responses of one request as their bytes come."""

    __slots__ = ("_error", "_fresh", "_last_ns", "_left", "_longest_gap_ns", "_prefix", "_total", "first_ns")

    def __init__(self) -> None:
        self.first_ns = 0  # when the first response was whole
        self._last_ns = 0
        self._longest_gap_ns = 0
        self._total = 0
        self._prefix = bytearray()
        self._left = -1  # bytes the message still lacks; -1 between messages
        self._fresh = False  # nothing of the message was seen
        self._error: bytearray | None = None

    def feed(self, data: bytes, now: int) -> None:
        """Take the next bytes, which came at `now`."""
        at, size = 0, len(data)
        while at < size:
            if self._left < 0:
                take = min(_PREFIX_BYTES - len(self._prefix), size - at)
                self._prefix += data[at : at + take]
                at += take
                if len(self._prefix) == _PREFIX_BYTES:
                    self._left = int.from_bytes(self._prefix[1:], "big")
                    self._fresh = True
                    self._prefix.clear()
            else:
                if self._fresh and data[at] == _ERROR_TAG and self._error is None:
                    self._error = bytearray()
                self._fresh = False
                take = min(self._left, size - at)
                if self._error is not None:
                    self._error += data[at : min(at + take, at + _ERROR_LIMIT_BYTES - len(self._error))]
                at += take
                self._left -= take
            if self._left == 0:
                self._left = -1
                self._response(now)

    def _response(self, now: int) -> None:
        if self._total == 0:
            self.first_ns = now
        else:
            self._longest_gap_ns = max(self._longest_gap_ns, now - self._last_ns)
        self._last_ns = now
        self._total += 1

    def responses(self) -> Responses:
        """What came so far."""
        return Responses(self._total, self._last_ns, self._longest_gap_ns)

    def failure(self) -> str | None:
        """The first error among the responses, or that one was cut off; None when all is well."""
        if self._error is not None:
            return f"gRPC stream: {_error_text(bytes(self._error))}"
        if self._left >= 0 or self._prefix:
            return "protocol: a response that is cut off"
        return None


class Stream:
    """A request in flight."""

    __slots__ = ("body", "failure", "first_ns", "keep", "parser", "slot", "unsent", "watched", "window")

    def __init__(self, slot: int, keep: bool, parser: ResponseParser | None) -> None:
        self.slot = slot
        self.keep = keep
        self.watched = keep or parser is not None
        self.first_ns = 0
        self.body = b"" if not keep else bytearray()
        self.failure: str | None = None
        self.parser = parser
        self.unsent: memoryview | None = None  # what flow control holds back
        self.window = 0  # bytes this stream may still send; kept only while something is unsent


def _error_text(message: bytes) -> str:
    """The error of the message at the front; what follows it may be cut off or the next message."""
    length, at = 0, 1
    while at < min(len(message), 11):  # a varint has ten bytes at most
        length |= (message[at] & 0x7F) << 7 * (at - 1)
        at += 1
        if message[at - 1] < 0x80:
            break
    return " ".join(message[at : at + length].decode("utf-8", "replace").split())[:_TEXT_LIMIT]
