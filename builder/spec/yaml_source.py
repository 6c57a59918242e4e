"""A YAML file → plain data plus the line of every key and value; duplicate keys are refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tritonsmith.builder.base.errors import SpecError, Where
from tritonsmith.builder.base.files.untrusted import read_bounded
from tritonsmith.builder.spec.nearby import init_command

KeyPath = tuple[str | int, ...]

# What people write has a depth of 10; a spec of 10,000 models has 500,000 values in 10 MiB.
_MAX_DEPTH = 100
_MAX_BYTES = 16 << 20
_MAX_VALUES = 1_000_000
_MAX_ALIASED = 50_000
_MAX_KEY_LENGTH = 1000
_MAX_NUMBER_LENGTH = 100
_TAG = "tag:yaml.org,2002:"
# The types of JSON. Text that looks like a date stays text, since no field holds a date.
_SCALARS = frozenset(f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "timestamp"))
_TEXT = frozenset((f"{_TAG}str", f"{_TAG}timestamp"))
# libyaml's parser, where PyYAML has it, reads ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = yaml.resolver.Resolver()
_CONSTRUCTOR: Any = yaml.constructor.SafeConstructor()


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

    def where_stated(self, key_path: KeyPath) -> Where:
        """`where`; of a key that a model inherits, its place in `defaults:`."""
        inherited = ("defaults", *key_path[2:])
        is_inherited = key_path not in self.lines and inherited in self.lines
        return self.where(inherited if is_inherited and key_path[:1] == ("models",) else key_path)


def read_yaml(path: Path, *, as_text: bool = False) -> YamlSource:
    """Reads one YAML document safely; SpecError for a missing or too large file, bad syntax or a duplicate key.

    as_text: scalars stay the text that is written, for a reader that knows their types; null alone is None.
    """
    try:
        text = read_bounded(path, _MAX_BYTES).decode()
    except FileNotFoundError:
        raise SpecError(
            "there is no such spec file",
            code="spec_missing",
            where=Where(path),
            fix=f"{init_command(path)}, which writes a first one; --spec PATH reads another",
        ) from None
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read the spec: {error}", code="spec_unreadable", where=Where(path)) from None
    return yaml_from_text(text, path, as_text=as_text)


def yaml_from_text(text: str, path: Path, *, as_text: bool = False) -> YamlSource:
    """`read_yaml` of text that came from `path`."""
    reader = _Reader(path, as_text)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(
            f"not valid YAML: {error.problem or error.context}",
            code="yaml_syntax",
            where=Where(path, None if mark is None else mark.line + 1),
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(
            f"not valid YAML: {error.reason}", code="yaml_syntax", where=Where(path, line)
        ) from None
    return YamlSource(path, reader.data, reader.lines)


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet.

    at: its key path; begin: how many values had begun before it; key: of a mapping, the key whose value comes next.
    """

    at: KeyPath
    data: dict[str, Any] | list[Any]
    anchor: str | None
    begin: int
    key: str | None = None


@dataclass(frozen=True, slots=True)
class _Anchored:
    """What an alias stands for; places: key paths inside it with their lines."""

    data: Any
    places: tuple[tuple[KeyPath, int], ...]


