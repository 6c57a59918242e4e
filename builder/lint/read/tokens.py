"""Protobuf text → its tokens, each with its place, and the comments between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tritonsmith.builder.lint.read.edits import Place

BYTE_ORDER_MARK = "\ufeff"

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\f\v\n]+)
      | (?P<comment>\#[^\n]*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>[-+]?[0-9.][\w.]*(?:(?<=[eE])[-+]\d+)?)
      | (?P<mark>[{}<>\[\]:,;/-])
      | (?P<odd>.)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """kind: name, string, number, mark or odd; line and column from 1, start from 0."""

    kind: str
    text: str
    line: int
    column: int
    start: int

    @property
    def end(self) -> int:
        """Offset of the character behind it."""
        return self.start + len(self.text)

    @property
    def place(self) -> Place:
        """All of it."""
        return Place(self.line, self.column, self.start, self.end)


def tokens_of(text: str, comments: dict[int, str]) -> Iterator[Token]:
    """The tokens in their order; comments: filled, line → what stands behind the `#`.

    A byte order mark, which no editor shows, takes no column.
    """
    line = 1
    line_start = begin = len(BYTE_ORDER_MARK) if text.startswith(BYTE_ORDER_MARK) else 0
    for match in _TOKEN.finditer(text, begin):
        kind = match.lastgroup or "odd"
        if kind == "blank":
            blank = match.group()
            breaks = blank.count("\n")
            if breaks:
                line += breaks
                line_start = match.start() + blank.rindex("\n") + 1
        elif kind == "comment":
            comments[line] = match.group()[1:].strip()
        else:
            start = match.start()
            yield Token(kind, match.group(), line, start - line_start + 1, start)


def entry_key(tokens: list[Token]) -> str | None:
    """The key of a map entry from its tokens; None when it has none that a path can show."""
    for here, following, value in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if here.text == "key" and following.text == ":":
            if value.kind == "string":
                return value.text[1:-1]
            return value.text if value.kind in ("number", "name") else None
    return None
