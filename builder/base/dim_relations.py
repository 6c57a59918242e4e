"""`past + new`, `2*n`, `(n - 1) // 2 + 1`: how a dynamic dimension follows from others → its size, or a ValueError."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache

Sizes = tuple[int, int, int]
"""min, opt, max"""

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
_FORM = "names of dims and whole numbers with +, * and //, as past + new, 2*n or (n - 1) // 2 + 1"
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Relation:
    """An expression that never falls when a size in it grows, so that the sizes at the ends of ranges are its own ends.

    names: of the dims in it, in order.
    """

    text: str
    names: tuple[str, ...]

    def size(self, sizes: Mapping[str, int]) -> int:
        """Its size; KeyError when one of the names has none."""
        return _value(_tree(self.text), sizes)

    def nearest(self, wanted: int, sizes: Mapping[str, int]) -> int:
        """Its size; where a name is no dim of any input (32*k), the largest that is not above what is wanted."""
        unknown = [name for name in self.names if name not in sizes]
        if not unknown:
            return self.size(sizes)
        low, high = 1, max(1, wanted)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.size({**dict.fromkeys(unknown, middle), **sizes}) <= wanted
            low, high = (middle, high) if fits else (low, middle - 1)
        return self.size({**dict.fromkeys(unknown, low), **sizes})


@cache
def relation_from_text(text: str) -> Relation:
    """ValueError for anything but sums, multiples and whole parts of named sizes."""
    tree = _tree(text)
    _refuse_other_forms(tree)
    names = tuple(dict.fromkeys(n.id for n in ast.walk(tree) if isinstance(n, ast.Name)))
    if not names:
        raise ValueError(f"names no dim; it is made of {_FORM}")
    return Relation(text, names)


def ranges_with_relations(
    ranges: Mapping[str, Sizes], relations: Mapping[str, str]
) -> tuple[dict[str, Sizes], list[str]]:
    """The ranges, with those of the dims that follow from others → (them, the dims that follow, in an order to compute).

    A dim that follows from one without a range has none. ValueError for dims that follow from one another in a circle.
    """
    order = _ordered(relations)
    found = dict(ranges)
    for name in order:
        relation = relation_from_text(relations[name])
        if all(n in found for n in relation.names):
            ends = [relation.size({n: found[n][end] for n in relation.names}) for end in range(3)]
            found[name] = (ends[0], ends[1], ends[2])
    return found, order


def _ordered(relations: Mapping[str, str]) -> list[str]:
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"follows from itself: {' → '.join((*above, name))}")
        for other in relation_from_text(relations[name]).names:
            if other in relations and other not in order:
                visit(other, (*above, name))
        if name not in order:
            order.append(name)

    for name in relations:
        visit(name, ())
    return order


def with_found(stated: Mapping[str, str], found: Mapping[str, str]) -> dict[str, str]:
    """The relations that are stated, and those that were found, as far as nothing follows from itself then."""
    together = dict(stated)
    for name, text in found.items():
        if name not in together:
            try:
                _ordered({**together, name: text})
            except ValueError:
                continue
            together[name] = text
    return together


def sizes_with_relations(
    sizes: Mapping[str, int], relations: Mapping[str, str], dims: Collection[str]
) -> dict[str, int]:
    """Sizes of the dims, with those that follow from others computed; `sizes` has what is wanted of every dim."""
    found = {name: size for name, size in sizes.items() if name not in relations}
    for name in _ordered(relations):
        if name in dims:
            found[name] = relation_from_text(relations[name]).nearest(sizes.get(name, 1), found)
    return found


@cache
def _tree(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"is no expression; it is made of {_FORM}") from None


def _refuse_other_forms(node: ast.expr) -> None:
    if isinstance(node, ast.Name) or _number(node) is not None:
        return
    if not isinstance(node, ast.BinOp) or type(node.op) not in _OPERATORS:
        raise ValueError(f"is made of {_FORM}; not {ast.unparse(node)!r}")
    named = [any(isinstance(n, ast.Name) for n in ast.walk(side)) for side in (node.left, node.right)]
    if isinstance(node.op, ast.Sub) and named[1]:
        raise ValueError(
            f"takes a size away from another, {ast.unparse(node)!r}; say the largest one by the others: total: past + new"
        )
    if isinstance(node.op, ast.Mult) and all(named):
        raise ValueError(f"multiplies two sizes, {ast.unparse(node)!r}")
    if isinstance(node.op, ast.FloorDiv) and (named[1] or not _number(node.right)):
        raise ValueError(f"divides by something else than a whole number above 0, {ast.unparse(node)!r}")
    for side in (node.left, node.right):
        _refuse_other_forms(side)


def _number(node: ast.expr) -> int | None:
    """A whole number from 0 on."""
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value < 2**31:
        return node.value
    return None


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left, sizes), _value(node.right, sizes))
    number = _number(node)
    assert number is not None
    return number
