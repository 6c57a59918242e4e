"""What became of each row → lines appended to a file, synced in groups; after a kill, what of it is whole."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tritonsmith.builder.base.errors import TrialError, UsageError, Where
from tritonsmith.builder.base.files.disk import delete_written
from tritonsmith.builder.base.processes.failure import DISK_FIXES

FORM = "tritonsmith.batch/2"  # 1 had ids that are numbers as texts
SYNC_EVERY_S = 0.5
DONE, FAILED = b"+", b"-"
_HEAD = re.compile(rb"[0-9a-f]{8} 0 0{16} = \{")
_TORN_HEAD_BYTES = 1 << 16
_LINE_LIMIT_BYTES = 64 << 20
_MEANS = {
    "input": "the input's content",
    "asks": "what its lines ask",
    "model": "the model",
    "reading": "how it is read",
}


class Journal:
    """The journal of one job, held with flock as long as it is open.

    A line is `CRC32 NUMBER KEY STATE JSON`: what becomes of the row with this number, whose line has this digest. The first
    line is the head, which says what the job is. What a kill left of a last line, and what a power cut left behind the last
    sync, is cut off when it is opened again, and a line that is damaged is passed over: those rows are asked anew.
    """

    def __init__(
        self, path: Path, head: Mapping[str, Any], rows: array[int], *, restart: bool = False
    ) -> None:
        """rows: the digest of each line by its number. UsageError when the journal is of another job, or in use."""
        self.path = path
        self.offsets = array("q", bytes(8 * len(rows)))  # where a row's JSON lies; 0: it is not known yet
        self.states = bytearray(len(rows))  # DONE or FAILED
        self.done = self.failed = 0
        self.dropped_bytes = 0
        self.finished: dict[str, Any] | None = None
        self._rows = rows
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing: Future[None] | None = None
        self._file = _opened(path)
        try:
            self._lock()
            first = _line(0, 0, b"=", json.dumps({"form": FORM, **head}, sort_keys=True))
            self._refuse_strange(first)
            if restart:
                os.ftruncate(self._file, 0)
            self.end = os.fstat(self._file).st_size
            self.is_resumed = self._read(head) if self.end else False
            if not self.is_resumed:
                self._write(first)
                self.sync()
        except BaseException:
            self.close()
            raise
        self._synced_s = time.monotonic()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A run that ended in between deleted the file that is locked now.
            is_ours = os.path.samestat(os.fstat(self._file), self.path.lstat())
        except OSError:
            is_ours = False
        if not is_ours:
            raise UsageError(
                "this job is being run by another process",
                code="job_runs",
                where=Where(self.path),
                fix="wait for it, or name another output",
            )

    def _refuse_strange(self, first: bytes) -> None:
        """A file of the user's that lies under this name is no journal, and is left alone, --restart or not."""
        there = os.pread(self._file, _TORN_HEAD_BYTES, 0)
        # The head of this job, torn by a kill, or zeros in its place after a power cut: there is nothing else then.
        is_torn = len(there) < _TORN_HEAD_BYTES and first.startswith(there.rstrip(b"\0"))
        if _HEAD.match(there) is None and not is_torn:
            raise _strange(self.path)

    # Reading what is there.

    def _read(self, head: Mapping[str, Any]) -> bool:
        """What was done before; False where nothing was, not even the head."""
        whole = 0
        with os.fdopen(os.dup(self._file), "rb", buffering=1 << 20) as file:
            file.seek(0)
            for number, key, state, text, end in _lines(file):
                if not whole:
                    self._check_head(_object(text) if state == b"=" else {}, head)
                elif state == b"!":
                    self.finished = _object(text)
                elif (
                    state in (DONE, FAILED) and key and number < len(self._rows) and self._rows[number] == key
                ):
                    self._note(number, state, end - 1 - len(text))
                whole = end
        if whole < self.end:
            self.dropped_bytes = self.end - whole
            os.ftruncate(self._file, whole)
            self.end = whole
        os.lseek(self._file, 0, os.SEEK_END)
        return whole > 0

    def _check_head(self, before: dict[str, Any], head: Mapping[str, Any]) -> None:
        if before.pop("form", None) != FORM:
            raise _other("its first line is damaged, or of another version", self.path)
        for name, means in _MEANS.items():
            if before.get(name) != json.loads(json.dumps(head.get(name))):
                raise _other(f"{means} changed since the job began", self.path)

    def _note(self, number: int, state: bytes, at: int) -> None:
        if not self.offsets[number]:
            self.done += state == DONE
            self.failed += state == FAILED
            self.offsets[number] = at
            self.states[number] = state[0]

    def is_due(self, number: int) -> bool:
        """Whether nothing is known of this row yet."""
        return not self.offsets[number]

    def text_of(self, number: int) -> bytes:
        """A row's JSON."""
        at = self.offsets[number]
        data, size = b"", 4096
        while not data.endswith(b"\n"):
            part = os.pread(self._file, size, at + len(data))
            if not part:
                raise _other("it ends where it did not", self.path)
            end = part.find(b"\n")
            data += part if end < 0 else part[: end + 1]
            size = min(2 * size, 1 << 20)
        return data[:-1]

    def numbers(self, state: bytes) -> Iterator[int]:
        """The rows of this state, in order."""
        return (number for number, known in enumerate(self.states) if known == state[0])

    # Writing.

    def add(self, rows: Iterable[tuple[int, bytes, str]]) -> None:
        """(number, DONE or FAILED, JSON) of each; all of them or, after a kill, the first of them."""
        texts, ats = [], []
        at = self.end
        for number, state, text in rows:
            if self.offsets[number]:
                continue
            line = _line(number, self._rows[number], state, text)
            ats.append((number, state, at + line.index(b" {") + 1))
            at += len(line)
            texts.append(line)
        self._write(b"".join(texts))
        for one in ats:
            self._note(*one)

    def finish(self, value: Mapping[str, Any]) -> None:
        """All is answered, and what the output is was written beside its place."""
        self._write(_line(0, 0, b"!", json.dumps(value)))
        self.sync()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with telling_full(self.path):
            while view:
                view = view[os.write(self._file, view) :]
        self.end += len(data)

    def sync(self) -> None:
        """To disk, so that a power cut does not take it back."""
        with telling_full(self.path):
            os.fdatasync(self._file)
        self._synced_s = time.monotonic()

    def sync_soon(self) -> None:
        """In another thread, when the last sync is some time ago; what it meets is raised by a later call."""
        if time.monotonic() - self._synced_s < SYNC_EVERY_S or not (
            self._syncing is None or self._syncing.done()
        ):
            return
        with telling_full(self.path):
            if self._syncing is not None:
                self._syncing.result()
        self._syncing = self._thread.submit(os.fdatasync, self._file)
        self._synced_s = time.monotonic()

    def close(self) -> None:
        """Leaves the file as it is."""
        self._thread.shutdown(wait=True)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def delete(self) -> None:
        """The job is over."""
        delete_written(self.path)
        self.close()


