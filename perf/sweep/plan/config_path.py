"""Dotted paths into Triton's model config (`instance_group.count`) → configs with values set there; pure.

The names, nesting and types are those of Triton's own model_config.proto. A path through a repeated message
means each of its elements, `instance_group[0].count` one of them; None takes a field away. A map's key with dots is
quoted, `parameters."a.b"`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.base.errors import UsageError, nearest
from tritonsmith.builder.base.triton_proto import is_map, is_repeated, model_config_pb2
from tritonsmith.builder.lint.read.server_defaults import without_server_defaults

Config = Mapping[str, Any]
"""A model config as proto JSON with proto field names, as Triton's load API takes it."""

Segment = tuple[str, int | None]
"""A field's name or a map's key, and the element that is meant of a repeated field."""

ENGINE = "engine"
"""Beside Triton's fields: what model.json says to the engine of a language model, as models.yaml names it."""

_SEGMENT = re.compile(
    r"""(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<plain>[^."'\[\]\s]+))(?:\[(?P<index>\d{1,9})\])?(?:\.(?=.)|\Z)"""
)
_PLAIN_KEY = re.compile(r"[\w/-]+")
_PARAMETER = "inference.ModelParameter"
_FEW = 12


def segments_of(path: str) -> tuple[Segment, ...]:
    """`a.b[0]."c.d"` → ((a, None), (b, 0), (c.d, None)); UsageError `bad_path` for what is no path."""
    segments: list[Segment] = []
    at = 0
    while at < len(path) or not segments:
        match = _SEGMENT.match(path, at)
        if match is None:
            raise UsageError(
                "not a path into the model config",
                code="bad_path",
                seen=path,
                valid=["instance_group.count", "instance_group[0].count", 'parameters."dotted.key"'],
            )
        name = next(part for part in match.group("plain", "double", "single") if part is not None)
        segments.append((name, None if match["index"] is None else int(match["index"])))
        at = match.end()
    return tuple(segments)


def path_of(segments: Sequence[Segment]) -> str:
    """The inverse of segments_of; names are quoted where they have to be."""

    def text(name: str, index: int | None) -> str:
        sign = "'" if '"' in name else '"'
        shown = name if _PLAIN_KEY.fullmatch(name) else f"{sign}{name}{sign}"
        return shown if index is None else f"{shown}[{index}]"

    return ".".join(text(*segment) for segment in segments)


def model_and_path(path: str) -> tuple[str, str]:
    """`tokenizer:instance_group.count` → (tokenizer, instance_group.count); without a model the first is empty."""
    model, colon, inner = path.partition(":")
    return (model, inner) if colon and '"' not in model and "'" not in model else ("", path)


@dataclass(frozen=True, slots=True)
class Place:
    """What a path leads to.

    path:    spelled in the one way that all spellings of it have in common.
    field:   FieldDescriptor, of a map's entry the one of its value.
    is_list: whether a value is a list of what the field holds.
    """

    path: str
    field: Any
    is_list: bool


def place_of(path: str) -> Place:
    """Where the path leads; UsageError `unknown_field`, with the nearest name, when Triton's model config has no such field.

    `parameters.K` is its string_value, the only kind of value that a parameter has.
    """
    descriptor: Any = model_config_pb2().ModelConfig.DESCRIPTOR
    walked: list[Segment] = []
    left = list(segments_of(path))
    key_at: int | None = None  # where the key of the innermost map stands
    field: Any = None
    is_list = False
    while left:
        name, index = left.pop(0)
        field = None if descriptor is None else descriptor.fields_by_name.get(name)
        if field is None:
            raise _unknown(path, walked, [(name, index), *left], descriptor, key_at)
        if index is not None and (is_map(field) or not is_repeated(field)):
            raise UsageError(
                f"{name} is no list, it has no [{index}]",
                code="bad_path",
                seen=path,
                fix=path_of([*walked, (name, None), *left]),
            )
        walked.append((name, index))
        is_list = is_repeated(field) and not is_map(field) and index is None
        descriptor = field.message_type
        if is_map(field) and left:
            key_at = len(walked)
            walked.append(_key(field, *left.pop(0), path))
            field = descriptor.fields_by_name["value"]
            descriptor = field.message_type
            if not left and descriptor is not None and descriptor.full_name == _PARAMETER:
                left = [("string_value", None)]
    return Place(path_of(walked), field, is_list)


def _key(field: Any, key: str, index: int | None, path: str) -> Segment:
    if index is not None:
        quoted = path_of([(f"{key}[{index}]", None)])
        raise UsageError(
            f"{field.name} is a map, whose keys with brackets are quoted: {quoted}",
            code="bad_path",
            seen=path,
        )
    if field.message_type.fields_by_name["key"].cpp_type != field.CPPTYPE_STRING and not key.isdecimal():
        raise UsageError(f"the keys of {field.name} are whole numbers", code="bad_path", seen=path)
    return key, None


