"""Dotted paths into Triton's model config (`instance_group.count`) → configs with values set there; pure.

The names, nesting and types are those of Triton's own model_config.proto. A path through a repeated message
means each of its elements, `instance_group[0].count` one of them; `null` takes a field away.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from tritonsmith.builder.base.errors import UsageError, nearest
from tritonsmith.builder.base.triton_proto import is_repeated, model_config_pb2

Config = Mapping[str, Any]
"""A model config as proto JSON with proto field names, as Triton's load API takes it."""

_SEGMENT = re.compile(r"^([A-Za-z_][\w-]*)(?:\[(\d+)\])?$")


def check_path(path: str) -> None:
    """UsageError `unknown_field` when Triton's model config has no such field, with the nearest name."""
    descriptor: Any = model_config_pb2().ModelConfig.DESCRIPTOR
    walked: list[str] = []
    segments = path.split(".")
    position = 0
    while position < len(segments):
        name, _ = _split(segments[position], path)
        if descriptor is None:
            raise UsageError(
                f"{'.'.join(walked)} is a value and has no field '{name}'", code="unknown_field", seen=path
            )
        field = descriptor.fields_by_name.get(name)
        if field is None:
            raise _unknown(path, walked, name, descriptor)
        walked.append(segments[position])
        descriptor = field.message_type
        position += 1
        if descriptor is not None and descriptor.GetOptions().map_entry:
            position += 1  # the map's key is any word
            descriptor = descriptor.fields_by_name["value"].message_type
    if path.partition(".")[0].partition("[")[0] == "name":
        raise UsageError("a model's name is not a setting", code="unknown_field", seen=path)


def _split(segment: str, path: str) -> tuple[str, int | None]:
    match = _SEGMENT.match(segment)
    if match is None:
        raise UsageError(
            "not a path into the model config",
            code="bad_path",
            seen=path,
            fix="--set instance_group.count=1,2",
        )
    return match[1], None if match[2] is None else int(match[2])


def _unknown(path: str, walked: list[str], name: str, descriptor: Any) -> UsageError:
    names = sorted(descriptor.fields_by_name)
    close = nearest(name, names)
    fix = ".".join([*walked, close]) if close else _path_that_ends_in(name)
    where = f"{'.'.join(walked)} has" if walked else "Triton's model config has"
    return UsageError(
        f"{where} no field '{name}'",
        code="unknown_field",
        seen=path,
        valid=() if fix else names,
        fix=f"{fix}" if fix else None,
    )


def _path_that_ends_in(name: str) -> str | None:
    """`max_queue_delay_microseconds` alone → its whole path, when only its parent was forgotten."""
    leaves: dict[str, str] = {}
    for field in model_config_pb2().ModelConfig.DESCRIPTOR.fields:
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for child in field.message_type.fields:
                leaves.setdefault(child.name, f"{field.name}.{child.name}")
    close = nearest(name, leaves)
    return leaves[close] if close else None


