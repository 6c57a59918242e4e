"""One HTTP/1.1 connection whose answers are event streams: each response is counted and timed as it comes."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from tritonsmith.perf.wire.generate.events import EventParser
from tritonsmith.perf.wire.http import HttpConnection
from tritonsmith.perf.wire.target import Closed, Done


class GenerateConnection(HttpConnection):
    """See HttpConnection; first_byte_ns is when the first response was whole. parser: makes one for each request."""

    __slots__ = ("_events", "_parser")

    def __init__(self, done: Done, closed: Closed, parser: Callable[[], EventParser] = EventParser) -> None:
        super().__init__(done, closed)
        self._parser = parser
        self._events = parser()

    def data_received(self, data: bytes) -> None:
        """Called by the loop. No answer is taken whole by its head alone: what counts is inside."""
        self.received_bytes += len(data)
        self._receive(data, monotonic_ns())

    def _take(self, data: bytes, now: int) -> None:
        super()._take(data, now)
        if self._head is not None and self._head.status == 200:
            self._events.feed(data, now)

    def _end(self, slot: int, first_ns: int, end_ns: int, reason: str | None, answer: bytes | None) -> None:
        events, self._events = self._events, self._parser()
        reason = reason or events.failure()
        kept = answer if reason is None else None
        self._done(slot, events.first_ns, end_ns, reason, kept, events.responses())
