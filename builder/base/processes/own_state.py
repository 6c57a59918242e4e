"""A process that takes one task after another → what of it a task may have changed, put back for the next one."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import resource
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

_LIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


class OwnState:
    """The process as it is now, before its first task.

    left: what a task leaves for the next one of the same turn, under a name of its own.
    """

    def __init__(self) -> None:
        self.left: dict[str, Any] = {}
        self._directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        self._environment = dict(os.environ)
        self._path = list(sys.path)
        self._modules = frozenset(sys.modules)
        self._fixed = _fixed()
        self._nothing = os.open(os.devnull, os.O_WRONLY)
        self._resident_bytes = resident_bytes()

    def forget_peak(self) -> None:
        """From here on the most memory in use is the next task's; where the system cannot, it is that of all before, too."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    @property
    def grown_bytes(self) -> int:
        """Memory that the process has more of than before its first task."""
        return max(0, resident_bytes() - self._resident_bytes)

    def put_back(self) -> bool:
        """Whether the process is as it was; then its log is closed, too.

        Put back are environment, working directory, sys.path and the state of random numbers. Nothing puts back threads,
        child processes, limits, or a module that was found where the task had sys.path lead.
        """
        if _fixed() != self._fixed or _has_children() or self._has_foreign_modules():
            return False
        try:
            os.fchdir(self._directory)
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # the log may lie on the disk that is full
            return False
        if os.environ != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        sys.path[:] = self._path
        random.seed()
        if numpy := sys.modules.get("numpy"):
            numpy.random.seed()
        os.dup2(self._nothing, 1)
        os.dup2(self._nothing, 2)
        gc.collect()
        _trim()
        return True

    def _has_foreign_modules(self) -> bool:
        added = set(sys.path) - set(self._path)
        if not added:
            return False
        new = (sys.modules[name] for name in sys.modules.keys() - self._modules)
        files = (str(getattr(module, "__file__", None) or "") for module in new)
        # A project may hold the environment whose packages it is built with.
        return any(_nearest(file, (*added, *self._path)) in added for file in files)


def _nearest(file: str, places: Iterable[str]) -> str:
    return max((place for place in places if file.startswith(place)), key=len, default="")


def _fixed() -> tuple[object, ...]:
    mask = os.umask(0o077)
    os.umask(mask)
    return (threading.active_count(), mask, *map(resource.getrlimit, _LIMITS))


def _has_children() -> bool:
    with suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
        return True
    return False


def _trim() -> None:
    """What one task has freed is the machine's again, and no memory that the next one seems to take."""
    with suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
