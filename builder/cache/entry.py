"""Text of artifact.json ↔ Entry: what one cache entry holds, checked so that nothing can be written outside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.config import with_config
from typing_extensions import NotRequired, TypedDict

from tritonsmith.builder.base.files.digest import digest_of_bytes
from tritonsmith.builder.base.files.untrusted import (
    STRICT,
    RelativePath,
    Sha256,
    parsed,
    refuse_files_below_files,
)

FORMAT = 1
RECORD = "artifact.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One artifact's manifest.

    files:     relative path → sha256.
    record:    what the action tells about it, JSON.
    what:      for people: the action and the model; empty in entries of older versions.
    size_bytes, created_s: of all files; seconds since the epoch; 0 where not recorded.
    """

    key: str
    files: Mapping[str, str]
    record: Mapping[str, Any]
    what: str = ""
    size_bytes: int = 0
    created_s: float = 0.0


def text_of_entry(entry: Entry) -> str:
    """artifact.json of an entry, with a digest of all else in it; sorted, so that the same entry gives the same text."""
    content = {
        "format": FORMAT,
        "key": entry.key,
        "what": entry.what,
        "size_bytes": entry.size_bytes,
        "created_s": round(entry.created_s, 3),
        "files": dict(entry.files),
        "record": entry.record,
    }
    return _text({**content, "digest": digest_of_bytes(_text(content).encode())})


_Number = Annotated[float, Field(ge=0, lt=1e12)]


@with_config(STRICT)
class _File(TypedDict):
    format: Literal[1]
    key: Sha256
    what: NotRequired[Annotated[str, Field(max_length=1000)]]
    size_bytes: NotRequired[Annotated[int, Field(ge=0, lt=2**63)]]
    created_s: NotRequired[_Number]
    files: dict[RelativePath, Sha256]
    record: dict[str, Any]
    digest: NotRequired[Sha256]


def entry_from_text(text: str | bytes, key: str) -> Entry:
    """The entry of this key; ValueError when the text is anything else, or names files outside its directory.

    The record is JSON, and no more is known of it: see builder.cache.record.
    """
    # What answers NaN is infinitely far off, and an older tritonsmith wrote it so.
    data = parsed(_File, text, infinite=True)
    if data["key"] != key:
        raise ValueError("another key")
    # Entries of older versions have none.
    digest = data.pop("digest", None)
    if digest is not None and not (_is_rest(text, digest) or digest == digest_of_bytes(_text(data).encode())):
        raise ValueError(f"{RECORD} does not match its own digest")
    refuse_files_below_files([*data["files"], RECORD])
    return Entry(
        key,
        data["files"],
        data["record"],
        data.get("what", ""),
        data.get("size_bytes", 0),
        data.get("created_s", 0.0),
    )


def _is_rest(text: str | bytes, digest: str) -> bool:
    """Whether the text without its own line about the digest is what was digested: no need to write it again."""
    written = text.encode() if isinstance(text, str) else text
    return digest == digest_of_bytes(written.replace(f'\n "digest": "{digest}",'.encode(), b"", 1))


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True)


def is_digest(text: str) -> bool:
    """Whether the text is a sha256 in hex, as all keys are."""
    return _DIGEST.fullmatch(text) is not None
