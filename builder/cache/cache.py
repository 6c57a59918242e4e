"""Action key → Artifact on disk, and in a shared cache behind it: verified when read, renamed into place, never changed.

artifacts/ab/KEY/…, artifact.json        an artifact; artifact.json's mtime is its last use, to the hour
requests/ab/REQUEST/NAMES-KEY.json       builder/cache/request_records.py
owed/STORE/…                             what the shared cache has still to be given
running/, tmp/                           builder/cache/session.py
stat.json, logs/, timing/                digests of files as last seen; logs of actions; TensorRT's timings
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.action import Artifact, Kind
from tritonsmith.builder.base.files.digest import StatCache, digest_of_file, digest_of_value
from tritonsmith.builder.base.files.disk import (
    adopt,
    clear_away,
    delete,
    files_below,
    move,
    take_out,
    write_atomically,
)
from tritonsmith.builder.base.files.untrusted import inside, read_bounded
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.cache.entry import RECORD, Entry, entry_from_text, is_digest, text_of_entry
from tritonsmith.builder.cache.entry_files import check_name, is_renamed, is_text, linked, note_use, sync
from tritonsmith.builder.cache.record import checked_record
from tritonsmith.builder.cache.request_records import (
    dependencies_from_text,
    parse_record_name,
    record_name,
    text_of_record,
)
from tritonsmith.builder.cache.session import Session, locked_file

if TYPE_CHECKING:  # the object stores' side of it: not for those who have none
    from tritonsmith.builder.cache.shared import SharedCache


def default_cache_directory() -> Path:
    """$TRITONSMITH_CACHE, or the user's cache directory by the XDG rules."""
    override = os.environ.get("TRITONSMITH_CACHE")
    if override:
        return Path(override).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    # platformdirs answers the same on Linux, 20 ms later
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "tritonsmith"


