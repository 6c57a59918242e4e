"""A protobuf descriptor → its messages, by Hypothesis or from a seed: every field, at its limits too."""

from __future__ import annotations

import random
import struct
from functools import cache
from typing import Any

from hypothesis import strategies as st

from tritonsmith.builder.base.triton_proto import is_repeated, model_config_pb2

# google.protobuf.descriptor.FieldDescriptor.CPPTYPE_*
_INT32, _INT64, _UINT32, _UINT64, _DOUBLE, _FLOAT, _BOOL, _ENUM, _STRING, _MESSAGE = range(1, 11)

# Words that YAML, Jinja or text proto could take for something else.
TRAPS = (
    "",
    "true",
    "null",
    "1",
    "1e5",
    "a: b",
    "- x",
    "{{ x }}",
    "#",
    '"',
    "\\n",
    "\n",
    "\x00",
    "\x857",
    "ü😀",
    "<<",
)
TEXT = st.one_of(
    st.sampled_from(TRAPS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
_SCALARS: dict[int, Any] = {
    _INT32: st.integers(-(2**31), 2**31 - 1),
    _INT64: st.integers(-(2**63), 2**63 - 1),
    _UINT32: st.integers(0, 2**32 - 1),
    _UINT64: st.integers(0, 2**64 - 1),
    _DOUBLE: st.floats(allow_nan=False),
    _FLOAT: st.floats(width=32, allow_nan=False),
    _BOOL: st.booleans(),
    _STRING: TEXT,
}


def is_map(field: Any) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def _single(field: Any) -> Any:
    if field.cpp_type == _ENUM:
        # A number that no name has is valid in text proto: a later release may have one.
        return st.sampled_from([*(v.number for v in field.enum_type.values), 9999])
    return messages(field.message_type) if field.cpp_type == _MESSAGE else _SCALARS[field.cpp_type]


@cache
def values(field: Any) -> Any:
    """What the field's keyword of the message class takes."""
    if is_map(field):
        inner = field.message_type.fields_by_name
        return st.dictionaries(_single(inner["key"]), _single(inner["value"]), max_size=2)
    return st.lists(_single(field), max_size=2) if is_repeated(field) else _single(field)


@cache
def messages(descriptor: Any) -> Any:
    """Messages with any of the fields set, at most one of each oneof; a set field may hold its default."""

    @st.composite
    def draw_message(draw: Any) -> Any:
        names = draw(st.lists(st.sampled_from([f.name for f in descriptor.fields]), unique=True, max_size=4))
        taken: set[str] = set()
        message = model_class(descriptor)()
        for name in names:
            field = descriptor.fields_by_name[name]
            if field.containing_oneof is not None and field.containing_oneof.name in taken:
                continue
            if field.containing_oneof is not None:
                taken.add(field.containing_oneof.name)
            set_field(message, field, draw(values(field)))
        return message

    return draw_message() if descriptor.fields else st.just(model_class(descriptor)())


def random_message(descriptor: Any, rng: random.Random) -> Any:
    """The same without Hypothesis, twenty times as fast: for large numbers of them."""
    message = model_class(descriptor)()
    taken: set[str] = set()
    for field in rng.sample(list(descriptor.fields), rng.randint(0, min(4, len(descriptor.fields)))):
        group = field.containing_oneof.name if field.containing_oneof is not None else field.name
        if group not in taken:
            taken.add(group)
            set_field(message, field, _random_value(field, rng))
    return message


def _random_value(field: Any, rng: random.Random) -> Any:
    if is_map(field):
        inner = field.message_type.fields_by_name
        return {
            _random_single(inner["key"], rng): _random_single(inner["value"], rng)
            for _ in range(rng.randint(0, 2))
        }
    if is_repeated(field):
        return [_random_single(field, rng) for _ in range(rng.randint(0, 3))]
    return _random_single(field, rng)


def _random_single(field: Any, rng: random.Random) -> Any:
    kind = field.cpp_type
    if kind == _MESSAGE:
        return random_message(field.message_type, rng)
    if kind == _ENUM:
        return rng.choice([*(v.number for v in field.enum_type.values), 9999])
    if kind == _BOOL:
        return rng.random() < 0.5
    if kind == _STRING:
        return (
            rng.choice(TRAPS)
            if rng.random() < 0.3
            else "".join(map(_random_letter, [rng] * rng.randint(0, 6)))
        )
    if kind in (_DOUBLE, _FLOAT):
        value = rng.choice(
            [0.0, -0.0, 1.0, 1e-5, 0.1, float("inf"), rng.gauss(0, 1) * 10.0 ** rng.randint(-30, 30)]
        )
        return value if kind == _DOUBLE else struct.unpack("f", struct.pack("f", value))[0]
    bits = 31 if kind in (_INT32, _UINT32) else 63
    low, high = (0, 2 ** (bits + 1) - 1) if kind in (_UINT32, _UINT64) else (-(2**bits), 2**bits - 1)
    return rng.choice([low, high, 0 if low else 1, min(high, rng.randint(1, 1 << rng.randint(1, bits)))])


def _random_letter(rng: random.Random) -> str:
    number = rng.choice([rng.randint(0, 0x7F), rng.randint(0x80, 0xD7FF), rng.randint(0xE000, 0x10FFFF)])
    return chr(number)


def model_class(descriptor: Any) -> Any:
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(descriptor)


def set_field(message: Any, field: Any, value: Any) -> None:
    """message.field = value, whatever the field's kind."""
    if is_map(field):
        for key, item in value.items():
            if hasattr(item, "DESCRIPTOR"):
                getattr(message, field.name)[key].CopyFrom(item)
            else:
                getattr(message, field.name)[key] = item
    elif is_repeated(field):
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, value)


def model_config_descriptor() -> Any:
    return model_config_pb2().ModelConfig.DESCRIPTOR
