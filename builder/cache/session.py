"""A cache directory → this process's claim on it, held by flock: it ends with the process, however that ends.

running/NAME.lock is locked as long as the process lives, whatever container it lives in (process ids would lie
there). tmp/NAME.* are its workspaces; those of processes that are gone are removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tritonsmith.builder.base.files.disk import adopt, clear_away, delete, private_directory

# As mkstemp and mkdtemp name them. A user may have made the cache where a tmp/ of their own was.
_WORKSPACE = re.compile(r"[0-9]+-[a-z0-9_]{8}\.[a-z0-9_]{8}")
_CLAIM = re.compile(r"[0-9]+-[a-z0-9_]{8}\.lock")


class Session:
    """One process's claim. Opening one removes what killed processes left in the cache's tmp/."""

    def __init__(self, root: Path) -> None:
        """OSError when the directory cannot be written."""
        self._tmp = root / "tmp"
        running = root / "running"
        running.mkdir(parents=True, exist_ok=True)
        self._tmp.mkdir(parents=True, exist_ok=True)
        adopt(running)
        adopt(self._tmp)
        self.name, handle, path = _claim(running)
        self._end = weakref.finalize(self, _release, handle, path)
        remove_leftovers(root)

    def workspace(self) -> Path:
        """A new private directory on the cache's file system."""
        return private_directory(self._tmp, f"{self.name}.")

    def close(self) -> None:
        """Gives the claim up."""
        self._end()


def running_sessions(root: Path) -> dict[str, float]:
    """Name → when it began (seconds since the epoch), of the processes that hold a claim now."""
    found: dict[str, float] = {}
    for path in (root / "running").glob("*.lock"):
        with suppress(OSError):
            began = path.stat().st_mtime
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found[path.stem] = began
            finally:
                os.close(handle)
    return found


def leftovers(root: Path) -> list[Path]:
    """Workspaces of processes that are gone."""
    found = sorted(path for path in (root / "tmp").glob("*") if _WORKSPACE.fullmatch(path.name))
    # Asked after the listing: a workspace is never older than its process's claim.
    alive = running_sessions(root)
    return [path for path in found if path.name.split(".", 1)[0] not in alive]


def remove_leftovers(root: Path) -> None:
    """Removes the workspaces of processes that are gone, then their claims."""
    for path in leftovers(root):
        clear_away(path)
    kept = {path.name.split(".", 1)[0] for path in (root / "tmp").glob("*")}
    for path in (root / "running").glob("*.lock"):
        if path.stem not in kept and _CLAIM.fullmatch(path.name):
            with suppress(OSError):
                _remove_if_free(path)


@contextmanager
def locked_file(path: Path, *, create: bool = False) -> Iterator[None]:
    """Holds a lock that ends with the process at the latest; BlockingIOError when another holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _claim(running: Path) -> tuple[str, int, Path]:
    while True:
        handle, name = tempfile.mkstemp(dir=running, prefix=f"{os.getpid()}-", suffix=".lock")
        path = Path(name)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have found it free, and removed it, before it was locked.
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return path.stem, handle, path
        _release(handle, path)


def _release(handle: int, path: Path) -> None:
    with suppress(OSError):
        delete(path)
    with suppress(OSError):
        os.close(handle)


def _remove_if_free(path: Path) -> None:
    with locked_file(path):
        delete(path)
