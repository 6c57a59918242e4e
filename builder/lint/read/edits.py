"""A text and edits of places in it → the text with them, everything else of it as it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A piece of a text.

    line, column: of its first character, from 1; a column is a character.
    start, end:   from and up to which character of the text, from 0.
    """

    line: int
    column: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Another text for a place; an empty place is where it is put in."""

    place: Place
    text: str


def edited(text: str, edits: Iterable[Edit]) -> str | None:
    """The text with all of them; None when two are about the same characters."""
    done: list[str] = []
    at = 0
    for edit in sorted(dict.fromkeys(edits), key=lambda e: (e.place.start, e.place.end)):
        if edit.place.start < at:
            return None
        done += [text[at : edit.place.start], edit.text]
        at = edit.place.end
    return "".join([*done, text[at:]])