def _opened(path: Path) -> int:
    """The file, made where there is none. A link, a FIFO, a directory under this name is somebody's, and left alone."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        file = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UsageError(
                f"the job's journal cannot be written there: {error.strerror}",
                code="journal_place",
                where=Where(path),
                fix="run it as the user whose it is, or name another output",
            ) from None
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _strange(path) from None
        with telling_full(path):
            raise
    there = os.fstat(file)
    if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:
        os.close(file)
        raise _strange(path)
    return file


def _strange(path: Path) -> UsageError:
    return UsageError(
        "something that is no journal lies where this job's would be",
        code="journal_place",
        where=Where(path),
        fix="move it away, or name another output",
    )


@contextmanager
def telling_full(path: Path) -> Iterator[None]:
    """A full disk inside the block is said with what is kept, in the journal at this path."""
    try:
        yield
    except OSError as error:
        mend = DISK_FIXES.get(error.errno or 0)
        if mend is None:
            raise
        raise TrialError(
            f"{error.strerror}; what was answered until then is kept in the journal",
            code="disk",
            where=Where(path),
            fix=f"{mend}, then run the same command again: it goes on from there",
        ) from None


def _line(number: int, key: int, state: bytes, text: str) -> bytes:
    body = b"%d %016x %s %s" % (number, key, state, text.encode("utf-8", "surrogatepass"))
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, int, bytes, bytes, int]]:
    """(number, key, state, JSON, where the line ends) of each line that is whole."""
    end = 0
    while line := file.readline(_LINE_LIMIT_BYTES):
        end += len(line)
        found = _LINE.fullmatch(line)
        if found and int(found[1], 16) == zlib.crc32(line[len(found[1]) + 1 : -1]):
            yield int(found[2]), int(found[3], 16), found[4], found[5], end


_LINE = re.compile(rb"([0-9a-f]{8}) (\d{1,18}) ([0-9a-f]{16}) ([-+=!]) (\{.*\})\n", re.DOTALL)


def _object(text: bytes) -> dict[str, Any]:
    """Empty where it is none: a line with the right checksum that is not ours."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _other(why: str, path: Path) -> UsageError:
    return UsageError(
        f"the job cannot go on from its journal: {why}",
        code="journal_differs",
        where=Where(path),
        fix="--restart begins anew and forgets what the journal has; or name another output",
    )
