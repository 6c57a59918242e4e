"""A YAML file → plain data plus the line of every key and value; duplicate keys are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from builder.errors import SpecError, Where

KeyPath = tuple[str | int, ...]

_MAX_DEPTH = 100
_MAX_NODES = 1_000_000


@dataclass(frozen=True, slots=True)
class YamlSource:
    """data: dicts, lists and scalars; lines: key path → line of that key (of a list's item: of its first token)."""

    path: Path
    data: Any
    lines: Mapping[KeyPath, int]

    def where(self, key_path: KeyPath) -> Where:
        """The place of the key, or of the nearest enclosing key that the file has."""
        for end in range(len(key_path), -1, -1):
            line = self.lines.get(key_path[:end])
            if line is not None:
                return Where(self.path, line)
        return Where(self.path)


def read_yaml(path: Path) -> YamlSource:
    """Reads one YAML document safely; SpecError for a missing file, bad syntax or a duplicate key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(
            "there is no such spec file",
            code="spec_missing",
            where=Where(path),
            fix="tritonsmith build --spec PATH",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the spec: {error}", code="spec_unreadable", where=Where(path)) from None
    try:
        # libyaml's parser, where PyYAML has it, reads ten times as fast.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        _refuse_deep(text, loader, path)
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(
            f"not valid YAML: {error.problem or error.context}",
            code="yaml_syntax",
            where=Where(path, None if mark is None else mark.line + 1),
        ) from None
    except yaml.YAMLError as error:
        raise SpecError(f"not valid YAML: {error}", code="yaml_syntax", where=Where(path)) from None
    lines: dict[KeyPath, int] = {}
    data = None if node is None else _plain(node, (), lines, path)
    return YamlSource(path, data, lines)


def _refuse_deep(text: str, loader: Any, path: Path) -> None:
    """SpecError for deep nesting, told from the flat stream of events: composing recurses, in C without a limit."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise _too_deep(Where(path, event.start_mark.line + 1 if event.start_mark else None))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _too_deep(where: Where) -> SpecError:
    return SpecError(f"nested deeper than {_MAX_DEPTH} levels", code="yaml_depth", where=where)


def _plain(node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], path: Path) -> Any:
    lines.setdefault(at, node.start_mark.line + 1)
    if len(at) > _MAX_DEPTH:  # an alias inside what it names
        raise _too_deep(Where(path, lines[at]))
    if len(lines) > _MAX_NODES:  # aliases of aliases: a few lines that mean gigabytes
        raise SpecError(f"more than {_MAX_NODES} values", code="yaml_size", where=Where(path, lines[at]))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, at, lines, path)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*at, index), lines, path) for index, item in enumerate(node.value)]
    return _scalar(node, path)


def _mapping(node: yaml.MappingNode, at: KeyPath, lines: dict[KeyPath, int], path: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        where = Where(path, key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise SpecError("a key must be a plain word", code="yaml_key", where=where)
        if key_node.tag == "tag:yaml.org,2002:merge":
            raise SpecError(
                "YAML merge keys (<<) are not supported",
                code="yaml_merge",
                where=where,
                fix="put shared keys under `defaults:`",
            )
        key = str(key_node.value)
        here: KeyPath = (*at, key)
        if key in result:
            raise SpecError(
                f"{key!r} is there twice; the first is on line {lines[here]}",
                code="duplicate_key",
                where=where,
                fix="rename or remove one of the two",
            )
        lines[here] = key_node.start_mark.line + 1
        result[key] = _plain(value_node, here, lines, path)
    return result


def _scalar(node: yaml.Node, path: Path) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(
            f"not valid YAML: {error}", code="yaml_value", where=Where(path, node.start_mark.line + 1)
        ) from None
    finally:
        loader.dispose()
