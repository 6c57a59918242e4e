"""(a group of entry points, our own rows) → the whole table: other packages add rows to it by naming them in the group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, TypeVar

from tritonsmith.builder.base.errors import ToolError

Row = TypeVar("Row")


def table_of(group: str, kind: type[Row], own: Iterable[Row], key: Callable[[Row], str]) -> Mapping[str, Row]:
    """key → row: ours first, then those that other packages name as `module:ROW`, in the order of their names.

    ToolError bad_row, with the package, for an entry point that cannot be imported, is no such row, or takes a key that
    there is already: left out, it would be missed silently.
    """
    rows = {key(row): row for row in own}
    for found in sorted(_entry_points().select(group=group), key=lambda e: e.name):
        try:
            row = found.load()
        except Exception as error:  # whatever the module of another package raises
            raise _refused(found, f"it cannot be imported: {type(error).__name__}: {error}") from error
        if not isinstance(row, kind):
            raise _refused(found, f"it is of type {type(row).__name__}, not {kind.__name__}")
        if rows.setdefault(key(row), row) is not row:
            raise _refused(found, f"there is a {key(row)!r} already")
    return MappingProxyType(rows)


@cache
def _entry_points() -> Any:
    """Of all packages: read once, because each reading opens a file of every package that is installed."""
    from importlib.metadata import entry_points  # not for --help

    return entry_points()


def _refused(found: Any, why: str) -> ToolError:
    package = found.dist.name if found.dist is not None else "its package"
    return ToolError(
        f"the row that {package} adds to {found.group} does not do: {why}",
        code="bad_row",
        seen=f"{found.name} = {found.value}",
        fix=f"mend or uninstall {package}",
    )


def function_of(reference: str) -> Callable[..., Any]:
    """ "module:function" of a row → the function."""
    module, _, name = reference.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function
