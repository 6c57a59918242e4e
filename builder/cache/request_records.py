"""(request, dependencies' names, key) ↔ the name and text of a small immutable record: ccache's direct mode.

Which files an export reads is known only after it has run. The names it read are remembered for each request; the
names with the files' content now give the key to look for. One record for each (request, key), so that two machines
never overwrite each other; records of the same names share the first part of their name, so that one of them is
enough to read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic.config import with_config
from typing_extensions import TypedDict

from tritonsmith.builder.base.files.digest import digest_of_value
from tritonsmith.builder.base.files.untrusted import STRICT, Dependency, parsed
from tritonsmith.builder.cache.entry import FORMAT, is_digest


@dataclass(frozen=True, slots=True)
class RecordName:
    """NAMES-KEY.json: digest of the dependencies' names, and the artifact's key."""

    names: str
    key: str

    def __str__(self) -> str:
        return f"{self.names}-{self.key}.json"


def record_name(dependencies: Iterable[str], key: str) -> RecordName:
    """The record's name; dependencies: names, in any order."""
    return RecordName(digest_of_value(sorted(dependencies))[:16], key)


def parse_record_name(text: str) -> RecordName | None:
    """The name of a file or object taken apart; None when it is something else."""
    names, separator, rest = text.partition("-")
    key = rest.removesuffix(".json")
    if not separator or len(names) != 16 or not rest.endswith(".json") or not is_digest(key):
        return None
    return RecordName(names, key)


def text_of_record(dependencies: Iterable[str]) -> str:
    """The record's text."""
    return json.dumps({"format": FORMAT, "dependencies": sorted(dependencies)}, indent=1)


def dependencies_from_text(text: str | bytes) -> tuple[str, ...] | None:
    """The dependencies' names; None when the text is damaged, which is as if it had never been there."""
    try:
        return tuple(parsed(_Record, text)["dependencies"])
    except ValueError:
        return None


@with_config(STRICT)
class _Record(TypedDict):
    format: Literal[1]
    dependencies: list[Dependency]
