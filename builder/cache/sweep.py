"""(entries, what to keep) → what gc removes of a local or a shared cache; an entry that a running build may use stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.builder.base.files.disk import adopt, bytes_below, delete, delete_empty
from tritonsmith.builder.base.files.object_store import ObjectStore, StoredObject
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.cache.entry import RECORD
from tritonsmith.builder.cache.entry_files import USED_EVERY_S
from tritonsmith.builder.cache.listing import Listed, list_local, list_store
from tritonsmith.builder.cache.request_records import parse_record_name
from tritonsmith.builder.cache.session import leftovers, remove_leftovers, running_sessions
from tritonsmith.builder.cache.shared import ARTIFACTS, REQUESTS, USED, manifest_key

_ORPHAN_S = 3600.0
# An upload of a large artifact may take this long before its manifest is there.
_UPLOAD_S = 24 * 3600.0
# Of a store nobody knows who is reading: what was put or downloaded within this time stays.
_READING_S = 3600.0
_DELETED_AT_ONCE = 16

Tell = Callable[[str, int, int | None], None]
"""(what is being done, steps done, steps in all)"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may stay. None: no limit. keep: keys that stay whatever the limits say."""

    size_bytes: int | None = None
    unused_s: float | None = None
    keep: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed, or would be: entries, and the rest (leftovers of killed builds, records of what is gone)."""

    removed: tuple[Listed, ...]
    rest: int
    freed_bytes: int
    kept: int
    kept_bytes: int
    in_use: int


def choose(
    entries: Sequence[Listed], limits: Limits, now_s: float, in_use_since_s: float
) -> tuple[Listed, ...]:
    """The entries to remove, the longest unused first; those used since in_use_since_s stay; pure."""
    may_go = sorted(
        (e for e in entries if e.key not in limits.keep and e.used_s < in_use_since_s),
        key=lambda e: (e.used_s, e.key),
    )
    size_bytes = sum(e.size_bytes for e in entries)
    removed = []
    for entry in may_go:
        is_old = limits.unused_s is not None and now_s - entry.used_s > limits.unused_s
        is_too_much = limits.size_bytes is not None and size_bytes > limits.size_bytes
        if is_old or is_too_much:
            removed.append(entry)
            size_bytes -= entry.size_bytes
    return tuple(removed)


def in_use_since(root: Path, now_s: float) -> float:
    """Entries used after this may be in the hands of a build that runs now."""
    began = running_sessions(root).values()
    return min(began) - USED_EVERY_S if began else now_s


def sweep_local(cache: Cache, limits: Limits, tell: Tell, *, dry_run: bool = False) -> Swept:
    """Removes what is beyond the limits, what killed builds left, and records of requests whose artifact is gone."""
    root, now_s = cache.root, time.time()
    entries = list_local(root)
    since_s = in_use_since(root, now_s)
    chosen = choose(entries, limits, now_s, since_s)
    rest = leftovers(root)
    size_bytes = sum(bytes_below(path) for path in rest)
    gone = []
    if not dry_run:
        remove_leftovers(root)
    for number, entry in enumerate(chosen):
        tell("removing entries", number, len(chosen))
        if dry_run or _removed(cache, entry):
            gone.append(entry)
    kept = {e.key for e in entries} - {e.key for e in gone}
    adopt(root / "requests")
    orphans = [path for path in _records(root) if _is_orphan(path, kept, now_s)]
    for path in () if dry_run else orphans:
        with suppress(OSError):
            delete(path)
            delete_empty(path.parent)
    if not dry_run:
        cache.stats.forget_missing()
    return _swept(entries, gone, len(rest) + len(orphans), size_bytes, limits, since_s)


def sweep_store(store: ObjectStore, limits: Limits, tell: Tell, *, dry_run: bool = False) -> Swept:
    """The same of a shared cache; of an entry the manifest goes first, so that nobody sees the half of one."""
    now_s = time.time()
    tell("listing", 0, None)
    listed = list_store(store)
    whole = [e for e in listed if e.entry is not None]
    since_s = now_s - _READING_S
    chosen = choose(whole, limits, now_s, since_s)
    kept = {e.key for e in whole} - {e.key for e in chosen}
    rest = [o for e in listed if e.key in kept or e.entry is None for o in _unreferenced(e, now_s)]
    rest += [o for o in store.list(REQUESTS) if _is_orphan_record(o, kept, now_s)]
    rest += [o for o in store.list(ARTIFACTS) if o.key.count("/") != 3 and now_s - o.modified_s > _UPLOAD_S]
    if not dry_run:
        for number, entry in enumerate(chosen):
            tell("removing entries", number, len(chosen))
            store.delete([manifest_key(entry.key)])
            _delete(store, (o.key for o in entry.objects))
        tell("removing what was left", 0, None)
        _delete(store, (o.key for o in rest))
    return _swept(whole, chosen, len(rest), sum(o.size_bytes for o in rest), limits, since_s)


def _swept(
    entries: Sequence[Listed],
    gone: Sequence[Listed],
    rest: int,
    rest_bytes: int,
    limits: Limits,
    since_s: float,
) -> Swept:
    removed = {e.key for e in gone}
    kept = [e for e in entries if e.key not in removed]
    in_use = [e for e in kept if e.used_s >= since_s and e.key not in limits.keep]
    freed_bytes = rest_bytes + sum(e.size_bytes for e in gone)
    return Swept(tuple(gone), rest, freed_bytes, len(kept), sum(e.size_bytes for e in kept), len(in_use))


def _removed(cache: Cache, entry: Listed) -> bool:
    """Whether the entry is gone; one that a build took a moment ago is put back."""
    try:
        return cache.remove(entry.key, unused_since_s=entry.used_s)
    except FileNotFoundError:
        return True


def _records(root: Path) -> Iterable[Path]:
    # Two levels below, and files of an older layout one level below.
    yield from (p for p in (root / "requests").glob("??/*") if p.is_file())
    yield from (root / "requests").glob("??/*/*")


def _is_orphan(path: Path, kept: Collection[str], now_s: float) -> bool:
    name = parse_record_name(path.name)
    with suppress(OSError):
        return (name is None or name.key not in kept) and now_s - path.stat().st_mtime > _ORPHAN_S
    return False


def _is_orphan_record(stored: StoredObject, kept: Collection[str], now_s: float) -> bool:
    name = parse_record_name(stored.key.rsplit("/", 1)[1])
    return (name is None or name.key not in kept) and now_s - stored.modified_s > _UPLOAD_S


def _unreferenced(listed: Listed, now_s: float) -> list[StoredObject]:
    """Objects below an entry that its manifest does not name: a killed upload's, or of whoever came second."""
    named = set() if listed.entry is None else {RECORD, USED, *listed.entry.files.values()}
    return [
        o for o in listed.objects if o.key.rsplit("/", 1)[1] not in named and now_s - o.modified_s > _UPLOAD_S
    ]


def _delete(store: ObjectStore, keys: Iterable[str]) -> None:
    with ThreadPoolExecutor(_DELETED_AT_ONCE) as pool:
        list(pool.map(lambda key: store.delete([key]), keys))
