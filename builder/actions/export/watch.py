"""Running code → the files it was read from: modules, weights and data, as far as Python opened them."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tritonsmith.builder.base.machine.own import has_own_name, is_own

# Directories of the machine, not of a model.
_SYSTEM = tuple(Path(p) for p in ("/proc", "/dev", "/sys", "/etc", "/run"))
# Inside site-packages the installed version stands for the code; what is left there is weights and data.
_CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyi", ".so", ".pyd"})


class OpenedFiles:
    """Paths of the files that were opened while it was watching."""

    def __init__(self, ignore: Iterable[Path]) -> None:
        self._ignore = tuple(path.resolve() for path in ignore)
        self._paths: set[str] = set()

    def see(self, args: tuple[object, ...]) -> None:
        """What an `open` is audited with: (path, mode, flags), mode None when os.open was called."""
        path, mode, flags = args
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str):
            return
        writes = (
            any(c in mode for c in "wax+")
            if isinstance(mode, str)
            else bool(_flags(flags) & (os.O_WRONLY | os.O_RDWR))
        )
        if not writes:
            self._paths.add(os.path.abspath(path))  # noqa: PTH100  (os.getcwd() of now, no file access in a hook)

    def dependencies(self, named: Iterable[Path], search_path: Path) -> tuple[str, ...]:
        """Files opened while watching, the modules now imported, and `named`; absolute, sorted.

        Left out: the standard library, code in site-packages, our own package, system directories, and
        temporary files that do not belong to the search path. Files that a compiled library opens by itself
        (safetensors' mmap, tokenizers' from_file) cannot be seen: open those in Python.
        """
        found = {path.resolve() for path in named}
        places = _Places(search_path.resolve())
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str):
                self._paths.add(file)
        for name in self._paths:
            if places.has_code(name):
                continue
            path = Path(name).resolve()
            if places.belongs(path) and not any(path.is_relative_to(place) for place in self._ignore):
                found.add(path)
        return tuple(sorted(str(path) for path in found if path.is_file()))


class _Places:
    def __init__(self, search_path: Path) -> None:
        paths = sysconfig.get_paths()
        self._site = tuple({Path(paths[key]).resolve() for key in ("purelib", "platlib")})
        self._standard = tuple({Path(paths[key]).resolve() for key in ("stdlib", "platstdlib")})
        self._temporary = Path(tempfile.gettempdir()).resolve()
        self._search_path = search_path

        self._code = tuple(
            f"{place}{os.sep}"
            for place in (
                *(paths[key] for key in ("purelib", "platlib", "stdlib", "platstdlib")),
                *self._site,
                *self._standard,
            )
        )

    def has_code(self, name: str) -> bool:
        """Whether a name alone, which costs no look at the disk, says that it is installed code or ours."""
        is_code = os.path.splitext(name)[1] in _CODE_SUFFIXES  # noqa: PTH122
        return is_code and (name.startswith(self._code) or has_own_name(name))

    def belongs(self, path: Path) -> bool:
        if path.suffix == ".pyc" or is_own(path) or any(path.is_relative_to(place) for place in _SYSTEM):
            return False
        if self._in_site(path):
            return path.suffix not in _CODE_SUFFIXES and not any(
                part.endswith((".dist-info", ".egg-info")) for part in path.parts
            )
        if any(path.is_relative_to(place) for place in self._standard):
            return False
        if path.is_relative_to(self._temporary):
            return path.is_relative_to(self._search_path)
        return True

    def _in_site(self, path: Path) -> bool:
        return any(path.is_relative_to(place) for place in self._site) or any(
            part in ("site-packages", "dist-packages") for part in path.parts
        )


@contextmanager
def watch_files(ignore: Iterable[Path] = ()) -> Iterator[OpenedFiles]:
    """Watches every `open` of this process inside the block."""
    opened = OpenedFiles(ignore)
    _hook()
    _watching.append(opened)
    try:
        yield opened
    finally:
        _watching.remove(opened)


_watching: list[OpenedFiles] = []


@cache
def _hook() -> None:
    """Once in a process: nothing takes an audit hook away again."""
    sys.addaudithook(_see)


def _see(event: str, args: tuple[object, ...]) -> None:
    if event == "open":
        for opened in _watching:
            opened.see(args)


def _flags(value: object) -> int:
    return value if isinstance(value, int) else 0
