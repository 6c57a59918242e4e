"""Requests that the answers of one read send → one write of several, which costs client and server less than each alone.

Measured with Triton's response cache and 32 requests in flight on one connection, medians of 18 interleaved rounds: 33.0
thousand requests a second each alone, 38.5 by four, 41.6 by eight, 42.1 all of a read; the client's CPU a request fell
from 13.6 to 9.7 µs, the server's from 36 to 29.
"""

from __future__ import annotations

import asyncio

from tritonsmith.perf.wire.http2.frames import Http2Error

_OWED_LIMIT_BYTES = 1 << 16
_TOGETHER = 8
"""More gain little, and the first of them waits for the last."""


class JoinedWrites:
    """Called with bytes: writes them, or between `hold` and `release` keeps a few to be written together, in order."""

    __slots__ = ("_holding", "_kept", "_owed_bytes", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._owed_bytes = 0  # acknowledgements that the server has not taken yet, at most
        self._kept: list[bytes] = []
        self._holding = False

    def __call__(self, data: bytes) -> None:
        """Write it now or soon."""
        self._kept.append(data)
        if not self._holding or len(self._kept) >= _TOGETHER:
            self.flush()

    def hold(self) -> None:
        """Answers are being taken in."""
        self._holding = True

    def release(self) -> None:
        """They are."""
        self._holding = False
        self.flush()

    def flush(self) -> None:
        """Write what is kept, as before anything that does not come by here."""
        kept = self._kept
        if kept:
            self._kept = []
            if not self._transport.is_closing():
                self._transport.write(b"".join(kept))

    def acknowledge(self, frame: bytes) -> None:
        """Write what a server may ask for at no cost of its own; one that never reads it is not to fill our memory."""
        self._owed_bytes = min(self._owed_bytes, self._transport.get_write_buffer_size()) + len(frame)
        if self._owed_bytes > _OWED_LIMIT_BYTES:
            raise Http2Error("a flood of frames that ask for an answer")
        self(frame)
