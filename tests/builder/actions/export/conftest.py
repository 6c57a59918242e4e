"""A directory of sources, and exports of them in this process, without the child's start of some seconds."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.request import ExportRequest


class Sources:
    """A spec's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.out = directory / "out"
        self.out.mkdir()

    def write(self, name: str, text: str) -> Path:
        """A Python file below the directory; torch is imported already."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import torch\n" + textwrap.dedent(text))
        return path

    def line(self, path: Path, text: str) -> int:
        """The number of the line that holds `text`."""
        return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Sources]:
    """The working directory and sys.path as the child has them, taken back with the modules they loaded."""
    before, path, directory = set(sys.modules), list(sys.path), Path.cwd()
    sys.path.insert(0, str(tmp_path))
    os.chdir(tmp_path)
    try:
        yield Sources(tmp_path)
    finally:
        os.chdir(directory)
        sys.path[:] = path
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(tmp_path):
                del sys.modules[name]


Export = Callable[[ExportRequest], Exported]
