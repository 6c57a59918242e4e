"""A local cache or a store → one Listed entry each, with what gc has to know of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.builder.base.files.disk import bytes_below
from tritonsmith.builder.base.files.object_store import ObjectStore, StoredObject
from tritonsmith.builder.base.files.untrusted import read_bounded
from tritonsmith.builder.cache.entry import RECORD, Entry, entry_from_text, is_digest
from tritonsmith.builder.cache.shared import ARTIFACTS, MARKER, USED, manifest_key

_MANIFESTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of a cache.

    entry:   its manifest; None when there is none, or it cannot be read.
    used_s, created_s: seconds since the epoch.
    objects: in a store, all that lies below it.
    """

    key: str
    entry: Entry | None
    size_bytes: int
    created_s: float
    used_s: float
    objects: tuple[StoredObject, ...] = ()

    @property
    def what(self) -> str:
        """The action and the model."""
        if self.entry is None:
            return "(incomplete)"
        return self.entry.what or ", ".join(sorted(self.entry.files)[:2])


def list_local(root: Path) -> list[Listed]:
    """Every entry of a local cache, the longest unused first."""
    return sorted(_local(root), key=lambda listed: (listed.used_s, listed.key))


def _local(root: Path) -> Iterator[Listed]:
    for directory in (root / "artifacts").glob("??/*"):
        if not is_digest(directory.name):
            continue
        with suppress(FileNotFoundError):  # removed by another gc
            used_s = directory.stat().st_mtime
            entry = None
            with suppress(OSError, ValueError):
                used_s = (directory / RECORD).stat().st_mtime
                entry = entry_from_text(read_bounded(directory / RECORD), directory.name)
            size_bytes = bytes_below(directory)
            created_s = entry.created_s if entry is not None and entry.created_s else used_s
            yield Listed(directory.name, entry, size_bytes, created_s, used_s)


def list_store(store: ObjectStore) -> list[Listed]:
    """Every entry of a shared cache, the longest unused first; one listing and one object for each entry."""
    below: dict[str, list[StoredObject]] = defaultdict(list)
    for stored in store.list(ARTIFACTS):
        parts = stored.key.split("/")
        if len(parts) == 4 and is_digest(parts[2]):
            below[parts[2]].append(stored)
    entries = _entries(store, sorted(below))
    return sorted(
        (_stored(key, entries.get(key), objects) for key, objects in below.items()),
        key=lambda listed: (listed.used_s, listed.key),
    )


def is_shared_cache(store: ObjectStore) -> bool:
    """Whether anything was ever put into a shared cache there."""
    return store.get(MARKER) is not None


def _entries(store: ObjectStore, keys: Sequence[str]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for start in range(0, len(keys), _MANIFESTS_AT_ONCE):
        some = {manifest_key(key): key for key in keys[start : start + _MANIFESTS_AT_ONCE]}
        for path, text in store.get_many(list(some)).items():
            with suppress(ValueError):
                entries[some[path]] = entry_from_text(text, some[path])
    return entries


def _stored(key: str, entry: Entry | None, objects: Sequence[StoredObject]) -> Listed:
    noted = [o.modified_s for o in objects if o.key.rsplit("/", 1)[1] in (RECORD, USED)]
    used_s = max(noted or [o.modified_s for o in objects])
    created_s = entry.created_s if entry is not None and entry.created_s else used_s
    size_bytes = sum(o.size_bytes for o in objects)
    return Listed(key, entry, size_bytes, created_s, used_s, tuple(objects))
