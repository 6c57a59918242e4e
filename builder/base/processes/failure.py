"""Whatever the work on one model raised → the TritonsmithError that is this model's outcome; the other models go on."""

from __future__ import annotations

import errno
import os
import traceback

from tritonsmith.builder.base.errors import BuildError, TritonsmithError, UnexpectedError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)
DISK_FIXES = {
    **dict.fromkeys((*_FULL, errno.EACCES, errno.EPERM), "free space or permissions"),
    **dict.fromkeys(_IN_THE_WAY, "move away the file or link that lies where a directory should be"),
    errno.ENAMETOOLONG: "shorten the name, or build in a directory nearer to the root",
    errno.EIO: "look after the disk",
    errno.EFBIG: "raise the limit for the size of a file (`ulimit -f`), or write to a file system that takes larger ones",
}
"""errno → what mends it, of the failures of a disk or of its permissions that are no bug."""
_CHANGED = (errno.ENOENT, errno.ESTALE)


def failure_of(error: Exception, model: str) -> TritonsmithError:
    """The error as it is when it was expected, a disk's as BuildError `disk`, else UnexpectedError with its traceback."""
    if isinstance(error, TritonsmithError):
        return error
    if isinstance(error, OSError) and error.errno in (*DISK_FIXES, *_CHANGED):
        told = f"{error.strerror}: {file_of(error)}" if error.filename else f"{error.strerror}"
        fix = DISK_FIXES.get(error.errno, "let its files be while it is built")
        return BuildError(f"{model}: {told}", code="disk", fix=f"{fix}, then run the same command again")
    return UnexpectedError(
        f"{model}: failed unexpectedly: {one_line(error)}",
        code="unexpected",
        fix="a bug of tritonsmith or of what it calls: report it with the traceback at the end",
        traceback="".join(traceback.format_exception(error)),
    )


def file_of(error: OSError) -> str | None:
    """The file that the disk's error is about: of a copy, which names both, the one that was being written."""
    file = error.filename2 or error.filename
    return os.fsdecode(file) if isinstance(file, str | bytes) else None


def is_full(error: Exception) -> bool:
    """Whether it says that nothing more can be written there, whatever the model."""
    return isinstance(error, OSError) and error.errno in _FULL


def one_line(error: BaseException) -> str:
    """`ValueError: the message's first line`; the type alone when there is no message, or making it fails."""
    try:
        text = str(error)
    except Exception:  # a source's exception runs a source's code
        text = ""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
