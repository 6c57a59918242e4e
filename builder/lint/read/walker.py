"""Protobuf text, walked along ModelConfig's descriptor → the place of every field, comments, and what is wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from tritonsmith.builder.base.errors import shortened, unknown
from tritonsmith.builder.base.triton_proto import is_repeated, model_config_pb2
from tritonsmith.builder.lint.read.edits import Edit, Place
from tritonsmith.builder.lint.read.spelling import Kind, meant_name, meant_value
from tritonsmith.builder.lint.read.tokens import BYTE_ORDER_MARK, Token, entry_key, tokens_of


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the text.

    line:  counts from 1; place: where in it, when that is known.
    valid: what would have been accepted.
    edits: what makes it right, when only one thing can have been meant.
    """

    line: int
    message: str
    seen: str | None = None
    valid: tuple[str, ...] = ()
    fix: str | None = None
    place: Place | None = None
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class _Field:
    """What the walker has to know about a field of a message."""

    repeated: bool
    is_map: bool
    message: Any | None
    enum: tuple[str, ...]
    oneof: str | None
    kind: Kind


# FieldDescriptor.CPPTYPE_*, which both implementations of protobuf number alike.
_KINDS: dict[int, Kind] = {5: "float", 6: "float", 7: "bool", 8: "enum", 9: "string"}


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
            kind=_KINDS.get(f.cpp_type, "integer"),
        )
    return known


_CLOSING = {"{": "}", "<": ">", "[": "]"}


_FORMS: dict[Kind, str] = {
    "string": "a text in quotes",
    "integer": "a whole number",
    "float": "a number",
    "bool": "true or false",
}

# A value that quotes were left out of: up to a blank or a mark that ends it.
_BARE = re.compile(r"[\w./+-]+")

_MAX_PROBLEMS = 100


class _Stop(Exception):
    """The text is broken in a way that leaves nothing to go on from."""


