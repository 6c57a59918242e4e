"""Staged model directories → model_repository/, each made visible by one rename; a kill leaves the old or the new.

The staging directory lies beside the repository, never in it: Triton polls every directory in the root,
hidden ones too. A model is exchanged inside the root (renameat2 RENAME_EXCHANGE) rather than the root
itself, because a container that mounts the root would go on looking at the old inode.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tritonsmith.builder.base.errors import BuildError, Where
from tritonsmith.builder.base.files.copies import copy_file
from tritonsmith.builder.base.files.digest import StatCache, total_digest
from tritonsmith.builder.base.files.disk import (
    clear_away,
    exchange,
    inherit,
    move,
    private_directory,
    take_out,
)
from tritonsmith.builder.base.files.untrusted import open_regular, read_bounded

# In the staging directory: what is about to appear where no lock knows of it. No model has this name.
_PLACED = ".placed"
# How templates/config.pbtxt.j2 begins.
_RENDERED = b"# Rendered by tritonsmith"


@contextmanager
def exclusive(repository: Path) -> Iterator[Path]:
    """`locked`, and a staging directory."""
    with locked(repository), staging_beside(repository) as staging:
        yield staging


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Holds the only right to change the repository; waits for another build."""
    repository.parent.mkdir(parents=True, exist_ok=True)
    # The parent directory itself is locked: a lock file would have to be left behind, or removed in a race.
    handle = os.open(repository.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def staging_beside(repository: Path) -> Iterator[Path]:
    """A staging directory, for whoever holds the lock.

    What a killed build left in staging is removed first, but for what it noted with `note_placed`.
    """
    parent, prefix = repository.parent, f".{repository.name}.staging-"
    with os.scandir(parent) as entries:
        leftovers = [parent / e.name for e in entries if e.name.startswith(prefix)]
    staging = private_directory(parent, prefix)
    try:
        for left in filter(inherit, leftovers):
            _write_placed(staging, "".join(f"{line}\n" for line in placed(left)))
            clear_away(left)
        yield staging
    finally:
        clear_away(staging)


def note_placed(staging: Path, name: str, files: Mapping[str, str]) -> None:
    """Tells the next build, should this one be killed, that a directory of this name and content is no stranger's."""
    _write_placed(staging, f"{_placed_line(name, files)}\n")


def was_placed(staging: Path, name: str, files: Mapping[str, str]) -> bool:
    """Whether this build, or one killed before it, brought in what lies there now, without a lock that says so.

    Anyone can lay a file beside a repository, so that a name alone would prove nothing.
    """
    return _placed_line(name, files) in placed(staging)


def _placed_line(name: str, files: Mapping[str, str]) -> str:
    return f"{total_digest(files.items())} {name}"


def _write_placed(staging: Path, text: str) -> None:
    with (staging / _PLACED).open("a", encoding="utf-8") as file:
        file.write(text)


def placed(staging: Path) -> frozenset[str]:
    """What `note_placed` noted there."""
    with suppress(OSError, ValueError):
        return frozenset(read_bounded(staging / _PLACED).decode().split("\n")) - {""}
    return frozenset()


def stage_model(
    staging: Path,
    name: str,
    config_text: str,
    files: Mapping[str, Path],
    directories: Iterable[str] = (),
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Lays one model out under `staging`: config.pbtxt, the files and the empty directories.

    files: path in the model's directory → file to copy; texts: the same → what is written.
    The files are copied, not linked: an edit in the repository must not reach the cache.
    """
    directory = staging / name
    directory.mkdir(parents=True)
    for relative in directories:
        (directory / relative).mkdir(parents=True, exist_ok=True)
    for relative, file in files.items():
        copy_file(file, directory / relative)
    for relative, text in {"config.pbtxt": config_text, **(texts or {})}.items():
        target = directory / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    # mkdtemp makes private directories; a server under another user must be able to read these.
    directory.chmod(0o755)
    return directory


def publish_model(staged: Path, repository: Path) -> None:
    """Makes the staged directory visible as `repository/NAME`, in place of the one that was there."""
    repository.mkdir(parents=True, exist_ok=True)
    name = staged.name
    if not os.path.lexists(repository / name):
        move(staged, repository, name)
    elif exchange(staged, repository, name):
        # The old directory lies where the new one was staged; an ensemble staged next looks for its steps there.
        clear_away(staged)
    else:
        # No atomic exchange on this file system: the old directory steps aside first.
        take_out(repository, name, staged.parent)
        move(staged, repository, name)


def can_exchange(staging: Path) -> bool:
    """Whether the file system swaps two directories in one step; NFS does not, and then `publish_model` leaves a gap."""
    left, right = private_directory(staging, ".left-"), private_directory(staging, ".right-")
    try:
        return exchange(left, staging, right.name)
    finally:
        clear_away(left)
        clear_away(right)


def is_what_was_built(directory: Path, files: Mapping[str, str], stats: StatCache) -> bool:
    """Whether a model's directory has this content and no other; files: as `model_files` had them after the build.

    A lock file comes with a pull request: the name of a directory in it is no leave to delete the directory.
    """
    if directory.is_symlink() or not directory.is_dir() or "config.pbtxt" not in files:
        return False
    return model_files(directory, stats) == dict(files)


def has_trace_of_build(directory: Path, there: Mapping[str, str], locked: Mapping[str, str]) -> bool:
    """Whether a directory that the lock tells of may be a build's, however it was damaged: it has no file in it, one
    file as the lock says, or a config.pbtxt that was rendered; there: what `model_files` gives of it.

    Without any of these it is the user's, whatever a lock file says that came with a pull request.
    """
    if not any(there.values()) or any(d and there.get(name) == d for name, d in locked.items()):
        return True
    try:
        with open_regular(directory / "config.pbtxt") as file:
            return file.read(len(_RENDERED)) == _RENDERED
    except OSError:
        return False


def remove_model(repository: Path, name: str, staging: Path) -> None:
    """Takes a model out of the repository in one rename."""
    if os.path.lexists(repository / name):
        take_out(repository, name, staging)


def model_files(directory: Path, stats: StatCache) -> dict[str, str]:
    """Digests of every file in a model's directory; empty when there is none.

    A directory with nothing in it is there as `NAME/`. What Python compiles while a model serves is left out.
    What cannot be read, or is no regular file, has a digest that no file has.
    """
    found: dict[str, str] = {}
    top = os.fspath(directory)
    for root, below, names in os.walk(top):
        inner = f"{root[len(top) + 1 :]}/" if root != top else ""
        below[:] = [name for name in below if name != "__pycache__"]
        if inner and not below and not names:
            found[inner] = ""
        for name in names:
            try:
                found[f"{inner}{name}"] = stats.digest(f"{root}/{name}")
            except OSError:  # noqa: PERF203 - one file's alone
                found[f"{inner}{name}"] = "unreadable"
    return dict(sorted(found.items()))


def refuse_foreign_model(repository: Path, name: str, ours: bool) -> None:
    """BuildError when a directory of that name is there which no build of this spec made."""
    if not ours and os.path.lexists(repository / name):
        raise BuildError(
            f"{repository / name} is there, and no build of this spec made it",
            code="foreign_model",
            where=Where(repository / name),
            fix="move it away, rename the model, or pass --overwrite",
        )
