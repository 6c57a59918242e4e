"""A model's directory in a repository → the files and version directories that are taken over as they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.digest import digest_of_value
from builder.untrusted import fault_of_relative_path

CONFIG = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """What lies in a model's directory beside config.pbtxt.

    files:       path inside the directory → file.
    directories: directories without a file in them, such as an ensemble's version.
    """

    files: Mapping[str, Path]
    directories: tuple[str, ...]

    @property
    def listing_digest(self) -> str:
        """Identity of the names, not of the contents."""
        return digest_of_value([sorted(self.files), list(self.directories)])


def read_model_directory(path: Path) -> ModelDirectory:
    """Lists a model's directory; OSError when it cannot be read.

    Links are followed. Left out: config.pbtxt, which the spec is written to anew, hidden names, and what
    Python compiles beside a model.py.
    """
    files: dict[str, Path] = {}
    empty: list[str] = []
    _walk(path, "", files, empty, frozenset())
    return ModelDirectory(dict(sorted(files.items())), tuple(sorted(empty)))


def _walk(path: Path, prefix: str, files: dict[str, Path], empty: list[str], above: frozenset[Path]) -> None:
    real = path.resolve()
    if real in above:
        return  # a link to a directory around it
    with os.scandir(path) as entries:
        kept = [e.name for e in entries if is_content(e.name) and not (prefix == "" and e.name == CONFIG)]
    if not kept and prefix:
        empty.append(prefix.removesuffix("/"))
    for name in kept:
        child = path / name
        if child.is_dir():
            _walk(child, f"{prefix}{name}/", files, empty, above | {real})
        elif child.is_file():
            files[f"{prefix}{name}"] = child


def is_content(name: str) -> bool:
    """Whether a file or directory of that name belongs to a model."""
    return not name.startswith(".") and name != "__pycache__"


def fault_of_place(name: str) -> str | None:
    """Why a file cannot be laid at `name` inside a model's directory; None when it can."""
    return "is written from the spec" if name == CONFIG else fault_of_relative_path(name)


def fault_of_places(names: Iterable[str]) -> tuple[str, str] | None:
    """(a name, why it cannot be): one that is a file and, as another one's directory, a directory too."""
    known = set(names)
    for name in known:
        above = next((str(p) for p in PurePosixPath(name).parents if str(p) in known), None)
        if above is not None:
            return name, f"{above!r} is a file already"
    return None
