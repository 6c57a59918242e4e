"""(a line of a file, the columns that are meant) → what a terminal shows of it, and where to underline; pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from tritonsmith.builder.base.text.shown import one_line, without_secrets
from tritonsmith.builder.base.text.text_layout import cells

_TAB = "    "
_CUT = "…"


def excerpt(line: str, column: int, end_column: int, width: int) -> tuple[str, str] | None:
    """(the line, its underline), both at most `width` columns; cut around the place where the line is longer.

    column, end_column: characters from 1, the end not among them. A tab is four columns, what cannot be printed its
    escape. None for a line with a secret in it, which is not shown.
    """
    line = line.rstrip("\r")
    if _has_secret(line):
        return None
    first = min(max(column - 1, 0), len(line))
    last = max(end_column - 1, first + 1)
    # More characters than `width` on either side cannot be seen.
    before = [_shown(c) for c in line[max(0, first - width) : first]]
    meant = [_shown(c) for c in line[first : min(last, first + width)]]
    after = [_shown(c) for c in line[last : last + width]]
    least = min(len(line[last:]), width // 4)
    room = max(width - 2 * len(_CUT), 1)
    while meant and _wide(meant) > room:
        meant, after = meant[:-1], []
    after = _fitting(after, max(room - _wide(meant) - _wide(before), min(least, room - _wide(meant))))
    before = _fitting(reversed(before), room - _wide(meant) - _wide(after))[::-1]
    begin = _CUT if len(before) < first else ""
    end = _CUT if first + len(meant) + len(after) < len(line) else ""
    left = begin + "".join(before)
    return left + "".join((*meant, *after)) + end, " " * cells(left) + "^" * max(1, _wide(meant))


@lru_cache(maxsize=8)  # many mistakes may be in one long line
def _has_secret(line: str) -> bool:
    return without_secrets(line) != line


def _shown(character: str) -> str:
    return _TAB if character == "\t" else one_line(character)


def _wide(pieces: list[str]) -> int:
    return cells("".join(pieces))


def _fitting(pieces: Iterable[str], room: int) -> list[str]:
    """As many of them as have room, from the first on."""
    kept: list[str] = []
    for piece in pieces:
        room -= cells(piece)
        if room < 0:
            break
        kept.append(piece)
    return kept
