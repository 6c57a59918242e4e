"""Two messages of one protobuf type → the fields that differ by meaning, as a list of old and new; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.base.triton_proto import is_map, is_repeated

ABSENT = None


@dataclass(frozen=True, slots=True)
class FieldChange:
    """path: as the proto names the field (`input["x"].dims`); old, new: its values as text, None where there is none."""

    path: str
    old: str | None
    new: str | None


def field_changes(old: Any, new: Any) -> list[FieldChange]:
    """What leads from one message to the other. The order of fields and of named items does not matter, but for inputs."""
    return list(_fields("", old, new))


def _fields(path: str, old: Any, new: Any) -> Iterator[FieldChange]:
    """Every field of two messages of one type that differs; `""` is the message itself."""
    for field in old.DESCRIPTOR.fields:
        here = f"{path}.{field.name}" if path else field.name
        if is_map(field):
            yield from _maps(field, here, getattr(old, field.name), getattr(new, field.name))
        elif is_repeated(field):
            yield from _lists(field, here, getattr(old, field.name), getattr(new, field.name))
        elif field.has_presence and not (old.HasField(field.name) and new.HasField(field.name)):
            left, right = (
                _text(field, getattr(m, field.name)) if m.HasField(field.name) else ABSENT for m in (old, new)
            )
            if left != right:
                yield FieldChange(here, left, right)
        elif field.message_type is not None:
            yield from _fields(here, getattr(old, field.name), getattr(new, field.name))
        elif getattr(old, field.name) != getattr(new, field.name):
            yield FieldChange(here, *(_text(field, getattr(m, field.name)) for m in (old, new)))


def _maps(field: Any, path: str, old: Mapping[Any, Any], new: Mapping[Any, Any]) -> Iterator[FieldChange]:
    item = field.message_type.fields_by_name["value"]
    for key in sorted(old.keys() | new.keys()):
        yield from _items(item, f'{path}["{key}"]', old.get(key), new.get(key))


def _lists(field: Any, path: str, old: Sequence[Any], new: Sequence[Any]) -> Iterator[FieldChange]:
    if field.message_type is None:
        if list(old) != list(new):
            yield FieldChange(path, _list_text(field, old), _list_text(field, new))
        return
    keys = _keys(old), _keys(new)
    if keys[0] is None or keys[1] is None:
        left, right = dict(enumerate(old)), dict(enumerate(new))
        names = {key: f"{path}[{key}]" for key in (*left, *right)}
    else:
        left, right = dict(zip(keys[0], old, strict=True)), dict(zip(keys[1], new, strict=True))
        names = {key: f'{path}["{key}"]' for key in (*left, *right)}
        # PyTorch models take inputs by place.
        if field.name == "input" and [k for k in left if k in right] != [k for k in right if k in left]:
            yield FieldChange(f"{path} (order)", ", ".join(map(str, left)), ", ".join(map(str, right)))
    for key, name in names.items():
        yield from _items(field, name, left.get(key), right.get(key))


def _items(field: Any, path: str, old: Any, new: Any) -> Iterator[FieldChange]:
    if old is not None and new is not None and field.message_type is not None:
        yield from _fields(path, old, new)
    elif old != new:
        yield FieldChange(path, *(None if v is None else _text(field, v) for v in (old, new)))


def _keys(items: Sequence[Any]) -> list[Any] | None:
    """What tells the items of a list of messages apart; None when only their place does."""
    names = [getattr(item, "name", "") for item in items]
    return names if all(names) and len(set(names)) == len(names) else None


def _list_text(field: Any, values: Sequence[Any]) -> str | None:
    return f"[{', '.join(_text(field, v) for v in values)}]" if len(values) else ABSENT


def _text(field: Any, value: Any) -> str:
    if field.message_type is not None:
        from google.protobuf import text_format

        return "{" + text_format.MessageToString(value, as_one_line=True).strip() + "}"
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return str(value) if known is None else str(known.name)
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
