"""Text, rows of a table, the width of a terminal → lines that fit it, broken between words; pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

# Colours take no room.
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
# What comes before the words proper: `  fix:   `, `  throughput  `, `note: `. The lines below begin beside it.
_LABEL = re.compile(r" *\S+ {2,}| +\S{1,10}: +|\S{1,8}: +")
_INDENT = 4
_GAP = "  "
_LEAST_NAME, _LEAST_TEXT = 16, 24
# A number stays beside its unit, `[default: 8000]` stays together.
_WORD = re.compile(
    r"( *)(\S*\d (?:[nµm]?s|[KMG]iB|B|%)(?![^\s,.;:)])\S*|\[(?:[a-z ]+:|at least) [^\]]{1,20}\]|[^ ]+)"
)


def cells(text: str) -> int:
    """The columns that a text takes on a terminal."""
    from rich.cells import cell_len

    return cell_len(_STYLE.sub("", text))


def wrapped(text: str, width: int | None, *, hang: int | None = None) -> str:
    """Lines wider than `width` broken between words; None: as it is.

    hang: how far what follows is indented; None: to where the words after a label begin, or a little.
    A word that is wider than a line, a path say, stays whole: people copy it.
    """
    if width is None:
        return text
    parts = (_broken(line, width, _hang(line, width) if hang is None else hang) for line in text.split("\n"))
    return "\n".join(line for lines in parts for line in lines)


def command_lines(command: str, width: int | None) -> list[str]:
    """A command of a shell, broken between its words so that what is copied is still that command; None: on one line."""
    first, *words = map(shlex.quote, shlex.split(command))
    lines = [first]
    for word in words:
        if width is None or cells(f"{lines[-1]} {word} \\") <= width:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(" " * _INDENT + word)
    return lines


def _hang(line: str, width: int) -> int:
    """Where the words of a line that follows begin."""
    plain = _STYLE.sub("", line)
    label = _LABEL.match(plain)
    if label is not None and label.end() <= width // 2:
        return label.end()
    return len(plain) - len(plain.lstrip(" ")) + _INDENT


def _broken(line: str, width: int, hang: int) -> Iterable[str]:
    """The first `hang` columns stay together."""
    if cells(line) <= width:
        return [line]
    hang = hang if hang <= width - _LEAST_TEXT // 2 else _INDENT
    lines = [""]
    for gap, word in _WORD.findall(line):
        if cells(lines[-1] + gap) > hang and cells(lines[-1] + gap + word) > width:
            lines.append(" " * hang + word)
        else:
            lines[-1] += gap + word
    return lines


def narrowed(name: str, width: int) -> str:
    """A name or a path of at most `width` columns; what is left out is left out of its middle."""
    if cells(name) <= width:
        return name
    begin, end = name[:width], name[-width:]
    while cells(end) > (width - 1) // 2:
        end = end[1:]
    while cells(begin) + 1 + cells(end) > width:
        begin = begin[:-1]
    return f"{begin}…{end}"


def named_lines(lines_of: Callable[[int], list[str]], longest: int, width: int | None) -> list[str]:
    """lines_of(columns for a name), with shorter names than the longest where the lines are wider than `width`."""
    lines = lines_of(longest)
    over = 0 if width is None else max((cells(line) for line in lines), default=0) - width
    return lines if over <= 0 else lines_of(max(_LEAST_NAME, longest - over))


def table(
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    *,
    right: Collection[int] = (),
    names: Sequence[int] = (),
    drop: Sequence[int] = (),
    text: int | None = None,
) -> list[str]:
    """Rows → aligned lines, no wider than `width` where that can be; None: as wide as they are.

    right: columns that are aligned to the right.
    names: columns whose cells may lose their middle, the widest first.
    drop:  columns that may be left out when that is not enough, the least important first.
    text:  the last column, when it has sentences: they go on below their beginning.
    """
    if not rows:
        return []
    natural = {column: max(cells(row[column]) for row in rows) for column in range(len(rows[0]))}
    widths = natural if width is None else _fitted(natural, width, names, drop, text)
    lines: list[str] = []
    for row in rows:
        line, hang = "", 0
        for column, size in widths.items():
            hang = cells(line)
            cell = narrowed(row[column], size) if column in names else row[column]
            pad = " " * (size - cells(cell))
            line += (pad + cell if column in right else cell + pad) + _GAP
        line = line.rstrip()
        lines += [line] if width is None or text is None else _broken(line, width, hang)
    return lines


def _fitted(
    natural: Mapping[int, int], width: int, names: Sequence[int], drop: Sequence[int], text: int | None
) -> dict[int, int]:
    """The columns that are kept, and their widths."""
    kept = dict(natural)
    if text is not None:
        kept[text] = min(kept[text], _LEAST_TEXT)
    widths = kept
    for gone in (None, *drop):
        kept = {column: size for column, size in kept.items() if column != gone}
        widths = dict(kept)
        while _line_width(widths) > width and (wide := _widest(widths, names)) is not None:
            widths[wide] -= 1
        if _line_width(widths) <= width:
            break
    return widths


def _line_width(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + len(_GAP) * (len(widths) - 1)


def _widest(widths: Mapping[int, int], names: Sequence[int]) -> int | None:
    wide = [column for column in names if widths.get(column, 0) > _LEAST_NAME]
    return max(wide, key=widths.__getitem__, default=None)
