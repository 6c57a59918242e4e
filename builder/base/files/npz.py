"""An .npz of anybody's → its members by name, without pickle and without unpacking a bomb."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.files.untrusted import open_regular

# Real arrays are packed a few times at most; zeros a thousand times, but then they are small.
_MOST_RATIO = 200
_ALWAYS_BYTES = 256 << 20

_MALFORMED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
)
"""What zipfile and numpy raise of files that are none, beside ValueError."""


def read_npz(path: Path, limit_bytes: int | None = None) -> dict[str, Any]:
    """Name → array, or the bytes of a member that is no array.

    OSError when it cannot be read or is no regular file; ValueError when it is no .npz, has pickled objects in it or
    unpacks to more than limit_bytes, or to more than 256 MiB and 200 times its own size.
    """
    import numpy as np

    with open_regular(path) as file:
        try:
            loaded = np.load(file, allow_pickle=False)
            if not hasattr(loaded, "files"):
                raise ValueError("it is a single .npy array; inputs need names, so save it with numpy.savez")
            with loaded:
                _refuse_bomb(loaded.zip, path.stat().st_size, limit_bytes)
                return {name: loaded[name] for name in loaded.files}
        except _MALFORMED as error:
            raise ValueError(str(error) or type(error).__name__) from error


def _refuse_bomb(archive: zipfile.ZipFile, packed_bytes: int, limit_bytes: int | None) -> None:
    # zipfile gives no more of a member than is stated here.
    size_bytes = sum(member.file_size for member in archive.infolist())
    if limit_bytes is not None and size_bytes > limit_bytes:
        raise ValueError(f"its arrays have more than {limit_bytes >> 20} MiB")
    if size_bytes > max(_ALWAYS_BYTES, _MOST_RATIO * packed_bytes):
        raise ValueError(f"it unpacks to {size_bytes} bytes, {size_bytes // packed_bytes} times its own size")
