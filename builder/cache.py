"""Action key → Artifact on disk: content is verified when read, written to a temporary name and renamed, never changed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.console import note
from builder.digest import StatCache, write_atomically
from builder.errors import BuildError, Where

_FORMAT = 1
_RECORD = "artifact.json"
# Sets of dependency digests remembered for one request, newest first.
_MANIFEST_ENTRIES = 16


@dataclass(frozen=True, slots=True)
class Artifact:
    """What one action made.

    directory: where its files lie; read-only for everyone.
    files:     relative path → sha256.
    record:    what the action tells about it (tensors, opset, accuracy, tools …), JSON.
    """

    key: str
    directory: Path
    files: Mapping[str, str]
    record: Mapping[str, Any]


def default_cache_directory() -> Path:
    """$TRITONSMITH_CACHE, or the user's cache directory by the XDG rules."""
    override = os.environ.get("TRITONSMITH_CACHE")
    if override:
        return Path(override)
    base = os.environ.get("XDG_CACHE_HOME")
    # platformdirs answers the same on Linux, 20 ms later
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "tritonsmith"


class Cache:
    """A local content-addressed cache; two processes may use one directory at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stats = StatCache(root / "stat.json")

    def get(self, key: str) -> Artifact | None:
        """The artifact, or None; an entry whose files do not match their digests is removed with a warning."""
        directory = self._directory(key)
        try:
            record = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
            if record.get("format") != _FORMAT or record.get("key") != key:
                raise ValueError("another format or key")
            artifact = Artifact(key, directory, record["files"], record["record"])
            self._verify(artifact)
        except FileNotFoundError as error:
            if directory.is_dir():
                self._discard(key, f"{Path(error.filename or '').name} is missing")
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._discard(key, str(error))
            return None
        return artifact

    def put(self, key: str, made: Path, record: Mapping[str, Any]) -> Artifact:
        """Moves the files in `made` (a directory from `workspace`) into the cache under `key`."""
        files = {
            str(path.relative_to(made)): self.stats.digest(path)
            for path in sorted(made.rglob("*"))
            if path.is_file()
        }
        content = {"format": _FORMAT, "key": key, "files": files, "record": record}
        (made / _RECORD).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
        _sync(made)
        target = self._directory(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            made.rename(target)
        except OSError:
            # Another build put the same key first: inputs are equal, so its artifact is as good as ours.
            if not (target / _RECORD).is_file():
                raise
        artifact = self.get(key)
        if artifact is None:
            raise BuildError(
                "an artifact was damaged as it was written", code="cache_damaged", where=Where(target)
            )
        return artifact

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A private directory on the cache's file system, removed at the end unless `put` took it."""
        parent = self.root / "tmp"
        parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(dir=parent, prefix=f"{os.getpid()}-"))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def remember(self, request: str, dependencies: Mapping[str, str], key: str) -> None:
        """Notes that `request`, with dependencies of these digests, made `key`."""
        entries = [e for e in self._manifest(request) if e["dependencies"] != dict(dependencies)]
        entries.insert(0, {"dependencies": dict(dependencies), "key": key})
        path = self._manifest_path(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(entries[:_MANIFEST_ENTRIES], indent=1, sort_keys=True))

    def remembered(self, request: str) -> list[tuple[Mapping[str, str], str]]:
        """(dependencies, key) of earlier runs of the request, newest first."""
        return [(e["dependencies"], e["key"]) for e in self._manifest(request)]

    def _manifest(self, request: str) -> list[dict[str, Any]]:
        with suppress(OSError, ValueError):
            entries = json.loads(self._manifest_path(request).read_text(encoding="utf-8"))
            if isinstance(entries, list):
                return [e for e in entries if isinstance(e, dict) and {"dependencies", "key"} <= e.keys()]
        return []

    def _verify(self, artifact: Artifact) -> None:
        for name, digest in artifact.files.items():
            if self.stats.digest(artifact.directory / name) != digest:
                raise ValueError(f"{name} does not match its digest")

    def _discard(self, key: str, why: str) -> None:
        directory = self._directory(key)
        note(f"warning: cache entry {key[:12]} is corrupt ({why}); it is made again")
        with suppress(OSError):
            grave = directory.with_name(f"{directory.name}.{os.getpid()}.bad")
            directory.rename(grave)
            shutil.rmtree(grave, ignore_errors=True)

    def _directory(self, key: str) -> Path:
        return self.root / "artifacts" / key[:2] / key

    def _manifest_path(self, request: str) -> Path:
        return self.root / "requests" / request[:2] / f"{request}.json"


def _sync(directory: Path) -> None:
    """Flushes a directory's files to disk, so that the rename that follows never shows empty ones after a power cut."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
