"""The seam between the generator and a protocol: payload → request bytes, request bytes → answer bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from tritonsmith.perf.wire.payload import Answer, InferPayload

KEPT_LIMIT_BYTES = 256 << 20
"""Of an answer that is kept to be compared."""
HEADER_FIX = "--header 'Authorization: …', or --header @FILE with such lines"
"""How a server gets to see what no address may hold."""


class Responses(NamedTuple):
    """The responses that one streamed request got: how many, when the last was whole, the longest pause
    between two."""

    total: int
    last_ns: int
    longest_gap_ns: int


class Done(Protocol):
    """The end of a request; called once for every request sent, never from inside `send`."""

    def __call__(
        self,
        slot: int,
        first_byte_ns: int,
        end_ns: int,
        reason: str | None,
        answer: bytes | None,
        responses: Responses | None = None,
        /,
    ) -> None:
        """The receiver may send again on the same connection at once, when it is still open.

        first_byte_ns: first byte of the answer; streaming: the first response was whole. 0 when none came.
        reason:        why it failed, or None.
        answer:        the raw answer when it was to be kept.
        responses:     of a streaming target.
        """


Closed = Callable[["Connection"], None]
"""A connection is gone; every request in flight on it has been reported by Done before."""


class Connection(Protocol):
    """One connection with up to the target's `streams_per_connection` requests in flight."""

    @property
    def open(self) -> bool:
        """True while a request may be sent."""

    def send(self, slot: int, request: bytes, keep: bool) -> None:
        """Send a request made by Target.encode; `slot` names it in Done, `keep` asks for the answer's bytes.

        At most one request a slot is in flight, and not more than streams_per_connection on the connection.
        """

    def cancel(self, slot: int, reason: str) -> None:
        """Give up the request of this slot: Done with this reason. HTTP/1.1 loses the connection by it."""

    def close(self) -> None:
        """Close when nothing is in flight; Closed is not called."""


class Target(Protocol):
    """A server's side of one protocol; a value that can be pickled into another process."""

    @property
    def url(self) -> str:
        """As the user would write it."""

    @property
    def protocol(self) -> str:
        """`http` or `grpc`."""

    @property
    def streams_per_connection(self) -> int:
        """Requests in flight one connection carries: 1 for HTTP/1.1, many for gRPC."""

    @property
    def streaming(self) -> bool:
        """Whether a request may get any number of responses, which are counted and timed."""

    @property
    def differs_by_slot(self) -> bool:
        """Whether a payload's request differs from slot to slot, since its outputs go to a place of the slot's."""

    def of_process(self, part: int, parts: int) -> Target:
        """The target as one of several client processes is to use it."""

    def encode(self, payload: InferPayload, slot: int | None = None) -> bytes:
        """The request as it goes over the wire (for gRPC: what does not depend on the stream).

        slot: the only slot that will send it; None: any may, and Connection.send makes it the slot's own.
        """

    def decode(self, answer: bytes) -> Answer:
        """The kept answer's tensors, or the server's error. Raises ValueError when it is malformed."""

    async def connect(self, done: Done, closed: Closed) -> Connection:
        """A new connection; OSError (ssl.SSLError among them) when there is none."""
