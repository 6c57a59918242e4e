"""Backend and Triton release → the arguments of its engine: what may stand in model.json or model.yaml."""

from __future__ import annotations

import csv
import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tritonsmith.builder.base.errors import nearest

Backend = Literal["vllm", "tensorrtllm"]

TABLES = Path(__file__).with_name("tables")
_COMPARISONS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}
ENGINES: Mapping[Backend, str] = {"vllm": "vLLM", "tensorrtllm": "TensorRT-LLM"}
"""What people call the engine behind a backend."""


@dataclass(frozen=True, slots=True)
class EngineArgument:
    """One argument of an engine, as the asked versions have it; where they differ, all that any of them takes.

    types:       JSON types that it takes: `bool`, `int`, `float` (an int, too), `str`, `list`, `json` (an object), `any`.
    nullable:    whether null is among its values.
    default:     the newest version's; None also where it is no constant.
    choices:     the values that it takes, when no other is; empty: any of its types.
    first, last: versions of the engine that have it, of those in the tables.
    source:      where the newest of them is told.
    description: one line; empty where the name says all.
    bounds:      of numbers, `above 0, at most 1`; empty where any will do.
    """

    name: str
    types: tuple[str, ...]
    nullable: bool
    default: Any
    choices: tuple[Any, ...]
    first: str
    last: str
    source: str
    description: str = ""
    bounds: str = ""

    @property
    def type(self) -> str:
        """`int`, `list or str`."""
        return " or ".join(self.types)

    def is_within(self, value: Any) -> bool:
        """Whether a number is within the bounds; what is none, and a truth value, is."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        limits = (bound.rpartition(" ") for bound in self.bounds.split(", ") if bound)
        return all(_COMPARISONS[words](value, float(limit)) for words, _, limit in limits)


def arguments(backend: Backend, release: str | None = None) -> Mapping[str, EngineArgument]:
    """The arguments of the engine in a Triton release (`26.08`), by name.

    Of a release whose engine is not known, and of None: of every version in the tables.
    """
    return _arguments(backend, arguments_versions(backend, release))


def engine_version(backend: Backend, release: str | None) -> str | None:
    """The version of the engine in a release's image (`0.27.1+b1082979.nv26.8.62699174`); None when it is not known."""
    row = _releases().get(release or "")
    return (row[backend] or None) if row else None


def release_of_engine(backend: Backend, version: str) -> str | None:
    """The first Triton release that has this version of the engine; None when none does."""
    return next(
        (name for name, row in _releases().items() if row[backend].partition("+")[0] == version), None
    )


def arguments_versions(backend: Backend, release: str | None) -> tuple[str, ...]:
    """Versions in the tables that stand for a release, oldest first; all of them where its engine is not known.

    NVIDIA's builds are named by the version that they are made from (`0.27.1+…`). One made from a candidate, or from
    a version that is not in the tables, is between the two versions around it: both stand for it. Of TensorRT-LLM the
    tables have states of its main branch, none of which is a release: all stand for each.
    """
    versions = tuple(_versions(backend))
    told = engine_version(backend, release)
    if told is None or not is_exact(backend):
        return versions
    public = told.partition("+")[0]
    if public in versions:
        return (public,)
    position = sum(_ordered(version) < _ordered(public) for version in versions)
    return versions[max(0, position - 1) : position + 1]


def is_exact(backend: Backend) -> bool:
    """Whether the tables have the very versions that Triton's releases carry: then what they lack is refused."""
    return backend == "vllm"


def nearest_argument(backend: Backend, release: str | None, name: str) -> str | None:
    """The argument most like a name that is none; None when nothing is close."""
    return nearest(name.replace("-", "_").lower(), arguments(backend, release))


@lru_cache(maxsize=64)
def _arguments(backend: Backend, versions: tuple[str, ...]) -> Mapping[str, EngineArgument]:
    order = list(_versions(backend))
    asked = {order.index(version) for version in versions}
    found: dict[str, EngineArgument] = {}
    for row in _rows(f"{backend}.csv"):
        if not asked.isdisjoint(range(order.index(row["first"]), order.index(row["last"]) + 1)):
            argument = _argument(backend, row)
            before = found.get(argument.name)
            found[argument.name] = argument if before is None else _either(before, argument)
    return found


def _argument(backend: Backend, row: Mapping[str, str]) -> EngineArgument:
    types = row["types"].split("|")
    spans = [other for other in _rows(f"{backend}.csv") if other["name"] == row["name"]]
    return EngineArgument(
        name=row["name"],
        types=tuple(kind for kind in types if kind != "null"),
        nullable="null" in types,
        default=json.loads(row["default"]) if row["default"] else None,
        choices=tuple(json.loads(row["choices"])) if row["choices"] else (),
        first=spans[0]["first"],
        last=spans[-1]["last"],
        source=_versions(backend)[row["last"]],
        description=_descriptions().get((backend, row["name"]), ""),
        bounds=_bounds().get(row["name"], "") if backend == "vllm" else "",
    )


def _either(older: EngineArgument, newer: EngineArgument) -> EngineArgument:
    is_closed = bool(older.choices and newer.choices)
    return replace(
        newer,
        types=_each(older.types + newer.types),
        nullable=older.nullable or newer.nullable,
        choices=_each(older.choices + newer.choices) if is_closed else (),
    )


def _each(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _ordered(version: str) -> Any:
    from packaging.version import Version

    return Version(version)


@lru_cache(maxsize=1)
def _releases() -> Mapping[str, Mapping[str, str]]:
    return {row["release"]: row for row in _rows("releases.csv")}


@lru_cache(maxsize=1)
def _descriptions() -> Mapping[tuple[str, str], str]:
    return {(row["backend"], row["name"]): row["description"] for row in _rows("descriptions.csv")}


@lru_cache(maxsize=1)
def _bounds() -> Mapping[str, str]:
    return {row["name"]: row["bounds"] for row in _rows("bounds.csv")}


@lru_cache(maxsize=2)
def _versions(backend: Backend) -> Mapping[str, str]:
    """Version → its source, oldest first."""
    return {row["version"]: row["source"] for row in _rows("versions.csv") if row["backend"] == backend}


@lru_cache(maxsize=8)
def _rows(name: str) -> tuple[Mapping[str, str], ...]:
    with (TABLES / name).open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
