"""A word or a value that is none of the valid ones → the one that was meant, where only one can be; pure.

A slip is a wrong case or separator, one letter too many, too few, wrong or in another's place in a word of the name,
or a last word left out. Numbers in names have to be right, and units: `max_queue_delay_milliseconds` is no
misspelt `max_queue_delay_microseconds`, and `min_batch_size` no `max_batch_size`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

Kind = Literal["string", "integer", "float", "bool", "enum"]

_LONGEST = 64
_UNIT = "microseconds"
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"([0-9]+)\.0*")


def meant_name(word: str, valid: Iterable[str]) -> str | None:
    """The one field's name that `word` is a slip for."""
    return _only(word, valid, prefix="")


def meant_value(kind: Kind, written: str, is_quoted: bool, enum: Sequence[str] = ()) -> str | None:
    """What a scalar should have been written as; None when it is right, or nobody can tell.

    written: as in the text, without its quotes where it has them, without its sign.
    """
    if kind == "string":
        return None if is_quoted else f'"{written}"'
    if kind == "integer":
        if is_quoted:
            return written if _INTEGER.fullmatch(written) else None
        whole = _WHOLE.fullmatch(written)
        return whole.group(1) if whole else None
    if kind == "float":
        return written if is_quoted and _FLOAT.fullmatch(written) else None
    if kind == "bool":
        lower = written.lower()
        return lower if lower in ("true", "false") and (is_quoted or written not in _BOOLS) else None
    if written in enum:
        return written if is_quoted else None
    return _only(written, enum, prefix=_common_prefix(enum))


_BOOLS = ("true", "false", "True", "False")


def _common_prefix(names: Sequence[str]) -> str:
    """`TYPE_` of TYPE_FP32 and its like."""
    first = names[0].split("_")[0] + "_" if names else ""
    return first if len(names) > 1 and all(name.startswith(first) for name in names) else ""


def _only(word: str, valid: Iterable[str], prefix: str) -> str | None:
    """The valid name of the least slip; None when there is none, or two of the same kind."""
    if len(word) > _LONGEST:
        return None
    names = list(valid)
    for is_meant in (_is_same, _is_slip, _is_shortened):
        found = [name for name in names if is_meant(word, name, prefix)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _plain(name: str) -> str:
    return re.sub(r"[_-]", "", name).lower()


def _is_same(word: str, name: str, prefix: str) -> bool:
    return _plain(word) in (_plain(name), _plain(name.removeprefix(prefix)))


def _is_slip(word: str, name: str, prefix: str) -> bool:
    return any(_are_slips(word.lower(), meant.lower()) for meant in {name, name.removeprefix(prefix)})


def _are_slips(word: str, name: str) -> bool:
    parts, meant = word.split("_"), name.split("_")
    return len(parts) == len(meant) and all(
        a == b or _is_one_letter_off(a, b) for a, b in zip(parts, meant, strict=True)
    )


def _is_shortened(word: str, name: str, prefix: str) -> bool:
    """The last words are left out, but for a unit."""
    parts, meant = word.lower().split("_"), name.lower().split("_")
    return not prefix and 1 < len(parts) < len(meant) and meant[: len(parts)] == parts and meant[-1] != _UNIT


def _is_one_letter_off(word: str, meant: str) -> bool:
    """One letter is added, left out, another, or changed places with its neighbour; digits are never a slip."""
    if re.findall("[0-9]+", word) != re.findall("[0-9]+", meant) or max(len(word), len(meant)) < 4:
        return False
    if len(word) < len(meant):
        word, meant = meant, word
    at = next((i for i, (a, b) in enumerate(zip(word, meant, strict=False)) if a != b), len(meant))
    if len(word) > len(meant):
        return word[at + 1 :] == meant[at:]
    return word[at + 1 :] == meant[at + 1 :] or (
        word[at : at + 2] == meant[at : at + 2][::-1] and word[at + 2 :] == meant[at + 2 :]
    )
