"""What came in the responses of each request → the columns of a record that tell it: a row a request, a table of chunks."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from tritonsmith.perf.wire.target import Chunks


class ChunkTable:
    """Grows by a request at a time, in the order of the record's rows."""

    __slots__ = ("_at_ns", "_rows", "_sizes", "_text", "_tokens", "is_told")

    def __init__(self) -> None:
        self._rows = array("q")  # four values a row: chunk_begin, chunk_end, input_tokens, output_tokens
        self._at_ns, self._tokens, self._sizes = array("q"), array("i"), array("i")
        self._text = bytearray()
        self.is_told = False

    def add(self, chunks: Chunks | None) -> None:
        """The next request's; None when it got no answer, or the target does not read them."""
        begin = len(self._at_ns)
        if chunks is None:
            self._rows.extend((begin, begin, -1, -1))
            return
        self.is_told = True
        self._at_ns.extend(chunks.at_ns)
        self._tokens.extend(chunks.tokens)
        self._sizes.extend(chunks.sizes)
        self._text += chunks.text
        self._rows.extend((begin, len(self._at_ns), chunks.input_tokens, chunks.output_tokens))

    def columns(self) -> dict[str, Any]:
        """By name, as perf.records.record has them; none where no request told any."""
        if not self.is_told:
            return {}
        rows = np.frombuffer(self._rows, np.int64).reshape(-1, 4)
        names = ("chunk_begin", "chunk_end", "input_tokens", "output_tokens")
        return {name: rows[:, i] for i, name in enumerate(names)} | {
            "chunk_ns": np.frombuffer(self._at_ns, np.int64),
            "chunk_tokens": np.frombuffer(self._tokens, np.int32),
            "chunk_bytes": np.frombuffer(self._sizes, np.int32),
            "text": np.frombuffer(bytes(self._text), np.uint8),
        }
