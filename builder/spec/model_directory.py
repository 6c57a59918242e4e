"""A model's directory in a repository → the files and version directories that are taken over as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tritonsmith.builder.base.files.digest import digest_of_value
from tritonsmith.builder.base.files.untrusted import fault_of_relative_path

CONFIG = "config.pbtxt"
MAX_ENTRIES = 200_000
_MAX_DEPTH = 100


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


class Unreadable(OSError):
    """A model's directory holds what cannot be taken over; the text says what and why."""


def read_model_directory(path: Path, within: Sequence[Path] | None = None) -> ModelDirectory:
    """Lists a model's directory; OSError when it cannot be read, or has more than MAX_ENTRIES entries or 100 levels.

    Links are followed. Left out: config.pbtxt, which the spec is written to anew, hidden names, and what
    Python compiles beside a model.py.
    within: the files are to be copied: Unreadable for a name that no repository can have, for what is neither a file
    nor a directory, and for a link that leads out of all these directories, to a key in somebody's home for example.
    """
    files: dict[str, Path] = {}
    empty: list[str] = []
    roots = None if within is None else [root.resolve() for root in within]
    waiting: list[tuple[Path, str, frozenset[Path]]] = [(path, "", frozenset())]
    entries_seen = 0
    while waiting:
        directory, prefix, above = waiting.pop()
        real = directory.resolve()
        if real in above:
            continue  # a link to a directory around it
        with os.scandir(directory) as entries:
            kept = [e for e in entries if is_content(e.name) and not (prefix == "" and e.name == CONFIG)]
        entries_seen += len(kept)
        if prefix.count("/") > _MAX_DEPTH:
            raise Unreadable(f"{path} has directories in one another on more than {_MAX_DEPTH} levels")
        if entries_seen > MAX_ENTRIES:
            raise Unreadable(f"{path} has more than {MAX_ENTRIES} files and directories")
        if not kept and prefix:
            empty.append(prefix.removesuffix("/"))
        for entry in kept:
            name = f"{prefix}{entry.name}"
            if roots is not None and (fault := _fault_of_entry(entry, name, roots)):
                raise Unreadable(f"{str(path / name)!r} {fault}")
            if _is(entry.is_dir):
                waiting.append((directory / entry.name, f"{name}/", above | {real}))
            elif _is(entry.is_file):
                files[name] = directory / entry.name
    return ModelDirectory(dict(sorted(files.items())), tuple(sorted(empty)))


def source_roots(directory: Path, root: Path) -> tuple[Path, ...]:
    """Where links in a `directory:` source may lead: below the spec, or in the repository that the directory is of."""
    return root, directory.absolute().parent, directory.resolve().parent


def _fault_of_entry(entry: os.DirEntry[str], name: str, roots: Sequence[Path]) -> str | None:
    """Why it cannot be copied into a repository that others will read; None when it can."""
    fault = fault_of_relative_path(name)
    if fault is None and entry.is_symlink():
        target = Path(os.path.realpath(entry.path))
        if not any(target.is_relative_to(root) for root in roots):
            return f"is a link to {str(target)!r}, outside of {' and '.join(map(str, roots))}"
    if fault is None and not _is(entry.is_dir) and not _is(entry.is_file):
        return "is neither a file nor a directory"
    return fault


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; not when it is a link that leads nowhere or in a circle."""
    try:
        return kind()
    except OSError:
        return False


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