@dataclass(slots=True)
class _Reader:
    """Takes the parser's events one by one, without recursion; what aliases stand for is counted before it is copied."""

    path: Path
    as_text: bool
    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    begun: list[tuple[KeyPath, int]] = field(default_factory=list)
    open: list[_Open] = field(default_factory=list)
    anchored: dict[str, _Anchored] = field(default_factory=dict)
    documents: int = 0
    aliased: int = 0

    def take(self, event: Any) -> None:
        """One event of the parser."""
        if isinstance(event, yaml.ScalarEvent):
            self.scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self.start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self.open.pop()
            self.keep(closed.anchor, closed.data, closed.at, closed.begin)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self.fault("yaml_syntax", "not valid YAML: a second document begins here", event)

    def scalar(self, event: Any) -> None:
        if self.wants_key():
            self.key(event)
            return
        begin = len(self.begun)
        at = self.begin(event)
        value = self.scalar_value(event)
        self.add(value)
        self.keep(event.anchor, value, at, begin)

    def start(self, event: Any) -> None:
        if self.wants_key():
            raise self.fault("yaml_key", "a key must be a plain word", event)
        kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        if event.tag not in (None, "!", f"{_TAG}{kind}"):
            raise self.unknown_tag(event.tag, event)
        begin = len(self.begun)
        at = self.begin(event)
        data: dict[str, Any] | list[Any] = {} if kind == "map" else []
        self.add(data)
        self.open.append(_Open(at, data, event.anchor, begin))
        if len(self.open) > _MAX_DEPTH:
            raise self.too_deep(event)

    def alias(self, event: Any) -> None:
        if self.wants_key():
            raise self.fault("yaml_key", "a key must be a plain word", event)
        if any(o.anchor == event.anchor for o in self.open):
            raise self.fault("yaml_depth", f"the alias *{event.anchor} stands inside what it names", event)
        if event.anchor not in self.anchored:
            raise self.fault("yaml_syntax", f"not valid YAML: found undefined alias *{event.anchor}", event)
        found = self.anchored[event.anchor]
        self.aliased += len(found.places)
        if self.aliased > _MAX_ALIASED:
            raise self.fault("yaml_size", f"aliases (*) stand for more than {_MAX_ALIASED} values", event)
        at = self.begin(event)
        if max(len(inner) for inner, _ in found.places) + len(self.open) > _MAX_DEPTH:
            raise self.too_deep(event)
        for inner, line in found.places[1:]:
            self.lines.setdefault((*at, *inner), line)
            self.begun.append(((*at, *inner), line))
        self.add(copy.deepcopy(found.data))

    def wants_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].data, dict) and self.open[-1].key is None

    def key(self, event: Any) -> None:
        around = self.open[-1]
        if event.tag == f"{_TAG}merge" or (event.value == "<<" and event.implicit[0]):
            raise self.fault(
                "yaml_merge",
                "YAML merge keys (<<) are not supported",
                event,
                fix="put shared keys under `defaults:`",
            )
        if len(event.value) > _MAX_KEY_LENGTH:
            raise self.fault("yaml_key", f"a key is longer than {_MAX_KEY_LENGTH} characters", event)
        here = (*around.at, event.value)
        if event.value in around.data:
            raise self.fault(
                "duplicate_key",
                f"{event.value!r} is there twice; the first is on line {self.lines[here]}",
                event,
                fix="rename or remove one of the two",
            )
        around.key = event.value
        self.lines[here] = event.start_mark.line + 1

    def begin(self, event: Any) -> KeyPath:
        """Notes the line of the value that begins with `event`; its key path."""
        at: KeyPath = ()
        if self.open:
            around = self.open[-1]
            inner = around.key if isinstance(around.data, dict) else len(around.data)
            assert inner is not None
            at = (*around.at, inner)
        line = self.lines.setdefault(at, event.start_mark.line + 1)
        self.begun.append((at, line))
        if len(self.begun) > _MAX_VALUES:
            raise self.fault("yaml_size", f"more than {_MAX_VALUES} values", event)
        return at

    def add(self, value: Any) -> None:
        """Puts a value where it belongs."""
        if not self.open:
            self.data = value
            return
        around = self.open[-1]
        if isinstance(around.data, list):
            around.data.append(value)
        else:
            assert around.key is not None
            around.data[around.key], around.key = value, None

    def keep(self, anchor: str | None, data: Any, at: KeyPath, begin: int) -> None:
        """Remembers an anchored value."""
        if anchor is not None:
            places = tuple((path[len(at) :], line) for path, line in self.begun[begin:])
            self.anchored[anchor] = _Anchored(data, places)

    def scalar_value(self, event: Any) -> Any:
        tag = _tag_of(event)
        if tag in _TEXT:
            return event.value
        if tag not in _SCALARS:
            raise self.unknown_tag(tag, event)
        if self.as_text:
            return None if tag == f"{_TAG}null" else event.value
        if len(event.value) > _MAX_NUMBER_LENGTH:
            raise self.fault("yaml_value", f"a number of more than {_MAX_NUMBER_LENGTH} characters", event)
        try:
            return _constructed(tag, event.value)
        except (ValueError, LookupError, ArithmeticError):  # what PyYAML's constructors run into
            name = tag.removeprefix(_TAG)
            raise self.fault("yaml_value", f"not valid YAML: {event.value!r} is no {name}", event) from None

    def unknown_tag(self, tag: str, event: Any) -> SpecError:
        shown = f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
        return self.fault("yaml_value", f"not valid YAML here: the tag {shown[:80]!r} has no meaning", event)

    def too_deep(self, event: Any) -> SpecError:
        return self.fault("yaml_depth", f"nested deeper than {_MAX_DEPTH} levels", event)

    def fault(self, code: str, message: str, event: Any, fix: str | None = None) -> SpecError:
        line = event.start_mark.line + 1 if event.start_mark else None
        return SpecError(message, code=code, where=Where(self.path, line), fix=fix)


def _tag_of(event: Any) -> str:
    """The tag that is written, else the one that YAML gives to such a word."""
    if event.tag not in (None, "!"):
        return str(event.tag)
    return str(_RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit))


@lru_cache(maxsize=1000)
def _constructed(tag: str, text: str) -> bool | int | float | None:
    """A scalar's value, text aside; ValueError, LookupError or ArithmeticError when it is none of that tag."""
    value: bool | int | float | None = _CONSTRUCTOR.yaml_constructors[tag](
        _CONSTRUCTOR, yaml.ScalarNode(tag, text)
    )
    return value
