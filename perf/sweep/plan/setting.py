"""`--set` text → a path into the model config and its values, each read by its field's type; pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import SpecError, UsageError
from tritonsmith.builder.spec.yaml_source import yaml_from_text
from tritonsmith.perf.sweep.plan.config_path import Place
from tritonsmith.perf.sweep.plan.field_value import example_of, is_text, values_of
from tritonsmith.perf.sweep.plan.space import check_no_value_twice, place_in_space

EXAMPLE = "--set instance_group.count=1,2"
_PAIRS = {"[": "]", "{": "}"}
_SIGNS = re.compile(r"""(?<![^\s,\[{:.=])(?:"[^"]*"|'[^']*')|[,=\[\]{}]""")


def setting_from_text(text: str) -> tuple[str, list[Any]]:
    """`instance_group.count=1,2` → (path, values); UsageError with the flag that is meant.

    A value is what its field's type takes: `1..4` is four whole numbers, text is taken as it is written, `null` takes
    away a field that is not text. Lists and messages stand in brackets, `preferred_batch_size=[4,8],[16]` has two
    values. Quotes protect commas, and dots in a map's key: `parameters."a.b"="1,2"`.
    """
    equals = next((at for at, sign in _signs(text) if sign == "="), -1)
    path, values = text[: max(equals, 0)].strip(), text[equals + 1 :].strip()
    if not path:
        raise UsageError("a setting is PATH=VALUE,VALUE…", code="bad_setting", seen=text, fix=EXAMPLE)
    try:
        name, place = place_in_space(path)
    except UsageError as error:
        error.seen = text
        if error.fix is None:
            error.fix = EXAMPLE if error.code == "bad_path" else None
        elif error.code in ("bad_path", "unknown_field") and not error.fix.startswith("-"):
            error.fix = _flag(error.fix, values or "V1,V2")
        raise
    if not values:
        fix = _flag(name, example_of(place))
        raise UsageError(f"{name} is given no value", code="bad_setting", seen=text, fix=fix)
    parts = list(_parts(path, values))
    if place.is_list and not any(part.startswith("[") or part == "null" for part in parts):
        raise _list_hint(name, parts)
    read: list[Any] = []
    for position, part in enumerate(parts):
        others = [*parts[:position], *parts[position + 1 :]]
        try:
            read += values_of(place, _given(place, part))
            check_no_value_twice(name, read)
        except UsageError as error:
            if error.code in ("bad_value", "unknown_field"):
                mended = [] if error.fix is None else [part.replace(str(error.seen), error.fix, 1)]
                error.fix = _flag(
                    name, ",".join([*parts[:position], *mended, *others[position:]]) or example_of(place)
                )
            elif error.code == "value_twice":
                error.seen, error.fix = values, _flag(name, ",".join(others))
            raise
    return name, read


def _flag(path: str, values: str) -> str:
    return f"--set {shlex.quote(f'{path}={values}')}"


def _given(place: Place, part: str) -> Any:
    """What one value's text holds: text, None, or of brackets lists and mappings of text."""
    if part[0] in "\"'":
        if len(part) < 2 or part[-1] != part[0]:
            raise _unreadable(place.path, part, f"the quote {part[0]} is not closed")
        return part[1:-1]
    if is_text(place):
        return part
    if part == "null":
        return None
    if part[0] not in _PAIRS:
        return part
    try:
        return yaml_from_text(part, Path("--set"), as_text=True).data
    except SpecError as error:
        raise UsageError(
            f"a value of {place.path} cannot be read: {error.message}", code="bad_setting", seen=part
        ) from None


def _list_hint(path: str, parts: Sequence[str]) -> UsageError:
    each, one = ",".join(f"[{part}]" for part in parts), f"[{','.join(parts)}]"
    many = len(parts) > 1
    return UsageError(
        f"{path} is a list, so each value stands in brackets",
        code="bad_value",
        seen=",".join(parts),
        valid=[f"{each} ({len(parts)} arms)", f"{one} (one arm)"] if many else [one],
        fix=f"{_flag(path, each)} or {_flag(path, one)}" if many else _flag(path, one),
    )


def _signs(text: str) -> Iterator[tuple[int, str]]:
    """(position, sign) of every comma, equals sign and bracket outside quotes, which open where a word begins."""
    return ((match.start(), match[0]) for match in _SIGNS.finditer(text) if len(match[0]) == 1)


def _parts(path: str, text: str) -> Iterator[str]:
    """Values, split at commas outside of brackets and quotes."""
    missing: list[str] = []
    start = 0
    for position, sign in _signs(text):
        if sign in _PAIRS:
            missing.append(_PAIRS[sign])
        elif sign in _PAIRS.values() and (not missing or missing.pop() != sign):
            raise _unreadable(path, text, f"'{sign}' closes nothing")
        elif sign == "," and not missing:
            yield _not_empty(path, text[start:position], text)
            start = position + 1
    if missing:
        raise _unreadable(path, text, f"'{missing[-1]}' is missing")
    yield _not_empty(path, text[start:], text)


def _unreadable(path: str, text: str, why: str) -> UsageError:
    return UsageError(
        f"a value of {path} cannot be read: {why}",
        code="bad_setting",
        seen=text,
        fix="brackets and quotes in pairs: --set 'dynamic_batching.preferred_batch_size=[4,8],[16]'",
    )


def _not_empty(path: str, part: str, text: str) -> str:
    if not part.strip():
        raise UsageError(
            f"a value of {path} is empty",
            code="bad_setting",
            seen=text,
            fix=f'{_flag(path, "V1,V2")}; the empty text is ""',
        )
    return part.strip()