def with_values(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the config with each path set; UsageError when Triton's proto does not take a value."""
    result = copy.deepcopy(dict(config))
    for path, value in values.items():
        check_path(path)
        _set(result, path.split("."), value, model_config_pb2().ModelConfig.DESCRIPTOR, path)
        _parsed(result, f"{path} = {value!r}")
    return result


def _set(target: dict[str, Any], segments: list[str], value: Any, descriptor: Any, path: str) -> None:
    name, index = _split(segments[0], path)
    field: Any = descriptor.fields_by_name.get(name) if descriptor is not None else None
    rest = segments[1:]
    is_map = bool(field and field.message_type and field.message_type.GetOptions().map_entry)
    if not rest:
        _put(target, name, index, value, path)
    elif is_map:
        entries = target.setdefault(name, {})
        child = field.message_type.fields_by_name["value"].message_type
        if len(rest) == 1:
            _put(entries, rest[0], None, value, path)
        else:
            _set(entries.setdefault(rest[0], {}), rest[1:], value, child, path)
    elif field is not None and is_repeated(field):
        for element in _elements(target.setdefault(name, []), index, path):
            _set(element, rest, value, field.message_type, path)
    else:
        _set(target.setdefault(name, {}), rest, value, field.message_type if field else None, path)


def _put(target: dict[str, Any], name: str, index: int | None, value: Any, path: str) -> None:
    if value is None:
        target.pop(name, None)
    elif index is not None:
        elements = target.setdefault(name, [])
        _check_index(elements, index, path)
        elements[index] = value
    else:
        target[name] = value


def _elements(elements: list[dict[str, Any]], index: int | None, path: str) -> list[dict[str, Any]]:
    if index is not None:
        _check_index(elements, index, path)
        return [elements[index]]
    if not elements:
        elements.append({})
    return elements


def _check_index(elements: list[Any], index: int, path: str) -> None:
    if index >= len(elements):
        raise UsageError(f"there are {len(elements)} elements, counted from 0", code="bad_path", seen=path)


def _parsed(config: Config, what: str) -> Any:
    from google.protobuf import json_format

    message = model_config_pb2().ModelConfig()
    try:
        json_format.ParseDict(dict(config), message, ignore_unknown_fields=True)
    except json_format.ParseError as error:
        reason = str(error).rpartition(" field: ")[2].rstrip(".")
        raise UsageError(f"Triton's model config does not take {what}: {reason}", code="bad_value") from None
    return message


def identity(config: Config) -> bytes:
    """Equal for configs that mean the same, whatever the spelling; the name is not part of it."""
    message = _parsed({key: value for key, value in config.items() if key != "name"}, "this config")
    for group in message.instance_group:
        group.name = ""  # Triton makes it from the model's name
    return bytes(message.SerializeToString(deterministic=True))


def read(config: Config, path: str) -> Any:
    """The value at a path; a list over the elements of a repeated message; None when unset."""
    values = _read([dict(config)], path.split("."), path)
    return values[0] if len(values) == 1 else values or None


def _read(nodes: list[Any], segments: list[str], path: str) -> list[Any]:
    for segment in segments:
        name, index = _split(segment, path) if _SEGMENT.match(segment) else (segment, None)
        found: list[Any] = []
        for node in nodes:
            if not isinstance(node, Mapping) or name not in node:
                continue
            value = node[name]
            if isinstance(value, list) and value and isinstance(value[0], Mapping):
                found += value if index is None else value[index : index + 1]
            else:
                found.append(value)
        nodes = found
    return nodes


def differences(meant: Config, seen: Config, paths: Mapping[str, Any]) -> list[str]:
    """Where the server's config is not the one that was sent, of the paths that were set.

    KIND_AUTO may have become the kind that Triton chose, and an unset number may read as 0.
    """
    result = []
    normal_meant, normal_seen = _normal(meant), _normal(seen)
    for path in paths:
        want, got = read(normal_meant, path), read(normal_seen, path)
        if want == got or read(meant, path) == "KIND_AUTO" or (not want and not got):
            continue
        result.append(f"{path} is {got}, not {want}")
    return result


def _normal(config: Config) -> dict[str, Any]:
    from google.protobuf import json_format

    message = _parsed(config, "this config")
    normal: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return normal


def label(values: Mapping[str, Any]) -> str:
    """`count 2, max_queue_delay 500 µs`: the shortest words that still tell arms apart."""
    return ", ".join(f"{short_name(path)} {_short_value(path, value)}" for path, value in values.items())


def short_name(path: str) -> str:
    """`dynamic_batching.max_queue_delay_microseconds` → `max_queue_delay`."""
    last = path.rpartition(".")[2]
    return last.removesuffix("_microseconds") if path.startswith("dynamic_batching") else last


def _short_value(path: str, value: Any) -> str:
    if value is None:
        return "off"
    if path.endswith("_microseconds"):
        return f"{value} µs"
    if isinstance(value, list):
        return "/".join(map(str, value))
    return "on" if value == {} else str(value)
