"""(key) ↔ artifact on an object store that several machines share, behind each one's local cache.

    tritonsmith-cache.json                   the format, written once
    artifacts/ab/KEY/SHA256                  a file, under its digest: writers of one key never mix theirs
    artifacts/ab/KEY/artifact.json           the manifest, written last: without it there is no entry
    artifacts/ab/KEY/used                    its age is the time since the last download
    requests/ab/REQUEST/NAMES-KEY.json       builder/cache/request_records.py

A store that fails is one warning and is not asked again: no build fails because of it.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from tritonsmith.builder.actions.action import Kind
from tritonsmith.builder.base.errors import BuildError, ToolError, TritonsmithError
from tritonsmith.builder.base.files.digest import digest_of_file
from tritonsmith.builder.base.files.disk import delete
from tritonsmith.builder.base.files.object_store import ObjectStore, open_store
from tritonsmith.builder.base.files.store_url import check_store_url
from tritonsmith.builder.base.files.untrusted import parsed
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.cache.entry import FORMAT, RECORD, Entry, entry_from_text, text_of_entry
from tritonsmith.builder.cache.record import checked_record
from tritonsmith.builder.cache.request_records import RecordName, dependencies_from_text, parse_record_name
from tritonsmith.builder.cache.transfer import told_transfer

MARKER = "tritonsmith-cache.json"
ARTIFACTS = "artifacts"
REQUESTS = "requests"
USED = "used"
# More requests than this are found by listing all of them once.
_LIST_EACH = 16
_FILES_AT_ONCE = 4
# An entry younger than this needs no word that it was used.
_USED_AFTER_S = 24 * 3600.0

_Answer = TypeVar("_Answer")
_Names = tuple[str, ...]
_Records = dict[str, tuple[_Names, ...]]
"""Request → sets of dependencies' names."""


@dataclass(slots=True)
class _Known:
    """What has been read of the store."""

    texts: dict[str, bytes] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    corrupt: set[str] = field(default_factory=set)
    requests: _Records = field(default_factory=dict)


