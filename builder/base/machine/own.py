"""Nothing → where this package lies: its own directories, and what an interpreter needs to import it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import tritonsmith

PACKAGE = Path(tritonsmith.__file__).resolve().parent
"""In a checkout `builder`, `perf`, `templates` and `demo` are links in it; in a wheel they are directories."""

IMPORT_ROOT = PACKAGE.parent
"""The directory on an import path in which `tritonsmith` is found."""

_CODE = tuple((PACKAGE / name).resolve() for name in ("builder", "perf"))


_NAMES = tuple(f"{place}{os.sep}" for place in (*_CODE, PACKAGE / "builder", PACKAGE / "perf"))


def python_path(environment: Mapping[str, str]) -> str:
    """PYTHONPATH for an interpreter that imports this very package: its place, then what the environment says."""
    return os.pathsep.join(filter(None, [str(IMPORT_ROOT), environment.get("PYTHONPATH")]))


def has_own_name(name: str) -> bool:
    """Whether a path as it is imported, which costs no look at the disk, is that of this package's own code."""
    return name.startswith(_NAMES)


def is_own(path: Path) -> bool:
    """Whether a resolved path is this package's own code."""
    return (path.is_relative_to(PACKAGE) and not path.is_relative_to(PACKAGE / "demo")) or any(
        path.is_relative_to(place) for place in _CODE
    )
