"""Text of artifact.json ↔ Entry: what one cache entry holds, checked so that nothing can be written outside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from builder.digest import digest_of_bytes

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


def entry_from_text(text: str | bytes, key: str) -> Entry:
    """The entry of this key; ValueError when the text is anything else, or names files outside its directory."""
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("key") != key:
        raise ValueError("another format or key")
    # Entries of older versions have none.
    digest = data.pop("digest", None)
    if digest is not None and digest != digest_of_bytes(_text(data).encode()):
        raise ValueError(f"{RECORD} does not match its own digest")
    files, record = data.get("files"), data.get("record")
    if not isinstance(files, dict) or not isinstance(record, dict):
        raise ValueError("no files or no record")
    for name, digest in files.items():
        if not _is_inside(name) or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ValueError(f"not a file of an entry: {name!r}")
    return Entry(
        key,
        files,
        record,
        str(data.get("what", "")),
        int(data.get("size_bytes", 0)),
        float(data.get("created_s", 0.0)),
    )


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True)


def is_digest(text: str) -> bool:
    """Whether the text is a sha256 in hex, as all keys are."""
    return _DIGEST.fullmatch(text) is not None


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and name != RECORD
