"""Texts → Markdown in which they stay texts, whatever they hold; pure."""

from __future__ import annotations

import re

_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def cell(value: object) -> str:
    """One line of plain text, in a table's cell too; `@` does not call anyone."""
    text = re.sub(r"[\\`*_|\[\]~#]", lambda m: f"\\{m.group()}", str(value))
    text = re.sub(r"[<>&]", lambda m: _ENTITIES[m.group()], text)
    return " ".join(text.replace("@", "@\u200b").split())


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
