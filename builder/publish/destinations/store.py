"""An object store that servers read: a version's objects first, then its provenance, config.pbtxt last in one put.

No lock is there to hold: a number is claimed with a put that fails when the object exists, and config.pbtxt is
replaced only while it still is what was read.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.files.digest import digest_of_file
from tritonsmith.builder.base.files.object_store import ObjectStore
from tritonsmith.builder.base.files.untrusted import fault_of_model_name
from tritonsmith.builder.publish.destinations.destination import Content, Switch
from tritonsmith.builder.publish.destinations.state import model_state
from tritonsmith.builder.publish.destinations.versions import (
    CLAIM,
    PROVENANCE,
    ROOT,
    ModelState,
    is_placeholder,
    version_number,
)
from tritonsmith.builder.spec.model_directory import CONFIG

_CLAIMS = 20


class StoreDestination:
    """See Destination."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @property
    def url(self) -> str:
        """See Destination."""
        return self._store.url

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See Destination."""
        yield

    def models(self) -> tuple[str, ...]:
        """See Destination."""
        return tuple(name for name in self._store.directories() if not fault_of_model_name(name))

    def state(self, model: str) -> ModelState:
        """See Destination."""
        # Asked before its content: when both come from different moments, the switch is refused.
        tag = self._store.tag(f"{model}/{CONFIG}")
        objects = {o.key.removeprefix(f"{model}/"): o for o in self._store.list(model)}
        files = {name: o.size_bytes for name, o in objects.items()}
        tops = {version_number(n.partition("/")[0]) for n in files if "/" in n}
        numbers = {top for top in tops if top is not None}
        now = time.time()
        claimed = {
            n: now - objects[f"{n}/{CLAIM}"].modified_s
            for n in numbers
            if f"{n}/{CLAIM}" in files and f"{n}/{PROVENANCE}" not in files
        }
        return model_state(model, files, numbers, lambda path: self.read(model, path), claimed, tag)

    def read(self, model: str, path: str) -> bytes | None:
        """See Destination."""
        return self._store.get(f"{model}/{path}")

    def digest(self, model: str, path: str) -> str | None:
        """See Destination."""
        with tempfile.TemporaryDirectory(prefix="tritonsmith-verify-") as directory:
            copy = Path(directory) / "object"
            return digest_of_file(copy) if self._store.download(f"{model}/{path}", copy) else None

    def claim(self, state: ModelState, placeholder: str) -> int:
        """See Destination. A model that has no config.pbtxt yet gets the placeholder before anything else."""
        if state.config_text is None:
            self._store.put_new(f"{state.name}/{CONFIG}", placeholder.encode())
        told = {"by": f"{platform.node()}, process {os.getpid()}", "at": time.time(), "id": uuid.uuid4().hex}
        for number in range(state.next_number, state.next_number + _CLAIMS):
            if self._store.put_new(f"{state.name}/{number}/{CLAIM}", json.dumps(told).encode()):
                return number
        raise BuildError(
            f"{state.name}: other publishers take every version number",
            code="destination_changed",
            fix="let one pipeline at a time publish here",
        )

    def add(self, model: str, number: int, files: Mapping[str, Content], record: bytes) -> None:
        """See Destination."""
        for name, content in files.items():
            key = f"{model}/{number}/{name}"
            if isinstance(content, bytes):
                self._store.put(key, content)
            else:
                self._store.upload(content, key)
        sizes = {n: len(c) if isinstance(c, bytes) else c.stat().st_size for n, c in files.items()}
        prefix = f"{model}/{number}/"
        there = {o.key.removeprefix(prefix): o.size_bytes for o in self._store.list(f"{model}/{number}")}
        torn = sorted(n for n, size in sizes.items() if there.get(n) != size)
        if torn:
            raise BuildError(
                f"{model}: {torn[0]} is not in {self.url} as it was uploaded",
                code="upload_torn",
                seen=f"{there.get(torn[0], 'no')} bytes instead of {sizes[torn[0]]}",
                fix="publish again; look whether something else writes there",
            )
        self._store.put(f"{prefix}{PROVENANCE}", record)

    def abandon(self, model: str, number: int) -> None:
        """See Destination."""
        config = f"{model}/{CONFIG}"
        with suppress(BuildError):
            self.drop(model, [number])
            if self._tag_of_placeholder(config) and [o.key for o in self._store.list(model)] == [config]:
                self._store.delete([config])

    def switch(self, state: ModelState, change: Switch) -> None:
        """See Destination. The root's files change before config.pbtxt does: see docs/publish.md."""
        model, config = change.model, f"{change.model}/{CONFIG}"
        tag = self._tag_of_placeholder(config) if state.tag is None else state.tag
        there = state.root_of(state.served[-1]) if state.served else {}
        changed = [n for n, digest in change.root.items() if there.get(n) != digest or n not in state.files]
        if tag is None or (changed and self._store.tag(config) != tag):
            raise self._changed(model)
        for name in changed:
            self._store.copy(f"{model}/{change.number}/{ROOT}/{name}", f"{model}/{name}")
        if not self._store.put_over(config, change.config_text.encode(), tag):
            self._give_root_back(model)
            raise self._changed(model)
        # It stands; what is left to do is of no consequence to any server.
        gone = set(change.root_before) - set(change.root)
        with suppress(BuildError):
            for name, content in change.marks.items():
                self._store.put(f"{model}/{name}", content)
            self._store.delete(f"{model}/{name}" for name in sorted(gone) if name in state.files)

    def drop(self, model: str, numbers: Collection[int]) -> None:
        """See Destination. Provenance goes first: a version that is half removed is none; its claim goes last."""
        for number in numbers:
            keys = [o.key for o in self._store.list(f"{model}/{number}")]
            order = {f"{model}/{number}/{PROVENANCE}": 0, f"{model}/{number}/{CLAIM}": 2}
            self._store.delete(sorted(keys, key=lambda key: (order.get(key, 1), key)))
        self._store.remove_empty_directories(model)

    def withdraw(self, state: ModelState, placeholder: str) -> None:
        """See Destination: config.pbtxt goes last, and before anything else it comes to serve nothing."""
        keys = [o.key for o in self._store.list(state.name)]
        config = f"{state.name}/{CONFIG}"
        self._store.put(config, placeholder.encode())
        self._store.delete(key for key in keys if key != config)
        self._store.delete([config])
        self._store.remove_empty_directories(state.name)

    def _give_root_back(self, model: str) -> None:
        """What somebody else's version has at the root, where ours was copied a moment too late."""
        state = self.state(model)
        for number in state.served[-1:]:
            for name in state.root_of(number):
                self._store.copy(f"{model}/{number}/{ROOT}/{name}", f"{model}/{name}")

    def _changed(self, model: str) -> BuildError:
        return BuildError(
            f"{model}: somebody else published or rolled back at {self.url} meanwhile",
            code="destination_changed",
            fix="look with `tritonsmith versions`, then run the same command again",
        )

    def _tag_of_placeholder(self, config: str) -> str | None:
        """The tag of our own placeholder; None when something else stands there now."""
        tag = self._store.tag(config)
        text = self._store.get(config)
        return tag if text is not None and is_placeholder(text.decode(errors="replace")) else None
