"""Paths made from names in configs → what is there; a name that no file system takes is simply not there."""

from __future__ import annotations

import stat
from pathlib import Path


def exists(path: Path) -> bool:
    """Whether anything is there."""
    return _mode(path) is not None


def is_file(path: Path) -> bool:
    """Whether a file is there."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_dir(path: Path) -> bool:
    """Whether a directory is there."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def size_bytes(path: Path) -> int:
    """Length of the file, 0 when there is none."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


def _mode(path: Path) -> int | None:
    """Too long a name is an OSError to the system, a zero byte a ValueError to Python."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None
