"""Nothing but builder.base.files.disk renames, replaces or deletes: whatever is deleted was looked at in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A script that runs alone beside a server, and what runs in Triton's own interpreter or measures us.
EXEMPT = (
    "builder/base/files/disk.py",
    "perf/server/process/guard.py",
    "perf/server/backends/",
    "tests/bench/",
)
OF_PATHS = {"rename", "unlink", "rmdir"}
OF_MODULES = {
    ("os", name)
    for name in ("rename", "renames", "replace", "remove", "removedirs", "unlink", "rmdir", "truncate")
} | {("shutil", name) for name in ("rmtree", "move")}
# Of the standard library's own things that are no paths.
NO_PATH = {("perf/load/memory_regions.py", "memory.unlink")}


def calls_that_delete(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of calls that rename, replace or delete, or hand such a function on."""
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            yield from (
                (node.lineno, f"from {node.module} import {a.name}")
                for a in node.names
                if (node.module, a.name) in OF_MODULES
            )
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        if (owner, node.attr) in OF_MODULES or node.attr in OF_PATHS or node.attr == "renameat2":
            yield node.lineno, f"{owner}.{node.attr}"
    for node in nodes:
        # Path.replace takes one argument; those of text and of dataclasses take others.
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "replace"
            and len(node.args) == 1
            and not node.keywords
        ):
            yield node.lineno, ast.unparse(node.func)


def modules() -> list[str]:
    found = [p for top in ("builder", "perf") for p in (ROOT / top).rglob("*.py")]
    names = (p.relative_to(ROOT).as_posix() for p in [*found, ROOT / "tritonsmith.py"])
    return sorted(name for name in names if not name.startswith(EXEMPT))


def test_one_module_deletes() -> None:
    found = [
        f"{name}:{line}: {what}"
        for name in modules()
        for line, what in calls_that_delete((ROOT / name).read_text(encoding="utf-8"))
        if (name, what) not in NO_PATH
    ]
    assert not found, "use builder.base.files.disk:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "bad",
    [
        "import os\nos.remove(path)",
        "import os\nos.replace(a, b)",
        "from os import unlink",
        "import shutil\nshutil.rmtree(d, ignore_errors=True)",
        "stack.callback(shutil.rmtree, d)",
        "from shutil import move as m",
        "Path(a).rename(b)",
        "(a / 'b').replace(target)",
        "path.unlink(missing_ok=True)",
        "path.parent.rmdir()",
        "libc.renameat2(1, a, 2, b, 3)",
    ],
)
def test_what_deletes_is_found(bad: str) -> None:
    assert list(calls_that_delete(bad))


@pytest.mark.parametrize("good", ["text.replace('a', 'b')", "dataclasses.replace(a, b=1)", "replace(a, b=1)"])
def test_what_deletes_nothing_is_not(good: str) -> None:
    assert not list(calls_that_delete(good))
