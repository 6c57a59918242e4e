"""Protobuf text → ModelConfig message, a source map from field path to place, and what is wrong with the text.

Two readers look at the text. Ours walks it along the message's descriptor, remembers the place of every
field and goes on after a mistake, so that one run names them all. `google.protobuf.text_format` then
builds the message, and its verdict stands: text that it refuses is refused.

A field path is written as in the proto: `input[1].dims[0]`, `dynamic_batching.priority_levels`,
`ensemble_scheduling.step[0].input_map["x"]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tritonsmith.builder.base.errors import shortened
from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.lint.read.edits import Place
from tritonsmith.builder.lint.read.walker import Problem, Walker

MAX_BYTES = 1 << 20
"""Text longer than this is not read: the largest real config.pbtxt is a few hundred kilobytes."""

_MAX_BACKSLASHES = 64


@dataclass(frozen=True, slots=True)
class ParsedConfig:
    """A text as far as it could be read.

    message:  inference.ModelConfig, None when the text is refused.
    places:   field path → place of the field's name, of the element in a list.
    values:   path of a scalar → place of its value.
    comments: line → comment text without the `#`.
    alone:    lines that hold a comment and nothing else.
    """

    message: Any | None
    places: Mapping[str, Place]
    comments: Mapping[int, str]
    problems: tuple[Problem, ...]
    alone: frozenset[int] = frozenset()
    values: Mapping[str, Place] = field(default_factory=dict)
    text: str = ""

    @property
    def lines(self) -> dict[str, int]:
        """Field path → line of the field's name, from 1."""
        return {path: place.line for path, place in self.places.items()}

    def place_of(self, path: str) -> Place | None:
        """Where a field is, with its value when that is a scalar on the same line; or the nearest enclosing field."""
        while path:
            place = self.places.get(path)
            if place is not None:
                value = self.values.get(path, place)
                return replace(place, end=value.end) if value.line == place.line else place
            path = _parent(path)
        return None

    def line_of(self, path: str) -> int | None:
        """The line of a field, or of the nearest enclosing field that the text has."""
        place = self.place_of(path)
        return None if place is None else place.line


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
    walker = Walker(text)
    walker.run()
    message, refusal = _message_from_text(text)
    problems = () if refusal is None else tuple(walker.problems) or (refusal,)
    return ParsedConfig(message, walker.places, walker.comments, problems, walker.alone, walker.values, text)


def _message_from_text(text: str) -> tuple[Any | None, Problem | None]:
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, model_config_pb2().ModelConfig()), None
    except text_format.ParseError as error:
        line, column = error.GetLine() or 1, error.GetColumn() or 1
        lines = text.split("\n", line)[:line]
        start = sum(len(before) + 1 for before in lines[:-1]) + column - 1
        reason = re.sub(r"^\d+:\d+ : ", "", str(error)).removeprefix(f"'{lines[-1]}': ").strip()
        reason = shortened(reason)
        return None, Problem(line, reason, place=Place(line, column, start, start + 1))
    except (ValueError, TypeError, RecursionError, UnicodeError) as error:
        return None, Problem(1, f"the text cannot be read: {shortened(str(error))}")


def _parent(path: str) -> str:
    """`input[0].dims[1]` → `input[0].dims` → `input[0]` → `input` → ``."""
    if path.endswith('"]'):
        return path[: path.rindex('["')]
    cut = max(path.rfind("."), path.rfind("["))
    return path[:cut] if cut > 0 else ""
