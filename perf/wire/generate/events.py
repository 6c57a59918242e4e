"""The bytes of an event stream, cut anywhere → how many events came and when, and the first error among them.

Format: server-sent events (HTML standard, 9.2.6), each with one JSON object of Triton's generate extension
(docs/protocol/extension_generate.md): an error may follow HTTP 200, since the status is sent with the first response.
"""

from __future__ import annotations

import json

from tritonsmith.perf.wire.target import KEPT_LIMIT_BYTES, Responses

_TEXT_LIMIT = 300


class EventParser:
    """Counts and times the responses of one request as their bytes come. kept: gets each one's data where it is given."""

    __slots__ = (
        "_after_cr",
        "_data",
        "_error",
        "_last_ns",
        "_longest_gap_ns",
        "_rest",
        "_total",
        "first_ns",
        "kept",
    )

    def __init__(self, kept: list[bytes] | None = None) -> None:
        self.first_ns = 0  # when the first response was whole
        self.kept = kept
        self._last_ns = 0
        self._longest_gap_ns = 0
        self._total = 0
        self._rest = bytearray()  # a line without its end
        self._after_cr = False
        self._data: list[bytes] = []  # of the event that is not over
        self._error: str | None = None

    def feed(self, data: bytes, now: int) -> None:
        """Take the next bytes, which came at `now`. ValueError for a line that does not end."""
        # The hot path: one event of one line, whole.
        if (
            data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and data.find(b"\n") == len(data) - 2
            and b"\r" not in data
            and not (self._rest or self._data)
        ):
            self._after_cr = False
            self._event(data[6:-2], now)
            return
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
        if not data:
            return
        self._after_cr = data[-1:] == b"\r"
        if b"\n" not in data and b"\r" not in data:
            self._rest += data
            if len(self._rest) > KEPT_LIMIT_BYTES:
                raise ValueError("an event that does not end")
            return
        lines = (bytes(self._rest) + data).splitlines(keepends=True)
        self._rest.clear()
        if lines[-1][-1:] not in (b"\n", b"\r"):
            self._rest += lines.pop()
        for line in lines:
            self._line(line.rstrip(b"\r\n"), now)

    def _line(self, line: bytes, now: int) -> None:
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            return  # a comment, an id, a name: nothing that Triton sends
        if not self._data:
            return
        data, self._data = b"\n".join(self._data), []
        self._event(data, now)

    def _event(self, data: bytes, now: int) -> None:
        self._count(now)
        if self.kept is not None:
            self.kept.append(data)
        if b'"error"' in data and self._error is None:
            self._error = _error_of(data)

    def _count(self, now: int) -> None:
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
            return f"generate_stream: {self._error}"
        if self._rest or self._data:
            return "protocol: a response that is cut off" if self._total else "protocol: not an event stream"
        return None


def _error_of(data: bytes) -> str | None:
    """The text of an error object. An answer of a model with an output of that name also names the model."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or "error" not in said or "model_name" in said:
        return None
    return " ".join(str(said["error"]).split())[:_TEXT_LIMIT]
