"""One HTTP/1.1 connection whose answers are event streams: each response is counted and timed as it comes."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from tritonsmith.perf.wire.generate.events import EventParser
from tritonsmith.perf.wire.http import HttpConnection
from tritonsmith.perf.wire.target import Closed, Done

_CHUNKED = _BETWEEN_CHUNKS = -1  # see http.Head and HttpConnection._feed_chunked
_HEX = b"0123456789abcdefABCDEF"
_SIZE_DIGITS = 8
_MOST_SIZES = 1 << 16
_SIZES: dict[bytes, int] = {}
"""A chunk's size as it is written → the number."""


class GenerateConnection(HttpConnection):
    """See HttpConnection; first_byte_ns is when the first response was whole. parser: makes one for each request."""

    __slots__ = ("_events", "_parser")

    def __init__(self, done: Done, closed: Closed, parser: Callable[[], EventParser] = EventParser) -> None:
        super().__init__(done, closed)
        self._parser = parser
        self._events = parser()

    def data_received(self, data: bytes) -> None:
        """Called by the loop. No answer is taken whole by its head alone: what counts is inside."""
        now = monotonic_ns()
        self.received_bytes += len(data)
        if (
            self._left == _BETWEEN_CHUNKS
            and self._head is not None
            and not self._got
            and self._head.length == _CHUNKED
        ):
            data = self._whole_chunks(data, now)
        if data:
            self._receive(data, now)

    def _whole_chunks(self, data: bytes, now: int) -> bytes:
        """The hot path: `_feed_chunked` for chunks that are whole, without a copy of the rest for each. What is left."""
        at, length = 0, len(data)
        while at < length:
            end = data.find(b"\r\n", at, at + _SIZE_DIGITS)
            size = _SIZES.get(data[at:end]) if end > 0 else None
            if size is None:
                digits = data[at:end] if end > at else b""
                if not digits.isalnum() or digits.strip(_HEX) or len(_SIZES) > _MOST_SIZES:
                    break
                size = _SIZES[digits] = int(digits, 16)
            stop = end + 2 + size
            if not size or data[stop : stop + 2] != b"\r\n":
                break
            try:
                self._take(data[end + 2 : stop], now)
            except ValueError as error:
                self._fail(f"protocol: {error}")
                return b""
            at = stop + 2
        return data[at:]

    def _take(self, data: bytes, now: int) -> None:
        super()._take(data, now)
        if self._head is not None and self._head.status == 200:
            self._events.feed(data, now)

    def _end(self, slot: int, first_ns: int, end_ns: int, reason: str | None, answer: bytes | None) -> None:
        events, self._events = self._events, self._parser()
        reason = reason or events.failure()
        kept = answer if reason is None else None
        self._done(slot, events.first_ns, end_ns, reason, kept, events.responses())
