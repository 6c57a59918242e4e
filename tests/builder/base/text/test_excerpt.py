"""A line and a place in it, as a terminal of some width shows them."""

from __future__ import annotations

import random

import pytest

from tritonsmith.builder.base.text.excerpt import excerpt
from tritonsmith.builder.base.text.text_layout import cells


@pytest.mark.parametrize(
    ("line", "column", "end", "width", "shown", "under", "why"),
    [
        ("name: 1", 7, 8, 40, "name: 1", "      ^", "a short line as it is"),
        ("\ta: 1\r", 2, 3, 40, "    a: 1", "    ^", "a tab takes four columns, the line's end none"),
        ('n: "名前" x', 9, 10, 40, 'n: "名前" x', " " * 10 + "^", "letters of two columns"),
        ("a\x1b[2Jb", 6, 7, 40, "a\\x1b[2Jb", " " * 8 + "^", "an escape is shown as four letters"),
        (
            "x" * 30 + "HERE" + "y" * 30,
            31,
            35,
            20,
            "…xxxxxxxxxHEREyyyyy…",
            " " * 10 + "^^^^",
            "cut on both sides",
        ),
        ("HERE" + "y" * 30, 1, 5, 14, "HEREyyyyyyyy…", "^^^^", "cut behind it"),
        ("x" * 30 + "HERE", 31, 35, 14, "…xxxxxxxxHERE", " " * 9 + "^^^^", "cut before it"),
        ("x" * 60, 1, 61, 12, "xxxxxxxxxx…", "^" * 10, "a place wider than the terminal"),
        ("abc", 9, 12, 20, "abc", "   ^", "behind the line's end"),
    ],
)
def test_a_line_and_its_underline(
    line: str, column: int, end: int, width: int, shown: str, under: str, why: str
) -> None:
    assert excerpt(line, column, end, width) == (shown, under), why


def test_a_line_with_a_secret_is_not_shown() -> None:
    assert excerpt('value: "https://user:secret@host/x"', 1, 6, 80) is None


def test_nothing_is_wider_than_asked_and_the_underline_is_below_its_place() -> None:
    rng = random.Random(5)
    for _ in range(500):
        line = "".join(rng.choice("ab \t名é\x07{}") for _ in range(rng.randint(1, 400)))
        column = rng.randint(1, len(line))
        width = rng.randint(20, 120)
        both = excerpt(line, column, column + 1, width)
        assert both is not None
        shown, under = both
        assert cells(shown) <= width and cells(under) <= width + 3
        left = len(under) - len(under.lstrip(" "))
        if line[column - 1] == "{":
            prefix = next(i for i in range(len(shown) + 1) if cells(shown[:i]) == left)
            assert shown[prefix] == "{"
