"""The only module that renames, replaces and deletes (a test sees to it): only what is ours, only where a name leads.

Ours is what lies in a directory that this process made (`private_directory`) or that tritonsmith keeps for itself
(`adopt`: a cache's workspaces, what a killed build left beside a repository). A name that may be a stranger's is
joined to its directory by `untrusted.inside`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tritonsmith.builder.base.files.untrusted import inside

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_made: set[Path] = set()
_adopted: set[Path] = set()


class NotOursError(RuntimeError):
    """A bug: something was to be deleted that no run of ours made. Nothing was done."""


def private_directory(parent: Path | None = None, prefix: str = "tritonsmith-") -> Path:
    """A new directory for this user alone; it and what comes to lie in it may be deleted."""
    directory = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    _made.add(_place(directory))
    return directory


def adopt(directory: Path) -> Path:
    """Says that all in this directory, which tritonsmith keeps for itself, may be deleted; not the directory itself."""
    place = directory.resolve()
    if place in (Path(place.anchor), Path.home().resolve(), Path.cwd()):
        raise NotOursError(f"{place} is never tritonsmith's own")
    _adopted.add(place)
    return directory


def inherit(directory: Path) -> bool:
    """Takes over what a run that was killed made with `private_directory`; False for a link, a file, another user's.

    The caller knows it by its prefix, which nothing else of the user's has.
    """
    with suppress(OSError):
        status = directory.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
            _made.add(_place(directory))
            return True
    return False


def files_below(directory: Path, pattern: str = "*") -> list[Path]:
    """Every file there and deeper, sorted; links to directories are not followed."""
    return sorted(path for path in directory.rglob(pattern) if path.is_file())


def bytes_below(directory: Path) -> int:
    """What those files hold."""
    return sum(path.stat().st_size for path in files_below(directory))


def flush(path: Path) -> None:
    """A file or directory to disk, so that a power cut after a rename shows it whole."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Deletes a file, a link or a whole directory of ours; nothing when it is gone. OSError when it cannot."""
    _refuse_what_is_not_ours(path)
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    _made.discard(_place(path))


def clear_away(path: Path) -> None:
    """`delete`, as far as it goes: what cannot be deleted is left for the next run."""
    with suppress(OSError):
        delete(path)


def delete_written(path: Path) -> None:
    """Deletes a file that a command of ours writes under this very name into a directory of the user's; nothing else."""
    with suppress(FileNotFoundError):
        path.unlink()


def delete_empty(directory: Path) -> None:
    """Deletes a directory that nothing lies in; OSError when something does."""
    directory.rmdir()


def move(source: Path, directory: Path, name: str) -> Path:
    """Renames something of ours to `directory / name`; ValueError for a name that leads elsewhere."""
    _refuse_what_is_not_ours(source)
    target = inside(directory, name)
    source.rename(target)
    _made.discard(_place(source))
    return target


def take_out(directory: Path, name: str, into: Path) -> Path:
    """Renames `directory / name` into a directory of ours, where it may be deleted; its new place."""
    source, target = inside(directory, name), into / f"{Path(name).name}.removed-{threading.get_ident()}"
    _refuse_what_is_not_ours(target)
    source.rename(target)
    return target


def exchange(ours: Path, directory: Path, name: str) -> bool:
    """Swaps a directory of ours with `directory / name` in one step; False where the file system cannot."""
    _refuse_what_is_not_ours(ours)
    target = inside(directory, name)
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(ours), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(target))


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write a file to; it is gone at the end."""
    # Nobody can lay a link under a name that cannot be guessed, to have it written through.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; at the end it replaces `path` in one step, after an error nothing does."""
    with beside(path) as temporary:
        yield temporary
        temporary.replace(path)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Readers see the old file or the new one, after a power cut too."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _refuse_what_is_not_ours(path: Path) -> None:
    place = _place(path)
    if place in _made or any(above in _made or above in _adopted for above in place.parents):
        return
    raise NotOursError(f"{place} was not made by tritonsmith, so it is left alone")


def _place(path: Path) -> Path:
    """Where the name itself lies: links on the way to it are followed, the last one is not."""
    return path.parent.resolve() / path.name
