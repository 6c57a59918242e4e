"""Values and files → sha256; a stat cache spares rereading files that have not changed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tritonsmith.builder.base.files.disk import write_atomically
from tritonsmith.builder.base.files.untrusted import Sha256, open_regular, parsed, read_bounded

# A file changed within this time of being read may change again without a new mtime; git calls it "racily clean".
_RACY_NS = 2_000_000_000

_Whole = Annotated[int, Field(strict=True)]
_Known = tuple[_Whole, _Whole, _Whole, _Whole, Sha256]
"""(size, mtime, ctime, inode, digest)"""


def digest_of_value(value: Any) -> str:
    """sha256 of the value's canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_bytes(data: bytes) -> str:
    """sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 of a regular file's content; OSError when it cannot be read or is something else."""
    with open_regular(path) as file:
        return _hash_stream(file)


def _hash_stream(file: Any) -> str:
    # hashlib.file_digest is 3.11+
    result = hashlib.sha256()
    while chunk := file.read(1 << 20):
        result.update(chunk)
    return result.hexdigest()


class StatCache:
    """Digests of files remembered by (size, mtime, ctime, inode), kept in one JSON file that is only a hint.

    A wrong or lost file costs rereading, nothing else; it is written only when something was learnt. Threads may
    share one; processes that save at the same time keep what each has learnt.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = self._load()
        self._learnt: dict[str, _Known] = {}
        self._guard = threading.Lock()

    def digest(self, path: Path | str) -> str:
        """sha256 of a file's content, reread only when its stat changed; OSError when it cannot be read."""
        stat = os.stat(path)  # noqa: PTH116  (asked of thousands of files, for which no Path is made)
        key = os.path.abspath(path)  # noqa: PTH100  (links are not followed: the stamp tells another file)
        known = self._known.get(key)
        if known is not None and known[:4] == _stamp(stat):
            return known[4]
        value = digest_of_file(Path(path))
        if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _RACY_NS:
            self._note(key, stat, value)
        return value

    def learn(self, path: Path, digest: str) -> None:
        """Takes a digest as given, of a file that nobody writes any more."""
        self._note(os.path.abspath(path), path.stat(), digest)  # noqa: PTH100

    def save(self) -> None:
        """Adds what was learnt to the file; a full or read-only disk is no error here."""
        with self._guard:
            learnt = dict(self._learnt)
        if not learnt:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path.with_suffix(".lock")):
                merged = {**self._load(), **learnt}
                write_atomically(self._path, json.dumps(merged, separators=(",", ":")))
            with self._guard:
                self._learnt = {k: v for k, v in self._learnt.items() if learnt.get(k) != v}

    def forget_missing(self) -> None:
        """Drops files that are gone, and writes the rest."""
        with suppress(OSError), _locked(self._path.with_suffix(".lock")):
            kept = {path: entry for path, entry in self._load().items() if Path(path).is_file()}
            write_atomically(self._path, json.dumps(kept, separators=(",", ":")))

    def _note(self, key: str, stat: os.stat_result, value: str) -> None:
        with suppress(UnicodeEncodeError), self._guard:
            key.encode()  # JSON has no name that is not UTF-8
            self._known[key] = self._learnt[key] = (*_stamp(stat), value)

    def _load(self) -> dict[str, _Known]:
        with suppress(OSError, ValueError):
            return parsed(dict[str, _Known], read_bounded(self._path))
        return {}


def _stamp(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits a moment for whoever holds the lock; OSError when it cannot be had."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for _ in range(100):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
        else:
            raise BlockingIOError(errno.EAGAIN, "locked by another process", str(path))
        yield
    finally:
        os.close(handle)


def total_digest(digests: Iterable[tuple[str, str]]) -> str:
    """One digest of (name, digest) pairs, whatever their order."""
    return digest_of_value(sorted(digests))