class SharedCache:
    """The cache behind a URL; threads may share one.

    writable: False for builds that are not trusted, which may use what is there and add nothing.
    """

    def __init__(self, url: str, *, writable: bool = True) -> None:
        """UsageError for what is no address of a store, ToolError for a package that is missing; opens nothing."""
        check_store_url(url)
        self.url = url
        self.writable = writable
        self._store: ObjectStore | None = None
        self._may_write = writable
        self._is_marked = False
        self._is_down = False
        self._opening = threading.Lock()
        self._guard = threading.Lock()
        self._known = _Known()

    def has(self, key: str) -> bool:
        """Whether a whole manifest is there."""
        return self._entry(key) is not None

    def download(self, key: str, into: Path, kind: Kind | None = None) -> Entry | None:
        """Copies the entry's files into an empty directory and verifies every digest; None when it is not there.

        None, too, when its record is not of this kind of action. OSError when this machine's disk is full.
        """
        for _ in range(2):
            entry = self._entry(key)
            if entry is None:
                return None
            why = self._fault(entry, kind) or self._ask(partial(fetch_entry, entry=entry, into=into), None)
            if why is None:
                return None  # the store has failed
            if not why:
                self._used(entry)
                return entry
            _empty(into)
            # Another machine may have replaced or removed it meanwhile.
            self._forget(key)
            if self._entry(key) == entry:
                self.distrust(key, why)
        return None

    def _fault(self, entry: Entry, kind: Kind | None) -> str | None:
        try:
            if kind is not None:
                checked_record(kind, entry.record, entry.files)
        except ValueError as error:
            return str(error)
        return None

    def upload(self, entry: Entry, directory: Path) -> bool:
        """Copies an entry's files, the manifest last; nothing when another machine was first. False when it failed."""

        def send(store: ObjectStore) -> bool:
            manifest = manifest_key(entry.key)
            if entry.key not in self._known.corrupt and _is_whole(_text_of(store, manifest), entry.key):
                return True
            if not self._is_marked:
                store.put(MARKER, json.dumps({"format": FORMAT}).encode())
                self._is_marked = True
            files = {digest: directory / name for name, digest in entry.files.items()}
            told = f"uploading {entry.what or entry.key[:12]} to {store.url}"
            _each(
                lambda digest: store.upload(
                    files[digest], object_key(entry.key, digest), told_transfer(told)
                ),
                files,
            )
            store.put(manifest, text_of_entry(entry).encode())
            return True

        def send_or_leave(store: ObjectStore) -> bool:
            try:
                return send(store)
            except BuildError as error:
                if error.code != "store_object":
                    raise
                return True  # what lies there is no object and cannot be replaced: the entry is only here

        done = self._ask(send_or_leave, False, writing=True)
        if done:
            with self._guard:
                self._known.corrupt.discard(entry.key)
                self._known.absent.discard(entry.key)
                self._known.texts.pop(entry.key, None)
        return done

    def remember(self, request: str, name: RecordName, text: str) -> bool:
        """Adds the record of one (request, key). False when it failed."""

        def send(store: ObjectStore) -> bool:
            store.put(f"{_request(request)}/{name}", text.encode())
            return True

        with self._guard:
            self._known.requests.pop(request, None)
        return self._ask(send, False, writing=True)

    def remembered(self, request: str) -> tuple[_Names, ...]:
        """Dependencies' names of earlier runs of the request, anywhere."""
        if request not in self._known.requests:
            self.prefetch_requests([request])
        return self._known.requests.get(request, ())

    def prefetch_requests(self, requests: Collection[str]) -> None:
        """Reads what is remembered of many requests: one listing, and one object for each set of names."""
        wanted = set(requests)
        if not wanted:
            return
        found: _Records = self._ask(lambda store: _records(store, wanted), {})
        with self._guard:
            self._known.requests.update({request: found.get(request, ()) for request in wanted})

    def prefetch_entries(self, keys: Iterable[str]) -> None:
        """Reads the manifests of many keys at once; those that are known to be there are not read again."""
        wanted = {key for key in keys if key not in self._known.texts and key not in self._known.corrupt}
        if not wanted:
            return
        paths = {manifest_key(key): key for key in wanted}
        found: dict[str, bytes] = self._ask(lambda store: store.get_many(list(paths)), {})
        with self._guard:
            self._known.absent |= wanted
            for path, text in found.items():
                self._known.texts[paths[path]] = text
                self._known.absent.discard(paths[path])

    def _entry(self, key: str) -> Entry | None:
        if key in self._known.corrupt or key in self._known.absent:
            return None
        text = self._known.texts.get(key)
        if text is None:
            text = self._ask(lambda store: _text_of(store, manifest_key(key)), None)
            if text is None:
                return None
            with self._guard:
                self._known.texts[key] = text
        try:
            return entry_from_text(text, key)
        except ValueError as error:
            self.distrust(key, str(error))
            return None

    def _forget(self, key: str) -> None:
        with self._guard:
            self._known.texts.pop(key, None)

    def distrust(self, key: str, why: str) -> None:
        """Takes an entry for corrupt from now on, with a warning: it is not found, and the next upload replaces it."""
        with self._guard:
            if key in self._known.corrupt:
                return
            self._known.corrupt.add(key)
        healed = "it is made again" + (" and replaced" if self._may_write else "")
        note(f"warning: {key[:12]} in the shared cache {self.url} is corrupt ({why}); {healed}")

    def _used(self, entry: Entry) -> None:
        if time.time() - entry.created_s > _USED_AFTER_S:
            path = object_key(entry.key, USED)
            self._ask(lambda store: store.put(path, b""), None, writing=True)

    def _ask(
        self, call: Callable[[ObjectStore], _Answer], otherwise: _Answer, *, writing: bool = False
    ) -> _Answer:
        """The store's answer; `otherwise` once it has failed, and for writing where that is not allowed."""
        if self._is_down or (writing and not self._may_write):
            return otherwise
        try:
            return call(self._opened())
        except (BuildError, ToolError) as error:
            self._give_up(error, writing)
            return otherwise

    def _opened(self) -> ObjectStore:
        with self._opening:
            if self._is_down:
                raise BuildError("the store failed before", code="store")
            if self._store is None:
                store = open_store(self.url)
                marker = _text_of(store, MARKER)
                if marker is not None and not _is_ours(marker):
                    raise BuildError("it has the format of another tritonsmith version", code="store_format")
                if marker is None and not self.writable:
                    note(f"note: the shared cache {self.url} is empty, or there is none at this address")
                self._store, self._is_marked = store, marker is not None
            return self._store

    def _give_up(self, error: TritonsmithError, writing: bool) -> None:
        denied = writing and isinstance(error.__cause__, PermissionError)
        with self._guard:
            if self._is_down or (denied and not self._may_write):
                return
            self._is_down, self._may_write = not denied, False
        if denied:
            note(
                f"warning: the shared cache {self.url} may only be read ({error.message}); what is built stays here "
                "(--remote-cache-read-only says that this is meant)"
            )
        else:
            note(
                f"warning: the shared cache {self.url} cannot be used: {error.message}; "
                "going on with the local cache only"
            )


