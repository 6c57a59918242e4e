"""A directory as it is → a Snapshot that tells what became different below it, and puts it back."""

# Thousands of names are looked at for each case, and pathlib takes ten times as long.
# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114, PTH115, PTH211

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

Stamp = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Thing:
    """What a name is: the type and mode, and a file's bytes or a link's target."""

    mode: int
    content: bytes

    def __str__(self) -> str:
        return f"{stat.filemode(self.mode)} {len(self.content)} bytes"


@dataclass(slots=True)
class Snapshot:
    """Everything below a directory of the harness's own; files are small and stay in memory.

    without: names below it that are left out, with all below them.
    """

    root: str
    things: Mapping[str, Thing] = field(default_factory=dict)
    without: Collection[str] = ()
    _stamps: dict[str, Stamp] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, without: Collection[str] = ()) -> Snapshot:
        """The directory as it is now."""
        names = list(_names(str(root), without))
        stamps = {name: _stamp(f"{root}/{name}") for name in names}
        return cls(str(root), {name: _thing(f"{root}/{name}") for name in names}, without, stamps)

    def differences(self, ignored: Collection[str] = ()) -> list[str]:
        """Names that are new, gone or other than they were, by type, mode and every byte; but for what is ignored.

        A file whose inode, size and ctime are as they were is not read. ignored: names below the root, with all
        below them.
        """
        left_out = [*self.without, *ignored]
        now = set(_names(self.root, left_out))
        before = {name for name in self.things if not _is_below(name, left_out)}
        told = [f"{name} is new" for name in now - before] + [f"{name} is gone" for name in before - now]
        for name in now & before:
            path = f"{self.root}/{name}"
            if _stamp(path) != self._stamps[name] and (thing := _thing(path)) != self.things[name]:
                told.append(f"{name} is {thing}, was {self.things[name]}")
        return sorted(told)

    def restore(self) -> None:
        """Puts everything back that differs by its stamps, whatever took its place."""
        for name in sorted(_opened(self.root, self.without), reverse=True):
            was = self.things.get(name)
            path = f"{self.root}/{name}"
            if was is None or stat.S_IFMT(was.mode) != stat.S_IFMT(os.lstat(path).st_mode):
                _remove(path)
        for name, thing in self.things.items():
            path = f"{self.root}/{name}"
            if os.path.lexists(path) and _stamp(path) == self._stamps[name]:
                continue
            if stat.S_ISDIR(thing.mode):
                with suppress(FileExistsError):
                    os.mkdir(path)
                os.chmod(path, stat.S_IMODE(thing.mode))
            else:
                _remove(path)
                _make(path, thing)
            self._stamps[name] = _stamp(path)


def _make(path: str, thing: Thing) -> None:
    if stat.S_ISLNK(thing.mode):
        os.symlink(os.fsdecode(thing.content), path)
        return
    Path(path).write_bytes(thing.content)
    os.chmod(path, stat.S_IMODE(thing.mode))


def _names(root: str, without: Collection[str] = ()) -> Iterator[str]:
    """Every name below, parents before what lies in them; links are not followed, and what cannot be listed is empty."""
    waiting = [""]
    while waiting:
        above = waiting.pop()
        with suppress(PermissionError), os.scandir(f"{root}/{above}") as entries:
            for entry in entries:
                name = f"{above}/{entry.name}" if above else entry.name
                if name in without:
                    continue
                yield name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)


def _opened(root: str, without: Collection[str]) -> Iterator[str]:
    """As _names, after every directory was made one that its owner may change."""
    for name in _names(root, without):
        mode = os.lstat(f"{root}/{name}").st_mode
        if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"{root}/{name}", stat.S_IRWXU)
        yield name


def _thing(path: str) -> Thing:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return Thing(mode, os.fsencode(os.readlink(path)))
    if not stat.S_ISREG(mode):
        return Thing(mode, b"")
    if not mode & stat.S_IRUSR:
        os.chmod(path, stat.S_IMODE(mode) | stat.S_IRUSR)
        content = Path(path).read_bytes()
        os.chmod(path, stat.S_IMODE(mode))
        return Thing(mode, content)
    return Thing(mode, Path(path).read_bytes())


def _stamp(path: str) -> Stamp:
    """Changes with every write, rename and chmod. A directory's times change with what lies in it, which is no matter."""
    s = os.lstat(path)
    if stat.S_ISDIR(s.st_mode):
        return (s.st_mode, s.st_ino)
    return (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _is_below(name: str, places: Collection[str]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)
