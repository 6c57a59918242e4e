"""A GGUF file's head → its metadata and whether the file is whole; nothing of its weights is read.

Format: ggml, docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.files.untrusted import open_regular

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Number of a type of value → how struct reads it.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Number of a type of tensor → (values in a block, bytes of a block). Source: llama.cpp, gguf-py, GGML_QUANT_SIZES.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66),
    39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
_DEFAULT_ALIGNMENT = 32
# What the largest models have is far below.
_MAX_VALUES, _MAX_TENSORS, _MAX_DIMS, _MAX_LENGTH = 10_000, 1_000_000, 8, 1 << 24


class GgufProblem(ValueError):
    """The file is no GGUF, or not all of one; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Gguf:
    """A file's head.

    values:  key → number, text or truth value; of a list its length, or itself where it was asked for.
    tensors: number of tensors.
    """

    values: Mapping[str, Any]
    tensors: int


def read_gguf(path: Path, lists: str | None = None) -> Gguf:
    """GgufProblem where the file is none, or ends before its weights do; OSError where it cannot be read.

    lists: how the names begin of those that are wanted themselves (`tokenizer.ggml.`).
    """
    with open_regular(path) as file:
        if file.read(4) != _MAGIC:
            raise GgufProblem("it does not begin with `GGUF`")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _head(_Cursor(data, 4), lists)
            except (struct.error, UnicodeDecodeError, OverflowError):
                raise GgufProblem("its head is cut off or damaged") from None


class _Cursor:
    """Reads forward; struct.error past the end."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self.data, self.position = data, position

    def scalar(self, kind: str) -> Any:
        value = struct.unpack_from(f"<{kind}", self.data, self.position)[0]
        self.position += struct.calcsize(f"<{kind}")
        return value

    def skip(self, size: int) -> int:
        """The position before what is skipped."""
        start = self.position
        if size > len(self.data) - start:
            raise struct.error
        self.position += size
        return start

    def text(self, errors: str = "strict") -> str:
        start = self.skip(self.scalar("Q"))
        return self.data[start : self.position].decode(errors=errors)


def _head(at: _Cursor, lists: str | None) -> Gguf:
    version = at.scalar("I")
    if version not in _VERSIONS:
        raise GgufProblem(f"it is of GGUF version {version}, and 2 and 3 are known")
    tensors, count = at.scalar("Q"), at.scalar("Q")
    if tensors > _MAX_TENSORS or count > _MAX_VALUES:
        raise GgufProblem("its head is cut off or damaged")
    values: dict[str, Any] = {}
    for _ in range(count):
        name = at.text()
        values[name] = _value(at, at.scalar("I"), lists is not None and name.startswith(lists))
    begin, end = 0, max((_end_of_tensor(at) for _ in range(tensors)), default=0)
    alignment = values.get("general.alignment") or _DEFAULT_ALIGNMENT
    if isinstance(alignment, int):
        begin = -(-at.position // alignment) * alignment
    if tensors and begin + end > len(at.data):
        raise GgufProblem(f"it ends after {len(at.data)} bytes, and its weights go on to {begin + end}")
    return Gguf(values, tensors)


def _end_of_tensor(at: _Cursor) -> int:
    """Against the beginning of the weights; of a type that is not known its beginning."""
    at.text()
    dims = at.scalar("I")
    if dims > _MAX_DIMS:
        raise GgufProblem("its head is cut off or damaged")
    count: int = math.prod(int(at.scalar("Q")) for _ in range(dims))
    block, size = _BLOCKS.get(at.scalar("I"), (1, 0))
    return int(at.scalar("Q")) + count // block * size


def _value(at: _Cursor, kind: int, is_wanted: bool) -> Any:
    if kind in _SCALARS:
        return at.scalar(_SCALARS[kind])
    if kind == _STRING:
        return at.text()
    if kind != _ARRAY:
        raise GgufProblem("its head is cut off or damaged")
    of, length = at.scalar("I"), at.scalar("Q")
    if of not in (*_SCALARS, _STRING) or (is_wanted and length > _MAX_LENGTH):
        raise GgufProblem("its head is cut off or damaged")
    if of in _SCALARS:
        form = f"<{_SCALARS[of]}"
        start = at.skip(struct.calcsize(form) * length)
        if is_wanted:
            return [number for (number,) in struct.iter_unpack(form, at.data[start : at.position])]
    elif is_wanted:  # a token may be a part of a character
        return [at.text("replace") for _ in range(length)]
    else:
        for _ in range(length):
            at.skip(at.scalar("Q"))
    return length
