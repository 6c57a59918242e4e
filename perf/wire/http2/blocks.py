"""A gRPC answer's header block → its fields, looked up whole among those seen before, and what a failed one says."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from tritonsmith.perf.wire.http2.frames import Http2Error

_BLOCKS_LIMIT = 256
_TEXT_LIMIT = 300

# gRPC's status codes (statuscodes.md of the gRPC project), by number.
_STATUS_NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip

BLOCKS: dict[bytes, dict[str, str]] = {}
"""Header block → its fields; blocks cannot depend on what came before, since the header table has size 0."""


GOOD_HEADS: set[bytes] = set()
"""Blocks that begin an answer of HTTP 200, and below those that end one with status OK: a memo of fields_of_block."""
GOOD_TRAILERS: set[bytes] = set()


def fields_of_block(block: bytes) -> dict[str, str]:
    """A response's header block → its fields; Http2Error when it is malformed."""
    fields = BLOCKS.get(block)
    if fields is None:
        import hpack

        decoder = hpack.Decoder()
        decoder.header_table_size = 0
        try:
            fields = {str(name): str(value) for name, value in decoder.decode(block)}
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            what = str(error).partition(":")[
                0
            ]  # what follows may be an address in memory, another one each time
            raise Http2Error(f"a header block that cannot be read: {what}") from error
        if len(BLOCKS) >= _BLOCKS_LIMIT:
            for memo in (BLOCKS, GOOD_HEADS, GOOD_TRAILERS):
                memo.clear()
        BLOCKS[block] = fields
    return fields


def reason_of(fields: Mapping[str, str]) -> str:
    """`gRPC UNAVAILABLE: Request timeout expired` from a trailer."""
    status = fields.get("grpc-status")
    if status is None:
        return f"HTTP {fields.get(':status', 'without a status')} instead of gRPC"
    known = status.isdigit() and int(status) < len(_STATUS_NAMES)
    name = _STATUS_NAMES[int(status)] if known else f"status {status}"
    text = " ".join(unquote(fields.get("grpc-message", "")).split())[:_TEXT_LIMIT]
    return f"gRPC {name}: {text}" if text else f"gRPC {name}"