def fetch_entry(store: ObjectStore, entry: Entry, into: Path) -> str:
    """Downloads and verifies; what is wrong with the entry, an empty text when nothing is."""
    by_digest: dict[str, list[str]] = defaultdict(list)
    for name, digest in entry.files.items():
        by_digest[digest].append(name)
    told = f"downloading {entry.what or entry.key[:12]} from {store.url}"

    def fetch(digest: str) -> str:
        first, *others = (into / name for name in by_digest[digest])
        try:
            if not store.download(object_key(entry.key, digest), first, told_transfer(told)):
                return f"{by_digest[digest][0]} is missing"
        except BuildError as error:
            if error.code != "store_object":
                raise
            return f"{by_digest[digest][0]} is no file"
        if digest_of_file(first) != digest:
            return f"{by_digest[digest][0]} does not match its digest"
        for other in others:
            other.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(first, other)
        return ""

    return next((why for why in _each(fetch, by_digest) if why), "")


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        delete(path)


def _records(store: ObjectStore, wanted: set[str]) -> _Records:
    """Of each wanted request that is there, the sets of names; newest first."""
    if len(wanted) > _LIST_EACH:
        listed = store.list(REQUESTS)
    else:
        listed = [o for each in _each(lambda r: store.list(_request(r)), wanted) for o in each]
    newest: dict[tuple[str, str], tuple[float, str]] = {}
    for stored in listed:
        parts = stored.key.split("/")
        name = parse_record_name(parts[-1])
        if len(parts) == 4 and name is not None and parts[2] in wanted:
            place = (parts[2], name.names)
            newest[place] = max(newest.get(place, (0.0, "")), (stored.modified_s, stored.key))
    texts = store.get_many([path for _, path in newest.values()])
    found: dict[str, list[tuple[float, _Names]]] = defaultdict(list)
    for (request, _), (modified_s, path) in newest.items():
        dependencies = dependencies_from_text(texts.get(path, b""))
        if dependencies is not None:
            found[request].append((modified_s, dependencies))
    return {request: tuple(d for _, d in sorted(of, reverse=True)) for request, of in found.items()}


def _each(call: Callable[[str], _Answer], values: Iterable[str]) -> list[_Answer]:
    """Calls for every value, a few at a time; the first exception is raised."""
    values = list(values)
    if len(values) <= 1:
        return [call(value) for value in values]
    with ThreadPoolExecutor(min(_FILES_AT_ONCE, len(values))) as pool:
        return list(pool.map(call, values))


def _text_of(store: ObjectStore, key: str) -> bytes | None:
    """An object's bytes; empty, which is nothing of ours, for what is there and cannot be one."""
    try:
        return store.get(key)
    except BuildError as error:
        if error.code != "store_object":
            raise
        return b""


def _is_whole(text: bytes | None, key: str) -> bool:
    try:
        return text is not None and bool(entry_from_text(text, key))
    except ValueError:
        return False


def _is_ours(marker: bytes) -> bool:
    try:
        return bool(parsed(dict[str, int], marker).get("format") == FORMAT)
    except ValueError:
        return False


def object_key(key: str, name: str) -> str:
    """Where an object of an entry lies."""
    return f"{ARTIFACTS}/{key[:2]}/{key}/{name}"


def manifest_key(key: str) -> str:
    """Where an entry's manifest lies."""
    return object_key(key, RECORD)


def _request(request: str) -> str:
    return f"{REQUESTS}/{request[:2]}/{request}"
