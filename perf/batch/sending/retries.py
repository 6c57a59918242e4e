"""Why a request failed → what is done about it: ask again, wait for the server, look for the row at fault, end the job."""

from __future__ import annotations

from enum import Enum

from tritonsmith.perf.batch.answers import Failure
from tritonsmith.perf.wire.target import UNKNOWN_CALLER

MOST_ATTEMPTS = 6
"""Of one request that the server takes and does not answer as it should."""
MOST_BROKEN = 3
"""So often a connection may break with the same rows before one of them is held to break it."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
_BUSY = (
    *(f"HTTP {status}" for status in (429, 502, 503, 504)),
    *(f"gRPC {status}" for status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")),
)
_LOST = ("connection:", "protocol:", "timeout:")


class Remedy(Enum):
    """What is done about a failed request."""

    AGAIN = "again"  # after a pause
    BROKEN = "broken"  # again; the connection broke, which the rows may be to blame for
    REFUSED = "refused"  # the rows, or the model, are at fault
    ENDS = "ends"  # every other request would fail so, too


def remedy_for(reason: str) -> Remedy:
    """By how the reason begins, as perf.wire has it."""
    if reason.startswith(UNKNOWN_CALLER):
        return Remedy.ENDS
    if reason.startswith(_BUSY):
        return Remedy.AGAIN
    return Remedy.BROKEN if reason.startswith(_LOST) else Remedy.REFUSED


def failure_of_reason(reason: str) -> Failure:
    """As it stands in the file of errors."""
    text = reason.partition("\n")[0]
    if reason.startswith("HTTP ") and reason[5:8].isdigit():
        status = int(reason[5:8])
        code = "request_refused" if status < 500 else "server_error"
        return Failure(code, text.partition(": ")[2] or text, status)
    if reason.startswith(_LOST):
        return Failure("timeout" if reason.startswith("timeout") else "connection_lost", text)
    if reason.startswith("gRPC "):
        return Failure("request_refused", text.partition(": ")[2] or text)
    return Failure("bad_answer", text)


def pause_s(attempts: int) -> float:
    """Before the next attempt."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempts - 1)))
