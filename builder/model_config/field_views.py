"""A protobuf message → its set fields as templates see them, and their values as text proto."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Verbatim(str):
    """Text that a template may print without quotes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class FieldView:
    """One set field of a message, as templates see it; items are scalars ready to print or lists of FieldView."""

    name: str
    is_list: bool
    is_message: bool
    items: tuple[Any, ...]


def printable(value: Any) -> str:
    """A template's value as text proto: strings quoted and escaped, bools lower case, Verbatim as it is."""
    if isinstance(value, Verbatim) or value == "":
        # An `if` without else yields an undefined that Jinja turns into "" before it comes here.
        return str(value) if isinstance(value, Verbatim) else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    return str(value)


def quoted(value: str) -> str:
    """A string as a text-proto literal: printable ASCII as it is, every other byte of its UTF-8 as an octal escape."""
    escapes = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}
    return (
        '"'
        + "".join(escapes.get(b) or (chr(b) if 0x20 <= b < 0x7F else f"\\{b:03o}") for b in value.encode())
        + '"'
    )


def views(message: Any) -> list[FieldView]:
    """The fields that are set, in the order of their numbers."""
    return [_view(descriptor, value) for descriptor, value in message.ListFields()]


def _view(descriptor: Any, value: Any) -> FieldView:
    if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
        return FieldView(
            descriptor.name, True, True, tuple(_entry(descriptor, k, value[k]) for k in sorted(value))
        )
    repeated = (
        not hasattr(value, "DESCRIPTOR") and hasattr(value, "__len__") and not isinstance(value, str | bytes)
    )
    items = tuple(value) if repeated else (value,)
    if descriptor.message_type is not None:
        return FieldView(descriptor.name, repeated, True, tuple(views(item) for item in items))
    return FieldView(descriptor.name, repeated, False, tuple(_scalar(descriptor, item) for item in items))


def _entry(descriptor: Any, key: Any, value: Any) -> list[FieldView]:
    """One entry of a map, which text proto writes as {key: …, value: …}."""
    fields = descriptor.message_type.fields_by_name
    value_descriptor = fields["value"]
    if value_descriptor.message_type is not None:
        shown = FieldView("value", False, True, (views(value),))
    else:
        shown = FieldView("value", False, False, (_scalar(value_descriptor, value),))
    return [FieldView("key", False, False, (_scalar(fields["key"], key),)), shown]


def _scalar(descriptor: Any, value: Any) -> Any:
    if descriptor.enum_type is not None:
        known = descriptor.enum_type.values_by_number.get(value)
        return Verbatim(value if known is None else known.name)
    if isinstance(value, str):
        return Verbatim(quoted(value))
    return Verbatim(repr(value)) if isinstance(value, float) else value
