"""A local or a shared cache → its corrupt entries, found by reading every byte, and removed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.builder.base.files.digest import digest_of_file
from tritonsmith.builder.base.files.object_store import ObjectStore
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.cache.listing import Listed, list_local, list_store
from tritonsmith.builder.cache.shared import fetch_entry, manifest_key
from tritonsmith.builder.cache.sweep import Tell


@dataclass(frozen=True, slots=True)
class Corrupt:
    """An entry that is not what its manifest says, and why."""

    listed: Listed
    why: str


@dataclass(frozen=True, slots=True)
class Verified:
    """How many entries were read, and which of them are corrupt."""

    entries: int
    size_bytes: int
    corrupt: tuple[Corrupt, ...]


def verify_local(cache: Cache, tell: Tell) -> Verified:
    """Reads every file of every entry, whatever its stat says; removes corrupt entries."""
    entries = list_local(cache.root)
    corrupt = []
    for number, listed in enumerate(entries):
        tell(f"reading {listed.what}", number, len(entries))
        why = _damage(listed, cache.directory(listed.key))
        if why:
            corrupt.append(Corrupt(listed, why))
            with suppress(FileNotFoundError):
                cache.remove(listed.key)
    return _verified(entries, corrupt)


def verify_store(store: ObjectStore, cache: Cache, tell: Tell, *, remove: bool) -> Verified:
    """Downloads every entry in turn and reads it; remove: takes corrupt ones out of the store.

    What has no manifest is no entry: an upload may be under way.
    """
    entries = [listed for listed in list_store(store) if _has_manifest(listed)]
    corrupt = []
    for number, listed in enumerate(entries):
        tell(f"reading {listed.what}", number, len(entries))
        why = "artifact.json cannot be read"
        if listed.entry is not None:
            with cache.workspace() as into:
                why = fetch_entry(store, listed.entry, into)
        if why and store.get(manifest_key(listed.key)) is not None:
            corrupt.append(Corrupt(listed, why))
            if remove:
                store.delete([manifest_key(listed.key), *(o.key for o in listed.objects)])
    return _verified(entries, corrupt)


def _verified(entries: Sequence[Listed], corrupt: Sequence[Corrupt]) -> Verified:
    return Verified(len(entries), sum(e.size_bytes for e in entries), tuple(corrupt))


def _has_manifest(listed: Listed) -> bool:
    return any(o.key == manifest_key(listed.key) for o in listed.objects)


def _damage(listed: Listed, directory: Path) -> str:
    """What is wrong with a local entry; empty when nothing is, or it went away meanwhile."""
    if not directory.is_dir():
        return ""
    if listed.entry is None:
        return "artifact.json is missing or cannot be read"
    try:
        for name, digest in listed.entry.files.items():
            if digest_of_file(directory / name) != digest:
                return f"{name} does not match its digest"
    except OSError as error:
        return f"{Path(error.filename or '').name}: {error.strerror}"
    return ""
