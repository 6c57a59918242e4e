"""(`module:callable`, the spec's directory) → nothing, or why it cannot be there: files are found and parsed, never run."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path

from tritonsmith.builder.actions.export.sources.callables import present_modules
from tritonsmith.builder.base.errors import SpecError, Where, nearest, unknown

# Whoever uses one of these may make names that the text does not show.
_DYNAMIC_NAMES = frozenset({"globals", "locals", "vars", "exec", "__path__", "__getattr__"})
_DYNAMIC_ATTRIBUTES = frozenset({"__dict__", "__path__"})
_MAX_BYTES = 4 << 20


def check_callable(reference: str, root: Path, what: str) -> None:
    """SpecError module_not_found, python_syntax or attribute_not_found, as the import would end.

    what: the role in messages (`source`). Silent wherever only running the module would tell: a name that is made while it
    runs, an extension module, a finder of the user's own.
    """
    module, _, attribute = reference.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        return  # no reference at all: the build says what one looks like
    file = _file_of(module, root, what)
    names = None if file is None else _names(file, what)
    name = attribute.partition(".")[0]
    if names is not None and name not in names:
        own = {n: line for n, (line, is_import) in names.items() if not is_import and not n.startswith("_")}
        near = unknown(name, sorted(own))
        line = own.get(nearest(name, sorted(own)) or "")
        raise SpecError(
            f"{what} module {module} has no {name}",
            code="attribute_not_found",
            details=[f"its names are those of {Where(file, line)}"] if file is not None else (),
            **near,
        )


def _file_of(module: str, root: Path, what: str) -> Path | None:
    """The module's source file; None where it cannot be told without running something. SpecError when there is none."""
    first, *inner = module.split(".")
    if first in sys.builtin_module_names or first == "tritonsmith":
        return None
    try:
        found = PathFinder.find_spec(first, [str(root), *sys.path]) or importlib.util.find_spec(first)
    except (ImportError, ValueError, AttributeError):
        return None
    for depth, part in enumerate(inner, 1):
        if found is None:
            break
        outer = found
        name = ".".join([first, *inner[:depth]])
        places = outer.submodule_search_locations
        found = None if places is None else PathFinder.find_spec(f"{outer.name}.{part}", list(places))
        if found is None and not _is_plain(outer):
            return None
        if found is None:
            raise _no_module(module, name, root, what)
    if found is None:
        raise _no_module(module, first, root, what)
    is_source = isinstance(found.loader, SourceFileLoader) and found.origin is not None
    return Path(found.origin) if is_source and found.origin is not None else None


def _is_plain(outer: ModuleSpec) -> bool:
    """Whether nothing but its files decides which modules are inside it."""
    if outer.origin is None or not isinstance(outer.loader, SourceFileLoader):
        return outer.loader is None or outer.origin is None
    tree = _parsed(Path(outer.origin))
    return isinstance(tree, ast.Module) and not _is_dynamic(tree)


def _no_module(module: str, missing: str, root: Path, what: str) -> SpecError:
    fix = "modules are found from the directory of models.yaml, then among installed packages"
    return SpecError(
        f"{what} module {missing} does not exist",
        code="module_not_found",
        **unknown(module, present_modules(root), fix),
    )


@lru_cache(maxsize=4096)
def _parsed(file: Path) -> ast.Module | SyntaxError | None:
    """None: it cannot be read, or is no text that people write."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            return None
        return ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        return error
    except (OSError, ValueError, RecursionError, MemoryError):
        return None


def _names(file: Path, what: str) -> dict[str, tuple[int, bool]] | None:
    """Name → (line, whether it is imported) of all that it binds; None where it may bind others. SpecError: it is no Python."""
    tree = _parsed(file)
    if isinstance(tree, SyntaxError):
        raise SpecError(
            f"{what} module is not valid Python: {tree.msg}",
            code="python_syntax",
            where=Where(file, tree.lineno),
        )
    if tree is None or _is_dynamic(tree):
        return None
    bound: dict[str, tuple[int, bool]] = {}
    for name, node in _bound(tree):
        bound.setdefault(name, (node.lineno, isinstance(node, ast.Import | ast.ImportFrom)))
    return bound


def _is_dynamic(tree: ast.Module) -> bool:
    """Whether it has a `__getattr__`, takes all of another module, or uses what makes names."""
    return any(map(_makes_names, ast.walk(tree))) or any(
        isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body
    )


def _makes_names(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return any(alias.name == "*" or alias.name == "modules" for alias in node.names)
    if isinstance(node, ast.Name):
        return node.id in _DYNAMIC_NAMES
    if not isinstance(node, ast.Attribute):
        return False
    of_sys = isinstance(node.value, ast.Name) and (node.value.id, node.attr) == ("sys", "modules")
    return of_sys or node.attr in _DYNAMIC_ATTRIBUTES


def _bound(tree: ast.Module) -> Iterator[tuple[str, ast.stmt | ast.expr | ast.ExceptHandler | ast.pattern]]:
    """(name, where) of what is bound at the module's level: in its branches, too, and by `global` in its functions."""
    waiting: deque[ast.AST] = deque(tree.body)
    while waiting:
        node = waiting.popleft()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
            inner = (found for found in ast.walk(node) if isinstance(found, ast.Global))
            yield from ((name, found) for found in inner for name in found.names)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, node
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest, node
        waiting += ast.iter_child_nodes(node)
