"""Staged model directories → model_repository/, each made visible by one rename; a kill leaves the old or the new.

The staging directory lies beside the repository, never in it: Triton polls every directory in the root,
hidden ones too. A model is exchanged inside the root (renameat2 RENAME_EXCHANGE) rather than the root
itself, because a container that mounts the root would go on looking at the old inode.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from builder.digest import StatCache
from builder.errors import BuildError, Where

# In the staging directory: names of models that are about to appear where no lock knows of one. No model has this name.
_PLACED = ".placed"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextmanager
def exclusive(repository: Path) -> Iterator[Path]:
    """Holds the only right to change the repository and gives a staging directory beside it; waits for another build.

    What a killed build left in staging is removed first, but for the names that it noted with `note_placed`.
    """
    parent = repository.parent
    parent.mkdir(parents=True, exist_ok=True)
    # The parent directory itself is locked: a lock file would have to be left behind, or removed in a race.
    handle = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        leftovers = list(parent.glob(f".{repository.name}.staging-*"))
        staging = Path(tempfile.mkdtemp(dir=parent, prefix=f".{repository.name}.staging-"))
        try:
            for left in leftovers:
                for name in placed(left):
                    note_placed(staging, name)
                shutil.rmtree(left, ignore_errors=True)
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    finally:
        os.close(handle)


def note_placed(staging: Path, name: str) -> None:
    """Tells the next build, should this one be killed, that the model's directory is no stranger's."""
    with (staging / _PLACED).open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")


def placed(staging: Path) -> frozenset[str]:
    """The models that this build, or one killed before it, brought in without a lock that says so."""
    try:
        return frozenset((staging / _PLACED).read_text(encoding="utf-8").split("\n")) - {""}
    except FileNotFoundError:
        return frozenset()


def stage_model(
    staging: Path,
    name: str,
    config_text: str,
    files: Mapping[str, Path],
    directories: Iterable[str] = (),
) -> Path:
    """Lays one model out under `staging`: config.pbtxt, the files and the empty directories.

    files: path in the model's directory → file to copy.
    The files are copied, not linked: an edit in the repository must not reach the cache.
    """
    directory = staging / name
    directory.mkdir(parents=True)
    for relative in directories:
        (directory / relative).mkdir(parents=True, exist_ok=True)
    for relative, file in files.items():
        target = directory / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    (directory / "config.pbtxt").write_text(config_text, encoding="utf-8")
    # mkdtemp makes private directories; a server under another user must be able to read these.
    directory.chmod(0o755)
    return directory


def publish_model(staged: Path, repository: Path) -> None:
    """Makes the staged directory visible as `repository/NAME`, in place of the one that was there."""
    repository.mkdir(parents=True, exist_ok=True)
    target = repository / staged.name
    if not target.exists():
        staged.rename(target)
    elif _exchange(staged, target):
        # The old directory lies where the new one was staged; an ensemble staged next looks for its steps there.
        shutil.rmtree(staged, ignore_errors=True)
    else:
        # No atomic exchange on this file system: the old directory steps aside first.
        aside = staged.with_name(f"{staged.name}.old")
        target.rename(aside)
        staged.rename(target)


def can_exchange(staging: Path) -> bool:
    """Whether the file system swaps two directories in one step; NFS does not, and then `publish_model` leaves a gap."""
    left, right = staging / ".left", staging / ".right"
    left.mkdir()
    right.mkdir()
    try:
        return _exchange(left, right)
    finally:
        left.rmdir()
        right.rmdir()


def remove_model(repository: Path, name: str, staging: Path) -> None:
    """Takes a model out of the repository in one rename."""
    target = repository / name
    if target.is_dir():
        target.rename(staging / f"{name}.removed")


def model_files(directory: Path, stats: StatCache) -> dict[str, str]:
    """Digests of every file in a model's directory; empty when there is none.

    A directory with nothing in it is there as `NAME/`. What Python compiles while a model serves is left out.
    """
    found: dict[str, str] = {}
    for root, below, names in os.walk(directory):
        below[:] = [name for name in below if name != "__pycache__"]
        if not below and not names and Path(root) != directory:
            found[f"{Path(root).relative_to(directory).as_posix()}/"] = ""
        for name in names:
            path = Path(root) / name
            try:
                digest = stats.digest(path)
            except (
                OSError
            ):  # a FIFO, a link to nowhere, a file of another user: nothing that a build laid there
                digest = "unreadable"
            found[path.relative_to(directory).as_posix()] = digest
    return dict(sorted(found.items()))


def refuse_foreign_model(repository: Path, name: str, ours: bool) -> None:
    """BuildError when a directory of that name is there which no build of this spec made."""
    if not ours and (repository / name).exists():
        raise BuildError(
            f"{repository / name} is there, but this spec's lock file does not know it",
            code="foreign_model",
            where=Where(repository / name),
            fix="move it away, rename the model, or pass --overwrite",
        )


def _exchange(left: Path, right: Path) -> bool:
    """Swaps two directories atomically; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(right))
