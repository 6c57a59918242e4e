"""Texts → Markdown in which they stay texts, whatever they hold; pure."""

from __future__ import annotations

import re

from tritonsmith.builder.base.text.shown import visible

_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
# Behind it, `@` calls no one, and an address that nobody wrote as a link is none.
_APART = "\u200b"


def cell(value: object) -> str:
    """One line of plain text, in a table's cell too: no markup, no link, no control character."""
    text = visible(" ".join(str(value).split()))
    text = re.sub(r"[\\`*_|\[\]~#]", lambda m: f"\\{m.group()}", text)
    text = re.sub(r"[<>&]", lambda m: _ENTITIES[m.group()], text)
    return re.sub(r"@|:(?=//)|\bwww(?=\.)", lambda m: f"{m.group()}{_APART}", text, flags=re.IGNORECASE)


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any inside it."""
    text = visible(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
