"""(URL, key) ↔ bytes: an object store behind fsspec (s3, gs, az, file, memory); an object is written whole or not.

Keys are relative, with /. A single put is atomic on object stores; on file:// it is a temporary name and a rename.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tritonsmith.builder.base.errors import BuildError, ToolError, UsageError, Where
from tritonsmith.builder.base.files.back_ends import (
    is_refused_condition,
    is_unknown_condition,
    modified_s,
    present,
    reason,
)
from tritonsmith.builder.base.files.digest import digest_of_bytes
from tritonsmith.builder.base.files.disk import beside, delete_empty, delete_written, replacing
from tritonsmith.builder.base.files.store_url import check_store_url
from tritonsmith.builder.base.files.untrusted import open_regular, read_bounded

# How each back end's pipe_file is told that the object must not be there.
_CREATE: dict[str, dict[str, Any]] = {
    "s3": {"mode": "create"},
    "gs": {"mode": "create"},
    "gcs": {"mode": "create"},
    "az": {"overwrite": False},
    "abfs": {"overwrite": False},
}
_ATTEMPTS = 2
_PARTS_AT_ONCE = 4
# What a download meets on this machine, not in the store.
# Of file://: a file that is no regular one says so without a number; a socket, links in a circle, a file as directory.
_NO_OBJECT = (None, errno.ENXIO, errno.ELOOP, errno.ENOTDIR)
_LOCAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Transferred = Callable[[int, int], None]
"""(bytes done, bytes in all) of a transfer; called from the thread that transfers"""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing. modified_s: seconds since the epoch, 0.0 where the store does not tell."""

    key: str
    size_bytes: int
    modified_s: float


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A place that holds objects by key. Every method raises BuildError `store` when the store fails."""

    url: str
    files: Any
    root: str

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None when there is none."""
        with self._told("read", key):
            try:
                if self._is_local:
                    return self._local(key)
                content: bytes = self.files.cat_file(self._path(key), **self._in_one_piece)
            except FileNotFoundError:
                return None
            return content

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Bytes of those that are there, fetched at once."""
        if not keys:
            return {}
        if self._is_local:
            return {key: data for key in keys if (data := self._local_or_empty(key)) is not None}
        paths = {self._path(key): key for key in keys}
        with self._told("read", keys[0]):
            found = self.files.cat(list(paths), on_error="return", **self._in_one_piece)
            return {paths[self._same(p, paths)]: data for p, data in found.items() if present(data)}

    def put(self, key: str, data: bytes) -> None:
        """Writes one object."""
        with self._told("write", key):
            if self._is_local:
                self._renamed(key, lambda temporary: Path(temporary).write_bytes(data))
            else:
                self.files.pipe_file(self._path(key), data)

    def put_new(self, key: str, data: bytes) -> bool:
        """Writes an object that must not be there; False when there is one with another content.

        Of two writers at once one wins on s3, gs and az (their conditional puts), on file:// by the file system.
        A store that knows no condition is asked first.
        """
        with self._told("write", key):
            if self._is_local:
                return self._linked(key, data)
            return self._put_if(key, data, _CREATE.get(self._scheme, {}), lambda: self.get(key) is None)

    def put_over(self, key: str, data: bytes, tag: str) -> bool:
        """Replaces an object whose `tag` still is this one; False when somebody changed or removed it.

        Atomic on s3 (If-Match); elsewhere the tag is compared just before.
        """
        with self._told("write", key):
            if self.tag(key) != tag:
                return False
            if self._is_local:
                self.put(key, data)
                return True
            return self._put_if(key, data, {"IfMatch": tag} if self._scheme == "s3" else {}, lambda: True)

    def tag(self, key: str) -> str | None:
        """A word that changes with the object's content; None when there is none."""
        if self._scheme != "s3":
            content = self.get(key)
            return None if content is None else digest_of_bytes(content)
        with self._told("read", key):
            try:
                self.files.invalidate_cache()
                return str(self.files.info(self._path(key))["ETag"])
            except FileNotFoundError:
                return None

    def download(self, key: str, target: Path, transferred: Transferred | None = None) -> bool:
        """Copies one object to a new local file; False when there is none; OSError when this machine's disk is full."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._told("read", key, passed_on=_LOCAL_ERRORS):
            try:
                if self._is_local:
                    self._copy_local(key, target)
                    return True
                self.files.get_file(self._path(key), str(target), **self._in_parts, **_callback(transferred))
            except FileNotFoundError:
                delete_written(target)
                return False
            return True

    def upload(self, file: Path, key: str, transferred: Transferred | None = None) -> None:
        """Copies one local file to an object, in parts when it is large."""
        with self._told("write", key):
            if self._is_local:
                self._renamed(
                    key, lambda temporary: self.files.put_file(str(file), temporary, **_callback(transferred))
                )
            else:
                self.files.put_file(str(file), self._path(key), **self._in_parts, **_callback(transferred))

    def copy(self, source: str, target: str) -> None:
        """Copies one object to another, without a detour through this machine where the store can."""
        with self._told("write", target):
            if self._is_local:
                self._renamed(target, lambda temporary: shutil.copyfile(self._path(source), temporary))
            else:
                self.files.cp_file(self._path(source), self._path(target))

    def list(self, prefix: str = "") -> list[StoredObject]:
        """All objects below a prefix (a directory), sorted by key; empty when there is none."""
        with self._told("list", prefix):
            self.files.invalidate_cache()
            if self._is_local:
                return sorted(self._walk(Path(self._path(prefix))), key=lambda stored: stored.key)
            try:
                found = self.files.find(self._path(prefix), detail=True)
            except FileNotFoundError:
                return []
            return sorted(
                (
                    StoredObject(posixpath.relpath(path, self.root), int(info["size"] or 0), modified_s(info))
                    for path, info in found.items()
                ),
                key=lambda stored: stored.key,
            )

    def directories(self, prefix: str = "") -> tuple[str, ...]:
        """Names directly below a prefix that have objects below them; one call, however much is below."""
        with self._told("list", prefix):
            self.files.invalidate_cache()
            try:
                found = self.files.ls(self._path(prefix), detail=True)
            except FileNotFoundError:
                return ()
            names = (PurePosixPath(i["name"].rstrip("/")).name for i in found if i["type"] == "directory")
            return tuple(sorted(names))

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects; one that is gone already is no error."""
        for key in keys:
            with self._told("delete", key):
                try:
                    self.files.rm_file(self._path(key))
                except FileNotFoundError:
                    continue

    def remove_empty_directories(self, prefix: str) -> None:
        """Removes the directories below a prefix, and it, that have no files; of file:// only, for stores have none."""
        if not self._is_local:
            return
        for root, _, _ in os.walk(self._path(prefix), topdown=False):
            with suppress(OSError):
                delete_empty(Path(root))

    def _put_if(self, key: str, data: bytes, condition: dict[str, Any], holds: Callable[[], bool]) -> bool:
        """Puts under a condition that the store itself judges; one that cannot judge it gets a plain put."""
        if condition:
            try:
                self.files.pipe_file(self._path(key), data, **condition)
                return True
            except Exception as error:  # each back end has exceptions of its own
                if is_refused_condition(error):
                    # A put whose answer was lost is sent again by the client, and then refused by what it wrote itself.
                    return self.get(key) == data
                if not is_unknown_condition(error):
                    raise
        if not holds():
            return False
        self.files.pipe_file(self._path(key), data)
        return True

    def _linked(self, key: str, data: bytes) -> bool:
        target = Path(self._path(key))
        target.parent.mkdir(parents=True, exist_ok=True)
        with beside(target) as temporary:
            try:
                temporary.write_bytes(data)
                os.link(temporary, target)
            except FileExistsError:
                return False
        return True

    @property
    def _scheme(self) -> str:
        return self.url.partition("://")[0]

    @property
    def _in_one_piece(self) -> dict[str, Any]:
        """s3fs asks for the size of each object first, to read large ones in parts; what is read here is small."""
        return {"max_concurrency": 1} if self.url.startswith("s3://") else {}

    @property
    def _in_parts(self) -> dict[str, Any]:
        """s3fs holds this many parts of a file in memory at a time, of 50 MiB each."""
        return {"max_concurrency": _PARTS_AT_ONCE} if self.url.startswith("s3://") else {}

    @property
    def _is_local(self) -> bool:
        return self.url.startswith("file://")

    def _local(self, key: str) -> bytes:
        """A file's content; BuildError `store_object` for what no store would give: a directory, a FIFO, a huge one."""
        with self._as_object(key):
            return read_bounded(Path(self._path(key)))

    def _copy_local(self, key: str, target: Path) -> None:
        with self._as_object(key):
            source = open_regular(Path(self._path(key)))
        with source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)

    @contextmanager
    def _as_object(self, key: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_OBJECT:
                raise
            raise BuildError(
                f"{posixpath.join(self.url, key)} cannot be read: {error}", code="store_object"
            ) from error

    def _local_or_empty(self, key: str) -> bytes | None:
        """The same for one of many, which is no reason to do without the others: empty text is no object of anybody's."""
        try:
            return self._local(key)
        except FileNotFoundError:
            return None
        except BuildError as error:
            if error.code != "store_object":
                raise
            return b""

    def _walk(self, top: Path) -> Iterator[StoredObject]:
        """What lies below a directory; links are not followed, and what is no regular file is no object."""
        for root, _, names in os.walk(top):
            for name in names:
                with suppress(OSError):
                    status = os.lstat(Path(root) / name)
                    if stat.S_ISREG(status.st_mode):
                        key = posixpath.relpath(posixpath.join(root, name), self.root)
                        yield StoredObject(key, status.st_size, status.st_mtime)

    def _path(self, key: str) -> str:
        if key.startswith("/") or ".." in PurePosixPath(key).parts:
            raise UsageError(f"not a key in a store: {key!r}", code="store_key")
        if self._is_local:
            self._refuse_link(key)
        return posixpath.join(self.root, key) if key else self.root

    def _refuse_link(self, key: str) -> None:
        """BuildError `store_object` for a link on the way: an object would be written or deleted wherever it leads."""
        for above in PurePosixPath(key).parents[:-1]:
            if Path(self.root, above).is_symlink():
                raise BuildError(
                    f"{posixpath.join(self.url, key)} lies behind a link, which no store makes: {above}",
                    code="store_object",
                    where=Where(Path(self.root, above)),
                    fix="remove the link",
                )

    def _same(self, path: str, paths: dict[str, str]) -> str:
        """The path as we wrote it; fsspec may give it back with another leading slash or protocol."""
        if path in paths:
            return path
        return next(p for p in paths if p.strip("/") == self.files._strip_protocol(path).strip("/"))

    def _renamed(self, key: str, write: Any) -> None:
        target = Path(self._path(key))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise BuildError(f"{posixpath.join(self.url, key)} is a directory", code="store_object")
        with replacing(target) as temporary:
            write(str(temporary))

    @contextmanager
    def _told(self, verb: str, key: str, passed_on: tuple[int, ...] = ()) -> Iterator[None]:
        """What fsspec's many back ends raise, as one error that names the object; but not these of the system."""
        try:
            yield
        except (UsageError, BuildError):
            raise
        except Exception as error:  # each back end has exceptions of its own
            if isinstance(error, OSError) and error.errno in passed_on:
                raise
            raise BuildError(
                f"cannot {verb} {posixpath.join(self.url, key) if key else self.url}: {reason(error)}",
                code="store",
                where=None,
                seen=type(error).__name__,
                fix="check the address, the credentials and the network, then run the same command again",
            ) from error


def open_store(url: str) -> ObjectStore:
    """The store behind a URL; a path without a scheme is a directory.

    Credentials and endpoints come from each vendor's own environment (AWS_PROFILE, AWS_ENDPOINT_URL,
    GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_CONNECTION_STRING …). UsageError for another scheme,
    ToolError for a package that is missing.
    """
    scheme, rest = check_store_url(url)
    import fsspec

    # A listing must never come from memory, and an instance never from another environment.
    options: dict[str, Any] = {"skip_instance_cache": True}
    if scheme not in ("file", "memory"):
        options["use_listings_cache"] = False
    if scheme == "s3" and "AWS_MAX_ATTEMPTS" not in os.environ:
        options["config_kwargs"] = {"retries": {"total_max_attempts": _ATTEMPTS}}
    try:
        files = fsspec.filesystem(scheme, **options)
    except Exception as error:  # credentials that a back end looks for when it is made
        raise ToolError(
            f"cannot open {url}: {reason(error)}",
            code="store_open",
            where=None if "://" in url else Where(Path(url)),
        ) from error
    if scheme == "s3":
        # Its own attempts, one loop in another around botocore's: five of each would wait for a silent server for hours.
        files.retries = _ATTEMPTS
    root = str(files._strip_protocol(f"{scheme}://{rest}")).rstrip("/")
    return ObjectStore(f"{scheme}://{rest}".rstrip("/"), files, root)


def _callback(transferred: Transferred | None) -> dict[str, Any]:
    """fsspec's argument that tells how far a transfer is."""
    if transferred is None:
        return {}
    from fsspec.callbacks import Callback

    tell = transferred

    class Told(Callback):  # type: ignore[misc]
        def call(self, *_: Any, **__: Any) -> None:
            tell(self.value, self.size or 0)

    return {"callback": Told()}
