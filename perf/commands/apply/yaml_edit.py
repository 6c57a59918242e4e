"""YAML text + a value at a key path → the text with that place alone changed; pure.

A round trip through a YAML writer moves comments when keys are added and respells what nobody asked about. So
the parser tells where each value stands, and only those characters are replaced: comments, quotes, order and
blank lines elsewhere stay as they are. The caller parses the result again and compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import yaml

KeyPath = Sequence["str | int"]


class _Remove:
    """The value that takes a key away."""


REMOVE = _Remove()


def with_value(text: str, path: KeyPath, value: Any) -> str:
    """The text with `value` at `path`; missing mappings on the way are added, REMOVE takes the key away.

    Each list element on the path must be there (KeyError). New text is in flow style, one line.
    """
    node, depth = _deepest(yaml.compose(text, Loader=yaml.SafeLoader), path)
    if value is REMOVE:
        return text if depth < len(path) else _without(text, path)
    rest = path[depth:]
    for key in reversed(rest[1:] if isinstance(node, yaml.MappingNode) else rest):
        if isinstance(key, int):
            raise KeyError(key)
        value = {key: value}
    if not rest or not isinstance(node, yaml.MappingNode):
        return _replaced(text, node, path[:depth], value)
    if isinstance(rest[0], int):
        raise KeyError(rest[0])
    return _inserted(text, node, str(rest[0]), value)


def with_comment_above(text: str, path: KeyPath, comment: str, mark: str) -> str:
    """The text with `# comment` on a line of its own above the key at `path`.

    A comment line right above that begins with `mark` is an earlier one of ours and makes way.
    """
    key, _ = _entry(text, path)
    lines = text.splitlines(keepends=True)
    at = _line_outside_scalars(text, key.start_mark.line)
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    if at > 0 and lines[at - 1].strip().startswith(f"# {mark}"):
        del lines[at - 1]
        at -= 1
    lines.insert(at, f"{indent}# {comment}{_newline(text)}")
    return "".join(lines)


def _line_outside_scalars(text: str, line: int) -> int:
    """The line, or the nearest above that does not begin inside a scalar of several lines."""
    starts = [0, *accumulate(map(len, text.splitlines(keepends=True)))]
    spans = list(_scalar_spans(yaml.compose(text, Loader=yaml.SafeLoader)))
    while any(begin < starts[line] < end for begin, end in spans):
        line -= 1
    return line


def _scalar_spans(node: Any) -> Iterator[tuple[int, int]]:
    if isinstance(node, yaml.ScalarNode):
        yield int(node.start_mark.index), int(node.end_mark.index)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (*_scalar_spans(key), *_scalar_spans(value))
    else:
        for item in node.value:
            yield from _scalar_spans(item)


def has_key(text: str, path: KeyPath) -> bool:
    """Whether the text has something at the path."""
    return _deepest(yaml.compose(text, Loader=yaml.SafeLoader), path)[1] == len(path)


def plain_with_value(data: Any, path: KeyPath, value: Any) -> None:
    """The same change on plain dicts and lists, in place: what the edited text must parse to."""
    for key in path[:-1]:
        if isinstance(data, dict) and data.get(key) is None:
            data[key] = {}
        data = data[key]
    if value is REMOVE:
        data.pop(path[-1], None)
    else:
        data[path[-1]] = value


def inline(value: Any) -> str:
    """A value as one line of YAML that may stand inside a flow collection."""
    text = yaml.safe_dump(
        [value], default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True
    )
    return text.strip()[1:-1]


def _deepest(node: Any, path: KeyPath) -> tuple[Any, int]:
    """The node of the longest prefix of the path that is there, and how long that is."""
    for depth, key in enumerate(path):
        child = _child(node, key)
        if child is None:
            return node, depth
        node = child[1]
    return node, len(path)


def _child(node: Any, key: str | int) -> tuple[Any, Any] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((k, v) for k, v in node.value if k.value == str(key)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key]
    return None


def _entry(text: str, path: KeyPath) -> tuple[Any, Any]:
    parent, depth = _deepest(yaml.compose(text, Loader=yaml.SafeLoader), path[:-1])
    found = _child(parent, path[-1]) if depth == len(path) - 1 else None
    if found is None:
        raise KeyError(path[-1])
    return found


def _end(text: str, node: Any) -> int:
    """Index behind the node's last character; a block collection's own mark lies behind comments after it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    end = int(node.end_mark.index)
    block_text = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    return len(text[:end].rstrip()) if block_text else end


def _replaced(text: str, node: Any, path: KeyPath, value: Any) -> str:
    start, end = int(node.start_mark.index), _end(text, node)
    if path and isinstance(path[-1], str):  # from the key on: a block value begins on a line below it
        key, _ = _entry(text, path)
        if node.start_mark.line > key.start_mark.line or start == end:
            start = text.index(":", key.end_mark.index) + 1
            return f"{text[:start]} {inline(value)}{text[max(start, end) :]}"
    return text[:start] + inline(value) + text[end:]


def _inserted(text: str, node: Any, key: str, value: Any) -> str:
    entry = f"{inline(key)}: {inline(value)}"
    if node.flow_style:
        if not node.value:
            start = int(node.start_mark.index) + text[node.start_mark.index :].index("{") + 1
            return text[:start] + entry + text[int(node.end_mark.index) - 1 :]
        end = _end(text, node.value[-1][1])
        return f"{text[:end]}, {entry}{text[end:]}"
    end = _end(text, node)
    newline = _newline(text)
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end - (newline == "\r\n")
    indent = " " * node.value[0][0].start_mark.column
    return f"{text[:line_end]}{newline}{indent}{entry}{text[line_end:]}"


def _without(text: str, path: KeyPath) -> str:
    parent, _ = _deepest(yaml.compose(text, Loader=yaml.SafeLoader), path[:-1])
    key, value = _entry(text, path)
    if len(parent.value) == 1:
        return _replaced(text, parent, path[:-1], {})
    end = _end(text, value)
    if not parent.flow_style:
        line_start = text.rfind("\n", 0, key.start_mark.index) + 1
        line_end = text.find("\n", end)
        return text[:line_start] + ("" if line_end < 0 else text[line_end + 1 :])
    position = next(i for i, (k, _) in enumerate(parent.value) if k is key or k.value == key.value)
    if position == 0:
        return text[: key.start_mark.index] + text[parent.value[1][0].start_mark.index :]
    return text[: _end(text, parent.value[position - 1][1])] + text[end:]


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
