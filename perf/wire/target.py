"""The seam between the generator and a protocol: payload → request bytes, request bytes → answer bytes."""

from __future__ import annotations

import asyncio
import ssl
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.perf.wire.payload import Answer, InferPayload

KEPT_LIMIT_BYTES = 256 << 20
"""Of an answer that is kept to be compared."""
HEADER_FIX = "--header 'Authorization: …', or --header @FILE with such lines"
"""How a server gets to see what no address may hold."""
UNKNOWN_CALLER = ("HTTP 401", "HTTP 403", "gRPC UNAUTHENTICATED", "gRPC PERMISSION_DENIED")
"""How the reason of a failed request begins that a server refused for who sent it."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What is trusted over TLS, and what is shown. verify: False trusts any certificate, a test server's own.

    ca_file: certificates to trust beside the system's. cert_file, key_file: the client's own, as PEM; the key may be in
    the same file.
    """

    ca_file: str | None = None
    verify: bool = True
    cert_file: str | None = None
    key_file: str | None = None

    def context(self, protocols: Sequence[str] = ()) -> ssl.SSLContext:
        """protocols: to be agreed on by ALPN. UsageError bad_certificate for a file that is none."""
        return _context(self, tuple(protocols))


@lru_cache(maxsize=8)  # reading the system's certificates takes longer than a request
def _context(tls: Tls, protocols: tuple[str, ...]) -> ssl.SSLContext:
    read = tls.ca_file
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            read = tls.cert_file
            # Without a password given, OpenSSL would ask the terminal for one.
            context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_password)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"not certificates that can be used, or not the key that goes with them: {error}",
            code="bad_certificate",
            where=Where(Path(str(read))),
            fix="give PEM files, a key without a password",
        ) from None
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")


class Chunks(NamedTuple):
    """What came in each response of a streamed text, told by a target that reads them.

    at_ns, tokens, sizes: when each was whole, the tokens that the server says it holds (-1: not told), bytes of its text.
    text: all of it, where it was to be kept. input_tokens, output_tokens: of the request, as told; -1: not told.
    """

    at_ns: array[int]
    tokens: array[int]
    sizes: array[int]
    text: bytes
    input_tokens: int
    output_tokens: int


class Responses(NamedTuple):
    """The responses that one streamed request got: how many, when the last was whole, the longest pause
    between two; what they held, where the target reads them."""

    total: int
    last_ns: int
    longest_gap_ns: int
    chunks: Chunks | None = None


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


@dataclass(slots=True)
class OneEnd:
    """The Done of the only request of its connection: `ended` gets (first_byte_ns, end_ns, reason, answer)."""

    ended: asyncio.Future[tuple[int, int, str | None, bytes | None]]

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
        """See Done."""
        if not self.ended.done():
            self.ended.set_result((first_byte_ns, end_ns, reason, answer))


Closed = Callable[["Connection"], None]
"""A connection is gone; every request in flight on it has been reported by Done before."""


class Connection(Protocol):
    """One connection with up to the target's `streams_per_connection` requests in flight."""

    @property
    def open(self) -> bool:
        """True while a request may be sent."""

    @property
    def received_bytes(self) -> int:
        """All that came on it so far."""

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