def _unknown(
    path: str, walked: Sequence[Segment], rest: Sequence[Segment], descriptor: Any, key_at: int | None
) -> UsageError:
    names = sorted(descriptor.fields_by_name) if descriptor is not None else []
    (name, index), deeper = rest[0], rest[1:]
    close = nearest(name, names)
    if close:
        fix: str | None = path_of([*walked, (close, index), *deeper])
    elif key_at is not None:  # a map's key with dots
        key = ".".join(name for name, _ in [*walked[key_at:], *rest])
        fix = path_of([*walked[:key_at], (key, None)])
    else:
        fix = None if walked else _path_that_ends_in(name)
    where = path_of(walked) if walked else "Triton's model config"
    what = "has no field" if names else "is a value and has no field"
    return UsageError(
        f"{where} {what} '{name}'",
        code="unknown_field",
        seen=path,
        valid=names if fix is None or len(names) <= _FEW else (),
        fix=fix,
    )


def _path_that_ends_in(name: str) -> str | None:
    """`max_queue_delay_microseconds` alone → its whole path, when only its parent was forgotten."""
    leaves: dict[str, str] = {}
    for field in model_config_pb2().ModelConfig.DESCRIPTOR.fields:
        if field.message_type is not None and not is_map(field):
            for child in field.message_type.fields:
                leaves.setdefault(child.name, f"{field.name}.{child.name}")
    close = nearest(name, leaves)
    return leaves[close] if close else None


def with_values(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the config with each path set; UsageError when Triton's proto does not take a value."""
    result = copy.deepcopy(dict(config))
    for path, value in values.items():
        segments = segments_of(path if is_of_engine(path) else place_of(path).path)
        if is_of_engine(path):
            _put(result.setdefault(ENGINE, {}), segments[1][0], None, value, path)
            continue
        _set(result, segments, value, model_config_pb2().ModelConfig.DESCRIPTOR, path)
        _parsed(result, f"{path} = {value!r}")
    return result


def is_of_engine(path: str) -> bool:
    """`engine.max_num_seqs`: a place in model.json, not in Triton's model config."""
    return path.startswith(f"{ENGINE}.")


def _set(target: dict[str, Any], segments: Sequence[Segment], value: Any, descriptor: Any, path: str) -> None:
    (name, index), rest = segments[0], segments[1:]
    field = descriptor.fields_by_name[name]
    if not rest:
        _put(target, name, index, value, path)
    elif is_map(field):
        entries = target.setdefault(name, {})
        key = rest[0][0]
        if len(rest) == 1:
            _put(entries, key, None, value, path)
        else:
            child = field.message_type.fields_by_name["value"].message_type
            _set(entries.setdefault(key, {}), rest[1:], value, child, path)
    elif is_repeated(field):
        for element in _elements(target.setdefault(name, []), index, path):
            _set(element, rest, value, field.message_type, path)
    else:
        _set(target.setdefault(name, {}), rest, value, field.message_type, path)


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
    engine = config.get(ENGINE)
    own = b"" if engine is None else json.dumps(engine, sort_keys=True).encode()
    return bytes(message.SerializeToString(deterministic=True)) + own


def read(config: Config, path: str) -> Any:
    """The value at a path; a list over the elements of a repeated message; None when unset."""
    values = _read([dict(config)], segments_of(path))
    return values[0] if len(values) == 1 else values or None


def _read(nodes: list[Any], segments: Sequence[Segment]) -> list[Any]:
    for name, index in segments:
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

    KIND_AUTO may have become the kind that Triton chose, an unset number may read as 0, and Triton writes out what holds
    anyway: `dynamic_batching {}` comes back with a preferred_batch_size of max_batch_size.
    """
    result = []
    forms = [(_normal(meant), _normal(seen)), (_normal(meant, bare=True), _normal(seen, bare=True))]
    for path in paths:
        values = [(read(a, path), read(b, path)) for a, b in forms]
        want, got = values[0]
        if any(a == b for a, b in values) or read(meant, path) == "KIND_AUTO" or (not want and not got):
            continue
        result.append(f"{path} is {got}, not {want}")
    return result


def _normal(config: Config, *, bare: bool = False) -> dict[str, Any]:
    """bare: without what a server adds to every config."""
    from google.protobuf import json_format

    message = _parsed(config, "this config")
    message = without_server_defaults(message) if bare else message
    normal: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return normal


def label(values: Mapping[str, Any]) -> str:
    """`count 2, max_queue_delay 500 µs`: the shortest words that still tell arms apart."""
    return ", ".join(f"{short_name(path)} {_short_value(path, value)}" for path, value in values.items())


def short_name(path: str) -> str:
    """`dynamic_batching.max_queue_delay_microseconds` → `max_queue_delay`; of a parameter its key."""
    names = [name for name, _ in segments_of(path)]
    last = names[1] if names[0] == "parameters" and len(names) > 1 else names[-1]
    return last.removesuffix("_microseconds") if path.startswith("dynamic_batching") else last


def _short_value(path: str, value: Any) -> str:
    if value is None:
        return "off"
    if path.endswith("_microseconds"):
        return f"{value} µs"
    if isinstance(value, list):
        return "/".join(map(str, value))
    return "on" if value == {} else str(value)
