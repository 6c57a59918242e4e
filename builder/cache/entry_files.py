"""Files of one entry: names that may be in it, flushed, renamed into place, marked as used."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

from tritonsmith.builder.base.errors import BuildError, Where
from tritonsmith.builder.base.files.disk import files_below, flush, move
from tritonsmith.builder.base.files.untrusted import fault_of_relative_path

USED_EVERY_S = 3600.0
"""An entry's last use is noted no more often than this."""


def linked(root: Path, why: str) -> BuildError:
    """The error of a cache whose directories are links."""
    return BuildError(
        f"{why}, and what lies in a cache is also deleted",
        code="cache_link",
        where=Where(root),
        fix="remove the link; a cache that lies elsewhere as a whole is named by TRITONSMITH_CACHE",
    )


def check_name(name: str, what: str) -> None:
    """BuildError for a name that no entry may have: nobody could read it again."""
    fault = fault_of_relative_path(name)
    if fault is not None:
        raise BuildError(
            f"{what}: the name of the file {name!a} {fault}", code="file_name", fix="rename it in the source"
        )


def note_use(record: Path) -> None:
    """The record's mtime is when the entry was last used; a read-only cache keeps no note."""
    if time.time() - record.stat().st_mtime > USED_EVERY_S:
        with suppress(PermissionError, OSError):
            os.utime(record)


def is_text(path: Path, text: str) -> bool:
    """Whether the file says this; a damaged one does not, and is written again."""
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def is_renamed(made: Path, target: Path) -> bool:
    """False when something is there already; OSError when it cannot be done at all."""
    try:
        move(made, target.parent, target.name)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def sync(directory: Path) -> None:
    """Flushes a directory's files to disk, so that the rename that follows never shows empty ones after a power cut."""
    for path in files_below(directory):
        flush(path)
