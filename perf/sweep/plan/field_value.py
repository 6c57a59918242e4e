"""A place in Triton's model config and what was given for it → the value as the proto's type says; pure.

Numbers, words and text are read from the text that was written, each by its field's type: `1e3` is text where the
field holds text, and no whole number where it holds one. Whoever catches an error here finds in `seen` the piece of
text that is wrong, and in `fix` what was probably meant in its place, or None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from tritonsmith.builder.base.errors import UsageError, nearest
from tritonsmith.builder.base.triton_proto import is_map, is_repeated, model_config_pb2
from tritonsmith.perf.sweep.plan.config_path import Place

CLIENT = "client"
CLIENT_BATCH = f"{CLIENT}.batch_size"
"""The one path of a space that is the client's, not the model config's."""
MOST_OF_A_RANGE = 10_000
_LEAST = {
    CLIENT_BATCH: 1,
    "inference.ModelConfig.max_batch_size": 0,
    "inference.ModelInstanceGroup.count": 1,  # Triton takes 0 and less for its default
    "inference.ModelDynamicBatching.preferred_batch_size": 1,
}
"""Path or field → the least that means anything, where its type takes less."""
_MAX_FLOAT = 3.4028234663852886e38
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)", re.ASCII)
_WHOLE = re.compile(r"-?(?:0|[1-9]\d*)", re.ASCII)
_REAL = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_LEADING_ZEROS = re.compile(r"-?0+\d+(?:\.\d*)?", re.ASCII)
_MOST_DIGITS = 40


def client_batch() -> Place:
    """The place of client.batch_size: a number as max_batch_size is one."""
    return Place(
        CLIENT_BATCH, model_config_pb2().ModelConfig.DESCRIPTOR.fields_by_name["max_batch_size"], False
    )


def values_of(place: Place, given: Any) -> list[Any]:
    """One item of what is to be tried: a range `1..4` of whole numbers is each of them, anything else one value."""
    match = _RANGE.fullmatch(given) if isinstance(given, str) and is_whole(place) else None
    if match is None:
        return [value_of(place, given)]
    low, high = (value_of(place, end) for end in match.groups())
    if low > high:
        raise _bad(place.path, "ranges that go up", given, ["LOW..HIGH"], f"{high}..{low}")
    if high - low >= MOST_OF_A_RANGE:
        raise _bad(place.path, "no range of so many values", given, [f"up to {MOST_OF_A_RANGE} values"])
    return list(range(low, high + 1))


def value_of(place: Place, given: Any) -> Any:
    """The value as proto JSON has it; None takes the field away. UsageError `bad_value` when its type is another."""
    if given is None and place.path == CLIENT_BATCH:
        raise _bad(place.path, "a whole number, and is always there", "null", ["1 and more"])
    return _value(place.path, place.field, given, place.is_list)


def is_text(place: Place) -> bool:
    """Whether a value is a string: then it is what is written, whatever it looks like."""
    return not place.is_list and place.field.cpp_type == place.field.CPPTYPE_STRING


def is_whole(place: Place) -> bool:
    """Whether a value is one whole number."""
    return not place.is_list and place.field.cpp_type in _whole_types(place.field)


def example_of(place: Place) -> str:
    """Two values as they may stand on the command line."""
    field = place.field
    if is_whole(place):
        return "1,2"
    if field.cpp_type == field.CPPTYPE_ENUM and not place.is_list:
        return ",".join(value.name for value in field.enum_type.values[:2])
    if field.message_type is not None:
        return "null,[{}]" if place.is_list else "null,{}"
    if place.is_list:
        return "[4],[8]" if field.cpp_type in _whole_types(field) else "[V1],[V2]"
    return {field.CPPTYPE_BOOL: "true,false", field.CPPTYPE_STRING: "TEXT1,TEXT2"}.get(
        field.cpp_type, "0.5,1"
    )


def _value(path: str, field: Any, given: Any, is_list: bool) -> Any:
    if given is None:
        return None
    if is_list:
        if not isinstance(given, list | tuple):
            raise _bad(path, "a list", given, ["[VALUE,VALUE…]"], f"[{given}]")
        return [_element(f"{path}[{i}]", field, item) for i, item in enumerate(given)]
    if is_map(field):
        of_value = field.message_type.fields_by_name["value"]
        return _entries(path, _mapping(path, "a map", given), lambda key: (of_value, False))
    if field.message_type is not None:
        return _message(path, field.message_type, given)
    if isinstance(given, Mapping | list | tuple):
        raise _bad(path, _words(path, field), given, _valid(path, field))
    read: Callable[[str, Any, str], Any] = _READERS.get(field.cpp_type, _whole)
    return read(path, field, _text(given))


def _element(path: str, field: Any, given: Any) -> Any:
    if given is None:
        raise _bad(path, "no null: it takes whole fields away", "null", [])
    return _value(path, field, given, False)


def _message(path: str, message: Any, given: Any) -> dict[str, Any]:
    if message.full_name == "inference.ModelParameter" and not isinstance(given, Mapping | list | tuple):
        given = {"string_value": given}
    names = message.fields_by_name

    def of_name(name: str) -> tuple[Any, bool]:
        if name not in names:
            raise UsageError(
                f"{path} has no field '{name}'",
                code="unknown_field",
                seen=name,
                valid=sorted(names),
                fix=nearest(name, names),
            )
        return names[name], is_repeated(names[name]) and not is_map(names[name])

    return _entries(path, _mapping(path, "a message", given, sorted(names)), of_name)


def _mapping(path: str, what: str, given: Any, names: Iterable[str] = ()) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        valid = ["null", "{}", *(f"{path}.{name}=…" for name in names)]
        raise _bad(path, what, given, valid)
    return given


def _entries(
    path: str, given: Mapping[str, Any], of_name: Callable[[str], tuple[Any, bool]]
) -> dict[str, Any]:
    read = {
        name: _value(f"{path}.{name}", of_name(name)[0], value, of_name(name)[1])
        for name, value in given.items()
    }
    return {name: value for name, value in read.items() if value is not None}


# Scalars, from their text.


def _text(given: Any) -> str:
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, Integral):
        return str(int(given))
    return repr(float(given)) if isinstance(given, Real) else str(given)


def _whole(path: str, field: Any, text: str) -> int:
    low, high = _limits(path, field)
    if len(text) > _MOST_DIGITS or not _WHOLE.fullmatch(text):
        raise _no_number(path, field, text)
    if not low <= int(text) <= high:
        raise _bad(path, _words(path, field), text, _valid(path, field))
    return int(text)


def _real(path: str, field: Any, text: str) -> float:
    if len(text) > _MOST_DIGITS or not _REAL.fullmatch(text):
        raise _no_number(path, field, text)
    value = float(text)
    most = _MAX_FLOAT if field.cpp_type == field.CPPTYPE_FLOAT else math.inf
    if not math.isfinite(value) or abs(value) > most:
        raise _bad(path, f"a finite number ({_type(field)})", text, [])
    return value


def _no_number(path: str, field: Any, text: str) -> UsageError:
    """What looks like a number elsewhere (octal, hexadecimal, 1e3, base 60) is told apart from what is none."""
    if len(text) <= _MOST_DIGITS and _LEADING_ZEROS.fullmatch(text):
        plain = re.sub(r"^(-?)0+(?=\d)", r"\1", text)
        return _bad(
            path,
            f"{_words(path, field)}, without leading zeros: octal numbers are not read",
            text,
            _valid(path, field),
            plain,
        )
    return _bad(path, _words(path, field), text, _valid(path, field), _meant(path, field, text))


def _meant(path: str, field: Any, text: str) -> str | None:
    """The number that `1e3`, `0x10`, `1_000`, `+2` or `2.0` stands for elsewhere, where the field takes it."""
    plain = text.replace("_", "")
    try:
        value = int(plain, 0) if re.fullmatch(r"[+-]?0[xXoObB][0-9a-fA-F]+", plain) else float(plain)
    except ValueError:
        return None
    if not math.isfinite(value) or (field.cpp_type in _whole_types(field) and value != int(value)):
        return None
    low, high = _limits(path, field)
    return (f"{int(value)}" if value == int(value) else f"{value!r}") if low <= value <= high else None


def _truth(path: str, field: Any, text: str) -> bool:
    if text not in ("true", "false"):
        meant = {"true": ("yes", "on", "1", "true", "y"), "false": ("no", "off", "0", "false", "n")}
        close = next((word for word, others in meant.items() if text.lower() in others), None)
        raise _bad(path, _words(path, field), text, ["true", "false"], close)
    return text == "true"


def _name(path: str, field: Any, text: str) -> str:
    names = [value.name for value in field.enum_type.values]
    if text not in names:
        word = text.upper()
        close = next((n for n in names if f"_{n}".endswith(f"_{word}")), None) or nearest(word, names)
        raise _bad(path, f"one of the names of {field.enum_type.name}", text, names, close)
    return text


def _string(path: str, field: Any, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad(path, "text in UTF-8", ascii(text), []) from None
    return text


# google.protobuf.descriptor.FieldDescriptor.CPPTYPE_*, those that are no whole number.
_READERS: Mapping[int, Callable[[str, Any, str], Any]] = {5: _real, 6: _real, 7: _truth, 8: _name, 9: _string}


def _whole_types(field: Any) -> tuple[int, ...]:
    return field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT32, field.CPPTYPE_UINT64


def _limits(path: str, field: Any) -> tuple[float, float]:
    ends: Mapping[int, tuple[float, float]] = {
        field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
        field.CPPTYPE_UINT32: (0, 2**32 - 1),
        field.CPPTYPE_UINT64: (0, 2**64 - 1),
    }
    low, high = ends.get(field.cpp_type, (-_MAX_FLOAT, _MAX_FLOAT))
    return max(low, _LEAST.get(path, _LEAST.get(field.full_name, low))), high


def _type(field: Any) -> str:
    names = {1: "int32", 2: "int64", 3: "uint32", 4: "uint64", 5: "double", 6: "float"}
    return names.get(field.cpp_type, "")


def _words(path: str, field: Any) -> str:
    if field.cpp_type in _whole_types(field):
        return f"a whole number ({_type(field)})"
    words = {
        5: "a number (double)",
        6: "a number (float)",
        7: "true or false",
        8: "one of the names",
        9: "text",
    }
    return words[field.cpp_type]


def _valid(path: str, field: Any) -> list[str]:
    if field.cpp_type in _whole_types(field):
        low, high = _limits(path, field)
        return [f"{low} to {high}"]
    if field.cpp_type == field.CPPTYPE_ENUM:
        return [value.name for value in field.enum_type.values]
    return []


def _bad(path: str, what: str, given: Any, valid: Iterable[object], meant: str | None = None) -> UsageError:
    seen = given if isinstance(given, str) else repr(given)
    return UsageError(f"{path} takes {what}", code="bad_value", seen=seen, valid=valid, fix=meant)
