"""(values that decide about an action before, the same now) → those that changed, as values and as text; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ENGINE = "engine"
"""What the arguments of a language model's engine stand under."""


@dataclass(frozen=True, slots=True)
class Changed:
    """One value that decides about an action. name: of a file, a tool, a parameter (`input[0].dims`); None: there is none."""

    name: str
    old: Any
    new: Any


def under_engine(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`max_num_seqs` → `engine.max_num_seqs`."""
    return {f"{ENGINE}.{name}": value for name, value in arguments.items()}


def text_of_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """`key: old → new` for each key that differs."""
    keys: Sequence[str] = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    return "; ".join(f"{k}: {short(old.get(k))} → {short(new.get(k))}" for k in keys)


def leaves(old: Any, new: Any, name: str = "") -> tuple[Changed, ...]:
    """The innermost values that differ, each under its path: `input[0].dims`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(old.keys() | new.keys())
        parts = [(f"{name}.{key}" if name else key, old.get(key), new.get(key)) for key in keys]
    elif (
        isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and any(map(_is_nested, old))
    ):
        parts = [(f"{name}[{n}]", a, b) for n, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return () if old == new else (Changed(name, old, new),)
    return tuple(leaf for part, a, b in parts for leaf in leaves(a, b, part))


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list)


def short(value: Any) -> str:
    """A value in one line; of a digest and of a long text the beginning."""
    if value is None:
        return "none"
    text = str(value)
    if is_digest_text(text):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}…"


def is_digest_text(value: Any) -> bool:
    """Whether it is a sha256 in hexadecimal."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
