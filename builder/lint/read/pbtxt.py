"""Protobuf text → ModelConfig message, a source map from field path to line, and what is wrong with the text.

Two readers look at the text. Ours walks it along the message's descriptor, remembers the line of every
field and goes on after a mistake, so that one run names them all. `google.protobuf.text_format` then
builds the message, and its verdict stands: text that it refuses is refused.

A field path is written as in the proto: `input[1].dims[0]`, `dynamic_batching.priority_levels`,
`ensemble_scheduling.step[0].input_map["x"]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tritonsmith.builder.base.errors import shortened, unknown
from tritonsmith.builder.base.triton_proto import is_repeated, model_config_pb2

MAX_BYTES = 1 << 20
"""Text longer than this is not read: the largest real config.pbtxt is a few hundred kilobytes."""

_MAX_BACKSLASHES = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the text. line: counts from 1; valid: what would have been accepted."""

    line: int
    message: str
    seen: str | None = None
    valid: tuple[str, ...] = ()
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedConfig:
    """A text as far as it could be read.

    message:  inference.ModelConfig, None when the text is refused.
    lines:    field path → line of the field's name, from 1.
    comments: line → comment text without the `#`.
    alone:    lines that hold a comment and nothing else.
    """

    message: Any | None
    lines: Mapping[str, int]
    comments: Mapping[int, str]
    problems: tuple[Problem, ...]
    alone: frozenset[int] = frozenset()

    def line_of(self, path: str) -> int | None:
        """The line of a field, or of the nearest enclosing field that the text has."""
        while path:
            line = self.lines.get(path)
            if line is not None:
                return line
            path = _parent(path)
        return None


def parse_config(text: str) -> ParsedConfig:
    """Read a config.pbtxt. Never raises: what is wrong is in `problems`."""
    if len(text) > MAX_BYTES:
        too_large = Problem(1, "the file is too large to be a model config", f"{len(text)} characters")
        return ParsedConfig(None, {}, {}, (too_large,))
    run = text.find("\\" * _MAX_BACKSLASHES)
    if run >= 0:  # protobuf's unescaping takes the square of their number
        line = text.count("\n", 0, run) + 1
        too_many = Problem(line, f"{_MAX_BACKSLASHES} backslashes in a row are too many to read")
        return ParsedConfig(None, {}, {}, (too_many,))
    walker = _Walker(text)
    walker.run()
    message, refusal = _message_from_text(text)
    if refusal is None:
        return ParsedConfig(message, walker.lines, walker.comments, (), walker.alone)
    problems = tuple(walker.problems) or (refusal,)
    return ParsedConfig(None, walker.lines, walker.comments, problems, walker.alone)


def _message_from_text(text: str) -> tuple[Any | None, Problem | None]:
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, model_config_pb2().ModelConfig()), None
    except text_format.ParseError as error:
        reason = shortened(re.sub(r"^\d+:\d+ : ", "", str(error)).strip())
        return None, Problem(error.GetLine() or 1, reason)
    except (ValueError, TypeError, RecursionError, UnicodeError) as error:
        return None, Problem(1, f"the text cannot be read: {shortened(str(error))}")


def _parent(path: str) -> str:
    """`input[0].dims[1]` → `input[0].dims` → `input[0]` → `input` → ``."""
    if path.endswith('"]'):
        return path[: path.rindex('["')]
    cut = max(path.rfind("."), path.rfind("["))
    return path[:cut] if cut > 0 else ""


@dataclass(frozen=True, slots=True)
class _Field:
    """What the walker has to know about a field of a message."""

    repeated: bool
    is_map: bool
    message: Any | None
    enum: tuple[str, ...]
    oneof: str | None


@cache
def _fields(descriptor: Any) -> dict[str, _Field]:
    known = {}
    for f in descriptor.fields:
        is_map = f.message_type is not None and f.message_type.GetOptions().map_entry
        known[f.name] = _Field(
            repeated=is_repeated(f),
            is_map=is_map,
            message=f.message_type,
            enum=tuple(v.name for v in f.enum_type.values) if f.enum_type is not None else (),
            oneof=f.containing_oneof.name if f.containing_oneof is not None else None,
        )
    return known


