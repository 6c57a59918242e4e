"""`past + new`: what is understood, what follows from it, and every text that is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonsmith.builder.base.dim_relations import (
    ranges_with_relations,
    relation_from_text,
    sizes_with_relations,
    with_found,
)

SIZES = {"n": 7, "m": 4, "past": 0, "new": 1}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        pytest.param("past + new", 1, id="a sum"),
        pytest.param("2*n", 14, id="a multiple"),
        pytest.param("n * 2 + m - 3", 15, id="several"),
        pytest.param("(n - 1) // 2 + 1", 4, id="half, rounded up"),
        pytest.param("((n//2))", 3, id="as torch writes it"),
    ],
)
def test_a_relation_gives_the_size(text: str, size: int) -> None:
    assert relation_from_text(text).size(SIZES) == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no expression"),
        ("2", "names no dim"),
        ("total - past", "total: past \\+ new"),
        ("n*m", "multiplies two sizes"),
        ("n // m", "divides by"),
        ("n // 0", "divides by"),
        ("n ** 2", "names of dims"),
        ("-n", "names of dims"),
        ("n + 1.5", "names of dims"),
        ("n + True", "names of dims"),
        ("f(n)", "names of dims"),
        ("n.real", "names of dims"),
        ("__import__('os')", "names of dims"),
        ("n + 99999999999", "names of dims"),
        ("n" * 300, "longer than"),
        ("(" * 150 + "n" + ")" * 150, "longer than"),
    ],
)
def test_anything_else_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        relation_from_text(text)


def test_ranges_follow_in_whatever_order_they_are_stated() -> None:
    ranges = {"past": (0, 32, 127), "new": (1, 1, 1)}
    relations = {"wide": "2*total", "total": "past + new", "unknown": "other + 1"}
    found, order = ranges_with_relations(ranges, relations)
    assert found == {**ranges, "total": (1, 33, 128), "wide": (2, 66, 256)}
    assert order.index("total") < order.index("wide")


@pytest.mark.parametrize(
    "relations", [{"a": "a + 1"}, {"a": "b", "b": "a"}, {"a": "2*b", "b": "c", "c": "a"}]
)
def test_a_circle_is_refused(relations: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="follows from itself"):
        ranges_with_relations({}, relations)


def test_what_was_found_is_left_out_where_it_would_follow_from_itself() -> None:
    found = {"b": "a + 1", "c": "2*b", "a": "c"}
    assert with_found({"a": "b - 1"}, found) == {"a": "b - 1", "c": "2*b"}


@given(st.integers(1, 500), st.integers(2, 64), st.integers(0, 9))
def test_of_what_is_no_dim_the_nearest_size_below_is_taken(wanted: int, factor: int, more: int) -> None:
    """32*k, where no input has a dimension k: the size stays what was wanted, but for the remainder."""
    (size,) = sizes_with_relations({"n": wanted}, {"n": f"{factor}*k + {more}"}, ["n"]).values()
    assert (size - more) % factor == 0
    assert size <= max(wanted, factor + more)
    assert size > wanted - factor