class Cache:
    """A local content-addressed cache, and the shared one behind it.

    Threads may share one; processes may use one directory at the same time. What is not in the local cache is
    looked for in the shared one, copied, verified and kept; what is put goes into both. A shared cache that fails
    is a warning, never an error.
    """

    def __init__(self, root: Path, shared: SharedCache | None = None) -> None:
        """BuildError when a directory of the cache is a link; the cache itself may be one."""
        with suppress(OSError), os.scandir(root) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise linked(root, f"{entry.name!r} is a link")
        self.root = root
        self.shared = shared
        self.stats = StatCache(root / "stat.json")
        self._session: Session | None = None
        self._guard = threading.Lock()
        self._one_at_a_time: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._is_settled = shared is None

    def get(self, key: str, kind: Kind | None = None) -> Artifact | None:
        """The artifact, from the shared cache if need be; an entry whose files do not match their digests is removed.

        A damaged entry, or one whose record is not of this kind of action, is a miss with a warning.
        """
        self._begin()
        with self._lock(key):
            artifact = self._local(key, kind)
            if artifact is None and self.shared is not None:
                artifact = self._fetched(key, kind, self.shared)
        return artifact

    def has(self, key: str) -> bool:
        """Whether `get` would find it; nothing is copied, and of the shared cache only the manifest is read."""
        return self.has_here(key) or (self.shared is not None and self.shared.has(key))

    def has_here(self, key: str) -> bool:
        """Whether the local cache has it, whole."""
        return self._local(key) is not None

    def get_here(self, key: str, kind: Kind) -> Artifact | None:
        """The artifact, when the local cache has it, whole."""
        return self._local(key, kind)

    def put(self, key: str, made: Path, record: Mapping[str, Any], what: str = "") -> Artifact:
        """Moves the files in `made` (a directory from `workspace`) into the cache under `key`, and copies them on.

        what: the action and the model, for `tritonsmith cache ls`.
        """
        self._begin()
        paths = files_below(made)
        for path in paths:
            check_name(path.relative_to(made).as_posix(), what)
        files = {path.relative_to(made).as_posix(): digest_of_file(path) for path in paths}
        size_bytes = sum(path.stat().st_size for path in paths)
        with self._lock(key):
            artifact = self._take_in(made, Entry(key, files, record, what, size_bytes, time.time()))
            self._hand_on(f"artifact.{key}")
        return artifact

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A private directory on the cache's file system, removed at the end unless `put` took it."""
        directory = self._opened_session().workspace()
        try:
            yield directory
        finally:
            clear_away(directory)

    def remember(self, request: str, dependencies: Iterable[str], key: str) -> None:
        """Notes that `request` read dependencies of these names and made `key`."""
        names = sorted(dependencies)
        name = record_name(names, key)
        path = self._requests(request) / str(name)
        text = text_of_record(names)
        if not is_text(path, text):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
            self._hand_on(f"request.{request}.{name}")

    def remembered(self, request: str) -> Iterator[tuple[str, ...]]:
        """Names of the dependencies of earlier runs of the request: of runs here, then of runs elsewhere."""
        here = self.remembered_here(request)
        yield from here
        if self.shared is not None:
            yield from (names for names in self.shared.remembered(request) if names not in here)

    def remembered_here(self, request: str) -> list[tuple[str, ...]]:
        """Names of the dependencies of earlier runs that the local cache knows of, newest first."""
        newest: dict[str, tuple[float, str]] = {}
        with suppress(OSError), os.scandir(self._requests(request)) as listed:
            for found in listed:
                name = parse_record_name(found.name)
                if name is not None:
                    place = (found.stat().st_mtime, found.path)
                    newest[name.names] = max(newest.get(name.names, place), place)
        remembered = []
        for _, path in sorted(newest.values(), reverse=True):
            with suppress(OSError, ValueError):
                dependencies = dependencies_from_text(read_bounded(Path(path)))
                if dependencies is not None:
                    remembered.append(dependencies)
        return remembered

    def prefetch(self, requests: Sequence[str], key_of: Callable[[str, Sequence[str]], str | None]) -> None:
        """Reads of the shared cache at once what `remembered` and `has` will ask of these requests.

        key_of: (request, dependencies' names) → the key by their content now, None when one is gone.
        """
        if self.shared is None or not requests:
            return
        self.shared.prefetch_requests(requests)
        keys = (key_of(r, names) for r in requests for names in self.shared.remembered(r))
        self.shared.prefetch_entries({key for key in keys if key is not None})

    def discard(self, key: str, why: str) -> None:
        """Removes an entry of the local cache that is corrupt, with a warning."""
        note(f"warning: cache entry {key[:12]} is corrupt ({why}); it is made again")
        with suppress(OSError):
            self.remove(key)

    def refuse(self, key: str, why: str) -> None:
        """Removes an entry that is whole and not what its key stands for, with a warning; the next `put` replaces it in the
        shared cache, too."""
        self.discard(key, why)
        if self.shared is not None:
            self.shared.distrust(key, why)

    def remove(self, key: str, unused_since_s: float | None = None) -> bool:
        """Takes an entry out of the local cache in one rename, then deletes it.

        unused_since_s: its last use as it was seen; an entry used since is put back. False: it was.
        """
        directory, grave = self.directory(key), self._opened_session().workspace()
        try:
            taken = take_out(directory.parent, key, into=grave)
            with suppress(FileNotFoundError):
                if unused_since_s is not None and (taken / RECORD).stat().st_mtime > unused_since_s:
                    move(taken, directory.parent, key)
                    return False
            return True
        finally:
            clear_away(grave)

    def close(self) -> None:
        """Ends this process's claim on the cache before the process does."""
        with self._guard:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def directory(self, key: str) -> Path:
        """Where the local cache has, or would have, an entry; ValueError for what is no key."""
        if not is_digest(key):
            raise ValueError(f"{key!r:.80} is not a cache key")
        return self._place("artifacts", key[:2], key)

    def _local(self, key: str, kind: Kind | None = None) -> Artifact | None:
        directory = self.directory(key)
        try:
            note_use(directory / RECORD)
            entry = entry_from_text(read_bounded(directory / RECORD), key)
            record = entry.record if kind is None else checked_record(kind, entry.record, entry.files)
            for name, digest in entry.files.items():
                if self.stats.digest(directory / name) != digest:
                    raise ValueError(f"{name} does not match its digest")
        except FileNotFoundError as error:
            if os.path.lexists(directory):
                self.discard(key, f"{Path(error.filename or '').name} is missing")
            return None
        except (OSError, ValueError) as error:
            if os.path.lexists(directory):
                self.discard(key, str(error))
            return None
        return Artifact(key, directory, entry.files, record)

    def _fetched(self, key: str, kind: Kind | None, shared: SharedCache) -> Artifact | None:
        if not shared.has(key):
            return None
        with self.workspace() as made:
            entry = shared.download(key, made, kind)
            if entry is None:
                return None
            taken = self._take_in(made, entry)
            return (
                taken
                if kind is None
                else replace(taken, record=checked_record(kind, taken.record, taken.files))
            )

    def _take_in(self, made: Path, entry: Entry) -> Artifact:
        """Moves verified files into place; whoever was first with this key stays, if whole."""
        (made / RECORD).write_text(text_of_entry(entry), encoding="utf-8")
        sync(made)
        target = self.directory(entry.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        while not is_renamed(made, target):
            # Inputs are equal, so the other build's artifact is as good as ours; a damaged one makes way.
            artifact = self._local(entry.key)
            if artifact is not None:
                return artifact
        for name, digest in entry.files.items():
            self.stats.learn(target / name, digest)
        return Artifact(entry.key, target, entry.files, entry.record)

    def _begin(self) -> None:
        """Claims the cache for this process."""
        with suppress(OSError):
            self._opened_session()
        self.settle()

    def _opened_session(self) -> Session:
        with self._guard:
            if self._session is None:
                self._session = Session(self.root)
            return self._session

    def _hand_on(self, what: str) -> None:
        """Copies to the shared cache; a marker tells until then that it is owed, even to the next run."""
        if self.shared is None or not self.shared.writable:
            return
        marker = self._owed() / what
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            with locked_file(marker, create=True):
                if self._given(what, self.shared):
                    delete(marker)
        except BlockingIOError:
            pass  # another process is at it
        except OSError:
            self._given(what, self.shared)

    def settle(self) -> None:
        """Gives the shared cache, once a run, what earlier runs could not; a build does so by itself."""
        with self._guard:
            is_settled, self._is_settled = self._is_settled, True
        if is_settled or self.shared is None or not self.shared.writable or not self._owed().is_dir():
            return
        owed = sorted(self._owed().iterdir())
        if owed:
            note(f"giving {self.shared.url} what an earlier run could not")
        for marker in owed:
            with suppress(OSError), locked_file(marker):
                if self._given(marker.name, self.shared):
                    delete(marker)

    def _given(self, what: str, shared: SharedCache) -> bool:
        """Whether the shared cache has it now, or it is gone here."""
        kind, _, rest = what.partition(".")
        if not is_digest(rest.partition(".")[0]):
            return True  # no marker of ours
        if kind == "artifact":
            artifact = self._local(rest) if is_digest(rest) else None
            if artifact is None:
                return True
            entry = entry_from_text(read_bounded(artifact.directory / RECORD), rest)
            return shared.upload(entry, artifact.directory)
        request, _, file = rest.partition(".")
        name = parse_record_name(file)
        with suppress(OSError, ValueError):
            if name is not None:
                text = read_bounded(self._requests(request) / file).decode()
                return shared.remember(request, name, text)
        return True

    def _owed(self) -> Path:
        assert self.shared is not None
        return adopt(self._place("owed", digest_of_value(self.shared.url)[:16]))

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """One thread of this process at a time has to do with a key."""
        with self._guard:
            lock = self._one_at_a_time[key]
        with lock:
            yield

    def _requests(self, request: str) -> Path:
        return self._place("requests", request[:2], request)

    def _place(self, *parts: str) -> Path:
        """A place in the cache; BuildError where a link leads out of it: what lies in a cache is also deleted."""
        try:
            return inside(self.root, "/".join(parts))
        except ValueError as error:
            raise linked(self.root, str(error)) from None
