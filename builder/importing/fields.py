"""ModelConfig message → the keys and values of models.yaml that mean the same message."""

from __future__ import annotations

import math
import struct
from typing import Any

from tritonsmith.builder.base.triton_proto import is_repeated

# google.protobuf.descriptor.FieldDescriptor.CPPTYPE_FLOAT
_FLOAT = 6


def fields_from_message(message: Any) -> dict[str, Any]:
    """Every set field but `name`, which models.yaml has as the model's key.

    Whole numbers stay numbers (protobuf's own JSON writes 64-bit ones as text), enums become their names,
    and an empty message that is set becomes `{}`.
    """
    return {d.name: _value(d, v) for d, v in message.ListFields() if d.name != "name"}


def _message(message: Any) -> dict[str, Any]:
    return {d.name: _value(d, v) for d, v in message.ListFields()}


def _value(descriptor: Any, value: Any) -> Any:
    if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
        item = descriptor.message_type.fields_by_name["value"]
        return {str(key): _single(item, value[key]) for key in sorted(value)}
    return [_single(descriptor, v) for v in value] if is_repeated(descriptor) else _single(descriptor, value)


def _single(descriptor: Any, value: Any) -> Any:
    if descriptor.message_type is not None:
        if descriptor.message_type.full_name == "inference.ModelParameter":
            return value.string_value
        return _message(value)
    if descriptor.enum_type is not None:
        known = descriptor.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return _shortest(value) if descriptor.cpp_type == _FLOAT else value


def _shortest(value: float) -> float:
    """The float with the fewest digits that is the same 32-bit number: 0.1, not 0.10000000149011612."""
    if not math.isfinite(value):
        return value
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if abs(short) <= 3.4028234663852886e38 and struct.pack("f", short) == struct.pack("f", value):
            return short
    return value