@dataclass(slots=True)
class Walker:
    """Walks the text once; its depth is bounded by the descriptor, unknown parts are skipped flat."""

    text: str
    places: dict[str, Place] = field(default_factory=dict)
    values: dict[str, Place] = field(default_factory=dict)
    comments: dict[int, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    alone: frozenset[int] = frozenset()
    at: int = 0

    def run(self) -> None:
        """Fills all of the above."""
        self.tokens = list(tokens_of(self.text, self.comments))
        self.alone = frozenset(self.comments).difference(t.line for t in self.tokens)
        if self.text.startswith(BYTE_ORDER_MARK):
            mark = Place(1, 1, 0, len(BYTE_ORDER_MARK))
            message = "the text begins with a byte order mark, which protobuf does not take for a blank"
            self.complain(mark, message, fix="save it as UTF-8 without it", edits=(Edit(mark, ""),))
        try:
            self.body(model_config_pb2().ModelConfig.DESCRIPTOR, "", None, Place(1, 1, 0, 0))
        except _Stop:
            return

    def peek(self) -> Token | None:
        """The next token, which stays the next."""
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self) -> Token:
        """The next token; that there is none is a mistake."""
        token = self.peek()
        if token is None:
            last = self.tokens[-1].place if self.tokens else Place(1, 1, 0, 0)
            self.complain(last, "the text ends in the middle of a field")
            raise _Stop
        self.at += 1
        return token

    def mark(self, path: str, place: Place) -> None:
        """A path's place is where it is first."""
        if path not in self.places:
            self.places[path] = place
            self.marked.append(path)

    def complain(self, place: Place, message: str, **more: Any) -> None:
        """One mistake; after many the walk ends."""
        self.problems.append(Problem(place.line, message, place=place, **more))
        if len(self.problems) == _MAX_PROBLEMS:
            self.problems.append(
                Problem(
                    place.line, f"the first {_MAX_PROBLEMS} mistakes are told; there may be more", place=place
                )
            )
            raise _Stop

    def body(self, descriptor: Any, path: str, closing: str | None, opened: Place) -> None:
        """Fields up to the closing brace, or to the end of the text for the message itself."""
        known = _fields(descriptor)
        counts: dict[str, int] = {}
        slips: dict[str, int] = {}
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
                self.complain(token.place, f"unexpected {shortened(token.text)!r} where a field name belongs")
                raise _Stop
            self.one_field(known, counts, slips, descriptor, path, token)

    def one_field(
        self,
        known: dict[str, _Field],
        counts: dict[str, int],
        slips: dict[str, int],
        descriptor: Any,
        path: str,
        name: Token,
    ) -> None:
        """From behind its name to behind its value."""
        spec, field_name = known.get(name.text), name.text
        if spec is None:
            meant = self.unknown_field(known, counts, slips, descriptor, path, name)
            if meant is None or not self.fits(known[meant]):
                self.skip_value()
                return
            spec, field_name = known[meant], meant
        elif not spec.repeated and counts.get(field_name):
            here = f"{path}.{field_name}" if path else field_name
            self.complain(name.place, f"'{here}' is given twice, but takes one value", seen=field_name)
        if name.text == field_name:
            if spec.oneof is not None:
                self.one_of(spec.oneof, counts, name, path)
            if field_name in slips and (spec.message is None or not spec.repeated):
                # Both are there: with the slip mended it would be given twice, or its list be longer than anybody meant.
                self.problems[slips[field_name]] = replace(self.problems[slips[field_name]], edits=())
        here = f"{path}.{field_name}" if path else field_name
        self.mark(here, name.place)
        self.colon(spec, here, name)
        value = self.peek()
        if value is not None and value.text == "[" and spec.repeated:
            self.at += 1
            self.items(spec, here, counts, field_name, value.place)
        else:
            self.one_value(spec, here, counts, field_name, name.place)

    def unknown_field(
        self,
        known: dict[str, _Field],
        counts: dict[str, int],
        slips: dict[str, int],
        descriptor: Any,
        path: str,
        name: Token,
    ) -> str | None:
        """Says that there is no such field; the one that was meant, where that is plain."""
        meant = meant_name(name.text, known)
        is_list = meant is not None and known[meant].repeated and known[meant].message is not None
        edits: tuple[Edit, ...] = ()
        if meant is not None and (is_list or not (meant in counts or meant in slips)):
            edits = (Edit(name.place, meant),)
            slips[meant] = len(self.problems)
        self.complain(
            name.place,
            f"'{descriptor.name}' has no field '{shortened(name.text)}'"
            + (f" (in '{path}')" if path else ""),
            **unknown(name.text, sorted(known)) | ({"fix": f"did you mean {meant!r}?"} if meant else {}),
            edits=edits,
        )
        return meant

    def fits(self, spec: _Field) -> bool:
        """Whether what follows can be a value of the field, so that it is worth walking."""
        value = self.peek()
        if value is not None and value.text in (":", "="):
            value = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else None
        if value is None:
            return False
        if value.text == "[":
            return spec.repeated
        return (value.text in ("{", "<")) == (spec.message is not None) and (
            value.kind != "mark" or value.text in ("{", "<", "-")
        )

    def colon(self, spec: _Field, here: str, name: Token) -> None:
        """Passes over it; where it is missing before a value, that is said, and the value read."""
        token = self.peek()
        if token is not None and token.text == ":":
            self.at += 1
            return
        if token is not None and token.text == "=":
            self.at += 1
            fix = f"write '{name.text}: VALUE'"
            self.complain(token.place, "'=' where ':' belongs", fix=fix, edits=(Edit(token.place, ":"),))
            return
        if spec.message is not None:
            return
        edits: tuple[Edit, ...] = ()
        if token is not None and token.line == name.line and self.is_value(token):
            behind = Place(name.line, name.column + len(name.text), name.end, name.end)
            edits = (Edit(behind, ":"),)
        self.complain(
            name.place, f"':' is missing after '{here}'", fix=f"write '{name.text}: VALUE'", edits=edits
        )
        if not edits:
            raise _Stop

    def is_value(self, token: Token) -> bool:
        """Whether it is a scalar or a list, and not the name of the next field."""
        following = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else None
        if token.kind == "name":
            return following is None or following.text not in (":", "=", "{", "<", "[")
        return token.kind in ("string", "number") or token.text in ("[", "-")

    def one_of(self, group: str, counts: dict[str, int], name: Token, path: str) -> None:
        """Says when another member of the group is there."""
        other = next((k for k in counts if k.startswith(f"oneof {group} ")), None)
        key = f"oneof {group} {name.text}"
        if other is not None and other != key:
            self.complain(
                name.place,
                f"'{name.text}' and '{other.split()[-1]}' exclude each other"
                + (f" (in '{path}')" if path else ""),
                seen=name.text,
                fix=f"keep one of '{other.split()[-1]}' and '{name.text}'",
            )
        counts[key] = 1

    def items(self, spec: _Field, here: str, counts: dict[str, int], name: str, opened: Place) -> None:
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
            self.one_value(spec, here, counts, name, token.place)

    def one_value(self, spec: _Field, here: str, counts: dict[str, int], name: str, place: Place) -> None:
        """A scalar, a message or a map's entry."""
        index = counts.get(name, 0)
        counts[name] = index + 1
        path = f"{here}[{index}]" if spec.repeated else here
        self.mark(path, place)
        token = self.take()
        if spec.message is None:
            self.scalar(spec, here, path, token)
            return
        if token.text not in ("{", "<"):
            self.complain(
                token.place, f"'{here}' is a message: '{{' belongs here", seen=shortened(token.text)
            )
            raise _Stop
        if spec.is_map:
            self.map_entry(spec, here, path, token)
        else:
            self.body(spec.message, path, _CLOSING[token.text], place)

    def map_entry(self, spec: _Field, here: str, path: str, opening: Token) -> None:
        """One entry of a map; its value is also known by its key: `input_map["x"]`."""
        first = len(self.marked)
        start = self.at
        self.body(spec.message, path, _CLOSING[opening.text], opening.place)
        key = entry_key(self.tokens[start : self.at])
        if key is None:
            return
        named = f'{here}["{key}"]'
        self.places.setdefault(named, opening.place)
        value = f"{path}.value"
        for inner in self.marked[first:]:
            if inner.startswith(value):
                self.places.setdefault(named + inner[len(value) :], self.places[inner])
                if inner in self.values:
                    self.values.setdefault(named + inner[len(value) :], self.values[inner])

    def scalar(self, spec: _Field, here: str, path: str, token: Token) -> None:
        """Its form is judged where that is known; what it says is protobuf's business."""
        first = token
        if token.text == "-":
            token = self.take()
        if token.kind in ("mark", "odd"):
            self.complain(token.place, f"'{here}' has no value", seen=token.text)
            raise _Stop
        is_bare = spec.kind == "string" and token.kind != "string"
        run = _BARE.match(self.text, first.start) if is_bare else None
        written = token if run is None else replace(first, text=run.group())
        if is_bare or spec.kind != "string":
            self.judge_value(spec, here, written, token.kind == "string")
        last = token
        while (following := self.peek()) is not None:
            is_more = following.start < written.end if is_bare else last.kind == following.kind == "string"
            if not is_more:
                break
            last = self.take()
        end = max(last.end, written.end)
        self.values.setdefault(path, Place(first.line, first.column, first.start, end))

    def judge_value(self, spec: _Field, here: str, token: Token, is_quoted: bool) -> None:
        """Says what is wrong with the form of a scalar."""
        word = token.text[1:-1] if is_quoted else token.text
        meant = meant_value(spec.kind, word, is_quoted, spec.enum)
        edits = () if meant is None else (Edit(token.place, meant),)
        if spec.kind == "enum" and token.kind in ("name", "string") and (is_quoted or word not in spec.enum):
            message, more = f"'{shortened(word)}' is no value of '{here}'", unknown(word, spec.enum)
            if meant is not None:
                more["fix"] = f"did you mean {meant!r}?"
            if is_quoted and word in spec.enum:
                message, more = f"a value of '{here}' has no quotes", {"fix": f"write {word}"}
            self.complain(token.place, message, **more, edits=edits)
        elif meant is not None:
            seen = shortened(token.text)
            self.complain(
                token.place,
                f"'{here}' is {_FORMS[spec.kind]}, and {seen} is none",
                seen=seen,
                fix=f"write {shortened(meant)}",
                edits=edits,
            )

    def skip_value(self) -> None:
        """Pass over the value of an unknown field, however deep, without recursion."""
        token = self.peek()
        if token is not None and token.text in (":", "="):
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
