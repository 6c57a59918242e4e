"""HTTP/2 frames and header blocks as bytes, as far as a gRPC client needs them.

Format: RFC 9113 (HTTP/2), sections 4 to 6; RFC 7541 (HPACK), sections 5 and 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD_BYTES = 9

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5

DEFAULT_WINDOW_BYTES = 65_535
DEFAULT_FRAME_BYTES = 16_384
LARGEST_WINDOW_BYTES = 2**31 - 1
LARGEST_FRAME_BYTES = 2**24 - 1
LAST_STREAM_ID = 2**31 - 1

ERROR_NAMES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
CANCEL = 8

FRAME_HEAD = Struct(">IBI")
"""(length << 8 | type, flags, stream): the 24-bit length and the type read as one number."""
EMPTY_TABLE = b"\x20"
"""Begins a header block: the dynamic table has size 0 from now on (RFC 7541, 6.3)."""
UINT32 = Struct(">I")
SETTING = Struct(">HI")


class Http2Error(Exception):
    """The peer broke the protocol; the connection cannot go on."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return FRAME_HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings_frame(settings: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame of (identifier, value) pairs."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*pair) for pair in settings))


def settings_from_payload(payload: bytes) -> dict[int, int]:
    """A SETTINGS frame's payload → {identifier: value}."""
    if len(payload) % SETTING.size:
        raise Http2Error("a SETTINGS frame of a wrong size")
    settings = dict(SETTING.iter_unpack(payload))
    if settings.get(INITIAL_WINDOW_SIZE, 0) > LARGEST_WINDOW_BYTES:
        raise Http2Error("a window that is too large")
    if not DEFAULT_FRAME_BYTES <= settings.get(MAX_FRAME_SIZE, DEFAULT_FRAME_BYTES) <= LARGEST_FRAME_BYTES:
        raise Http2Error("a largest frame that HTTP/2 does not allow")
    return settings


def window_update_frame(stream: int, increment_bytes: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, UINT32.pack(increment_bytes))


def error_name(code: int) -> str:
    """`REFUSED_STREAM` for 7; the number where RFC 9113 has no name."""
    return ERROR_NAMES[code] if code < len(ERROR_NAMES) else f"error {code}"


def header_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Header fields as literals without indexing and without Huffman coding (RFC 7541, 6.2.2).

    Such a block changes no state on either side: the same bytes may open every stream.
    """
    block = bytearray()
    for name, value in fields:
        block += b"\x00" + _string(name.lower().encode()) + _string(value.encode())
    return bytes(block)


DEFAULT_TABLE_BYTES = 4096
_ENTRY_BYTES = 32
_FIRST_DYNAMIC = 62


def indexing_block(fields: Sequence[tuple[str, str]]) -> bytes | None:
    """The same fields as literals that the peer keeps in its dynamic table (RFC 7541, 6.2.1), for the first stream
    of a connection; None when a table of the default size has no room for all of them."""
    table_bytes = sum(len(name.encode()) + len(value.encode()) + _ENTRY_BYTES for name, value in fields)
    if table_bytes > DEFAULT_TABLE_BYTES or len(fields) > 127 - _FIRST_DYNAMIC:
        return None
    block = bytearray()
    for name, value in fields:
        block += b"\x40" + _string(name.lower().encode()) + _string(value.encode())
    return bytes(block)


def indexed_block(count: int) -> bytes:
    """So many fields that an indexing_block has put into the table, in its order: a byte each (RFC 7541, 6.1)."""
    return bytes(0x80 | _FIRST_DYNAMIC + place for place in reversed(range(count)))


def _string(data: bytes) -> bytes:
    length = len(data)
    if length < 127:
        return bytes([length]) + data
    head, length = bytearray([127]), length - 127
    while length >= 128:
        head.append(length % 128 + 128)
        length //= 128
    head.append(length)
    return bytes(head) + data


def without_padding(flags: int, payload: bytes) -> bytes:
    """A DATA or HEADERS payload without padding and priority fields."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise Http2Error("a padded frame without a pad length")
        start, end = 1, end - payload[0]
    if flags & HAS_PRIORITY:
        start += 5
    if start > end:
        raise Http2Error("more padding than frame")
    return payload[start:end]