_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\f\v\n]+)
      | (?P<comment>\#[^\n]*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>[-+]?[0-9.][\w.]*(?:(?<=[eE])[-+]\d+)?)
      | (?P<mark>[{}<>\[\]:,;/-])
      | (?P<odd>.)""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">", "[": "]"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def _tokens(text: str, comments: dict[int, str]) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "odd"
        if kind == "blank":
            line += match.group().count("\n")
        elif kind == "comment":
            comments[line] = match.group()[1:].strip()
        else:
            yield _Token(kind, match.group(), line)


_MAX_PROBLEMS = 100


class _Stop(Exception):
    """The text is broken in a way that leaves nothing to go on from."""


@dataclass(slots=True)
class _Walker:
    """Walks the text once; its depth is bounded by the descriptor, unknown parts are skipped flat."""

    text: str
    lines: dict[str, int] = field(default_factory=dict)
    comments: dict[int, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    tokens: list[_Token] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    alone: frozenset[int] = frozenset()
    at: int = 0

    def run(self) -> None:
        self.tokens = list(_tokens(self.text, self.comments))
        self.alone = frozenset(self.comments).difference(t.line for t in self.tokens)
        try:
            self.body(model_config_pb2().ModelConfig.DESCRIPTOR, "", None, 0)
        except _Stop:
            return

    def peek(self) -> _Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self) -> _Token:
        token = self.peek()
        if token is None:
            last = self.tokens[-1].line if self.tokens else 1
            self.complain(last, "the text ends in the middle of a field")
            raise _Stop
        self.at += 1
        return token

    def mark(self, path: str, line: int) -> None:
        if path not in self.lines:
            self.lines[path] = line
            self.marked.append(path)

    def complain(self, line: int, message: str, **more: Any) -> None:
        self.problems.append(Problem(line, message, **more))
        if len(self.problems) == _MAX_PROBLEMS:
            self.problems.append(
                Problem(line, f"the first {_MAX_PROBLEMS} mistakes are told; there may be more")
            )
            raise _Stop

    def body(self, descriptor: Any, path: str, closing: str | None, opened: int) -> None:
        """Fields up to the closing brace, or to the end of the text for the message itself."""
        known = _fields(descriptor)
        counts: dict[str, int] = {}
        while True:
            token = self.peek()
            if token is None:
                if closing is not None:
                    self.complain(opened, f"'{path}' is opened here and never closed", fix=f"add '{closing}'")
                    raise _Stop
                return
            self.at += 1
            if token.text == closing:
                return
            if token.text in (",", ";"):
                continue
            if token.kind != "name":
                self.complain(token.line, f"unexpected {shortened(token.text)!r} where a field name belongs")
                raise _Stop
            self.one_field(known, counts, descriptor, path, token)

    def one_field(
        self, known: dict[str, _Field], counts: dict[str, int], descriptor: Any, path: str, name: _Token
    ) -> None:
        spec = known.get(name.text)
        if spec is None:
            self.complain(
                name.line,
                f"'{descriptor.name}' has no field '{shortened(name.text)}'"
                + (f" (in '{path}')" if path else ""),
                **unknown(name.text, sorted(known)),
            )
            self.skip_value()
            return
        if spec.oneof is not None:
            self.one_of(spec.oneof, counts, name, path)
        here = f"{path}.{name.text}" if path else name.text
        if not spec.repeated and counts.setdefault(name.text, 0):
            self.complain(name.line, f"'{here}' is given twice, but takes one value", seen=name.text)
        self.mark(here, name.line)
        colon = self.peek()
        if colon is not None and colon.text == ":":
            self.at += 1
        elif spec.message is None:
            self.complain(name.line, f"':' is missing after '{here}'", fix=f"write '{name.text}: VALUE'")
            raise _Stop
        value = self.peek()
        if value is not None and value.text == "[" and spec.repeated:
            self.at += 1
            self.items(spec, here, counts, name, value.line)
        else:
            self.one_value(spec, here, counts, name.text, name.line)

    def one_of(self, group: str, counts: dict[str, int], name: _Token, path: str) -> None:
        other = next((k for k in counts if k.startswith(f"oneof {group} ")), None)
        key = f"oneof {group} {name.text}"
        if other is not None and other != key:
            self.complain(
                name.line,
                f"'{name.text}' and '{other.split()[-1]}' exclude each other"
                + (f" (in '{path}')" if path else ""),
                seen=name.text,
                fix=f"keep one of '{other.split()[-1]}' and '{name.text}'",
            )
        counts[key] = 1

    def items(self, spec: _Field, here: str, counts: dict[str, int], name: _Token, opened: int) -> None:
        """The list form of a repeated field: `dims: [ 1, 2 ]`."""
        while True:
            token = self.peek()
            if token is None:
                self.complain(opened, f"the list of '{here}' is opened here and never closed", fix="add ']'")
                raise _Stop
            if token.text == "]":
                self.at += 1
                return
            if token.text == ",":
                self.at += 1
                continue
            self.one_value(spec, here, counts, name.text, token.line)

    def one_value(self, spec: _Field, here: str, counts: dict[str, int], name: str, line: int) -> None:
        index = counts.get(name, 0)
        counts[name] = index + 1
        place = f"{here}[{index}]" if spec.repeated else here
        self.mark(place, line)
        token = self.take()
        if spec.message is None:
            self.scalar(spec, here, token)
            return
        if token.text not in ("{", "<"):
            self.complain(token.line, f"'{here}' is a message: '{{' belongs here", seen=shortened(token.text))
            raise _Stop
        if spec.is_map:
            self.map_entry(spec, here, place, token)
        else:
            self.body(spec.message, place, _CLOSING[token.text], line)

    def map_entry(self, spec: _Field, here: str, place: str, opening: _Token) -> None:
        """One entry of a map; its value is also known by its key: `input_map["x"]`."""
        first = len(self.marked)
        start = self.at
        self.body(spec.message, place, _CLOSING[opening.text], opening.line)
        key = _entry_key(self.tokens[start : self.at])
        if key is None:
            return
        named = f'{here}["{key}"]'
        self.lines.setdefault(named, opening.line)
        value = f"{place}.value"
        for path in self.marked[first:]:
            if path.startswith(value):
                self.lines.setdefault(named + path[len(value) :], self.lines[path])

    def scalar(self, spec: _Field, here: str, token: _Token) -> None:
        if token.text == "-":
            token = self.take()
        if token.kind in ("mark", "odd"):
            self.complain(token.line, f"'{here}' has no value", seen=token.text)
            raise _Stop
        if spec.enum and token.kind == "name" and token.text not in spec.enum:
            self.complain(
                token.line,
                f"'{shortened(token.text)}' is no value of '{here}'",
                **unknown(token.text, spec.enum),
            )
        while token.kind == "string":
            following = self.peek()
            if following is None or following.kind != "string":
                return
            token = self.take()

    def skip_value(self) -> None:
        """Pass over the value of an unknown field, however deep, without recursion."""
        token = self.peek()
        if token is not None and token.text == ":":
            self.at += 1
            token = self.peek()
        open_: list[str] = []
        while token is not None:
            self.at += 1
            if token.text in _CLOSING:
                open_.append(_CLOSING[token.text])
            elif open_ and token.text == open_[-1]:
                open_.pop()
            if not open_ and token.text != "-":
                return
            token = self.peek()


def _entry_key(tokens: list[_Token]) -> str | None:
    """The key of a map entry from its tokens; None when it has none that a path can show."""
    for here, following, value in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if here.text == "key" and following.text == ":":
            if value.kind == "string":
                return value.text[1:-1]
            return value.text if value.kind in ("number", "name") else None
    return None
