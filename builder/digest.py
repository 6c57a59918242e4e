"""Values and files → sha256; a stat cache spares rereading files that have not changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

# A file changed within this time of being read may change again without a new mtime; git calls it "racily clean".
_RACY_NS = 2_000_000_000


def digest_of_value(value: Any) -> str:
    """sha256 of the value's canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_bytes(data: bytes) -> str:
    """sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 of a file's content; OSError when it cannot be read."""
    with path.open("rb") as file:
        return _hash_stream(file)


def _hash_stream(file: Any) -> str:
    # hashlib.file_digest is 3.11+
    result = hashlib.sha256()
    while chunk := file.read(1 << 20):
        result.update(chunk)
    return result.hexdigest()


class StatCache:
    """Digests of files remembered by (size, mtime, ctime, inode), kept in one JSON file that is only a hint.

    A wrong or lost file costs rereading, nothing else; it is written only when something was learnt.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = self._load()
        self._changed = False

    def digest(self, path: Path) -> str:
        """sha256 of a file's content, reread only when its stat changed; OSError when it cannot be read."""
        stat = path.stat()
        key = os.fspath(path.resolve())
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = self._known.get(key)
        if known is not None and known[:4] == stamp:
            return str(known[4])
        value = digest_of_file(path)
        if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _RACY_NS:
            self._known[key] = [*stamp, value]
            self._changed = True
        return value

    def save(self) -> None:
        """Writes what was learnt; a full or read-only disk is no error here."""
        if not self._changed:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(self._known, separators=(",", ":")))
            self._changed = False

    def _load(self) -> dict[str, list[Any]]:
        with suppress(OSError, ValueError):
            known = json.loads(self._path.read_text())
            if isinstance(known, dict):
                return {k: v for k, v in known.items() if isinstance(v, list) and len(v) == 5}
        return {}


def write_atomically(path: Path, text: str) -> None:
    """Writes through a temporary name in the same directory and a rename; readers see the old file or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def total_digest(digests: Iterable[tuple[str, str]]) -> str:
    """One digest of (name, digest) pairs, whatever their order."""
    return digest_of_value(sorted(digests))
