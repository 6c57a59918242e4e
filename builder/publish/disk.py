"""A directory that servers read: a model's new directory is staged beside the repository and exchanged as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from builder.digest import digest_of_file
from builder.disk import clear_away, take_out
from builder.errors import BuildError, Where
from builder.model_directory import CONFIG
from builder.publish.destination import Content, Switch
from builder.publish.state import model_state
from builder.publish.versions import PROVENANCE, ROOT, ModelState
from builder.repository import can_exchange, exclusive, publish_model


class DiskDestination:
    """See Destination. Files of one version are hard links of one another from switch to switch, never copies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._staging: Path | None = None

    @property
    def url(self) -> str:
        """See Destination."""
        return str(self.path)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See Destination. Waits while another process changes this directory."""
        self._check()
        with exclusive(self.path) as staging:
            if not can_exchange(staging):
                raise BuildError(
                    "this file system cannot swap two directories in one step, so a kill could leave a model away",
                    code="no_exchange",
                    where=Where(self.path),
                    fix=f"publish to file://{self.path}, which is written as an object store is",
                )
            self._staging = staging
            try:
                yield
            finally:
                self._staging = None

    def models(self) -> tuple[str, ...]:
        """See Destination."""
        if not self.path.is_dir():
            return ()
        with os.scandir(self.path) as entries:
            return tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))

    def state(self, model: str) -> ModelState:
        """See Destination."""
        directory = self.path / model
        files: dict[str, int] = {}
        numbers: set[int] = set()
        for root, below, names in os.walk(directory):
            place = Path(root).relative_to(directory).as_posix()
            if place == ".":
                numbers = {int(n) for n in below if n.isascii() and n.isdigit()}
            for name in names:
                path = Path(root) / name
                files[str(PurePosixPath(place) / name)] = path.stat().st_size
        return model_state(model, files, numbers, lambda path: self.read(model, path), {})

    def read(self, model: str, path: str) -> bytes | None:
        """See Destination."""
        try:
            return (self.path / model / path).read_bytes()
        except FileNotFoundError:
            return None

    def digest(self, model: str, path: str) -> str | None:
        """See Destination."""
        try:
            return digest_of_file(self.path / model / path)
        except FileNotFoundError:
            return None

    def claim(self, state: ModelState, placeholder: str) -> int:
        """See Destination. The lock is held, so the number is free; nothing is written."""
        return state.next_number

    def add(self, model: str, number: int, files: Mapping[str, Content], record: bytes) -> None:
        """See Destination. It is staged; `switch` brings it in."""
        version = self._staged(model) / str(number)
        version.mkdir(parents=True)
        for name, content in {**files, PROVENANCE: record}.items():
            target = version / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
            _sync(target)

    def abandon(self, model: str, number: int) -> None:
        """See Destination."""
        clear_away(self._staged(model))

    def switch(self, state: ModelState, change: Switch) -> None:
        """See Destination: one exchange of the model's directory."""
        staged, old = self._staged(change.model), self.path / change.model
        staged.mkdir(exist_ok=True)
        left_out = {CONFIG, *change.root, *change.root_before}
        for name in sorted(state.files):
            if name not in left_out:
                _link(old / name, staged / name)
        for number in state.numbers:
            # An ensemble's version that somebody else made may be an empty directory.
            (staged / str(number)).mkdir(exist_ok=True)
        for name in change.root:
            _link(staged / str(change.number) / ROOT / name, staged / name)
        for name, content in change.marks.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(content)
        (staged / CONFIG).write_text(change.config_text, encoding="utf-8")
        _sync(staged / CONFIG)
        # mkdtemp made the directory above private; a server under another user must be able to read this one.
        staged.chmod(0o755)
        for directory, _, _ in os.walk(staged):
            _sync(Path(directory))
        publish_model(staged, self.path)
        _sync(self.path)
        clear_away(staged)

    def drop(self, model: str, numbers: Collection[int]) -> None:
        """See Destination. Each version goes in one rename."""
        assert self._staging is not None
        for number in numbers:
            clear_away(self._taken_out(f"{model}/{number}", self._staging))

    def withdraw(self, state: ModelState, placeholder: str) -> None:
        """See Destination: one rename."""
        assert self._staging is not None
        if (self.path / state.name).is_dir():
            self._taken_out(state.name, self._staging)

    def _taken_out(self, name: str, staging: Path) -> Path:
        """BuildError where a link leads out of the destination: what lies there is not ours."""
        try:
            return take_out(self.path, name, staging)
        except ValueError as error:
            raise BuildError(
                f"it stays at the destination: {error}",
                code="destination_link",
                where=Where(self.path / name),
            ) from None

    def _staged(self, model: str) -> Path:
        assert self._staging is not None, "changes need `exclusive`"
        return self._staging / model

    def _check(self) -> None:
        """BuildError where no rename can lead from beside the directory into it."""
        if self.path.exists() and not self.path.is_dir():
            raise BuildError(
                "the destination is not a directory", code="no_directory", where=Where(self.path)
            )
        if self.path.is_dir() and os.path.ismount(self.path):
            raise BuildError(
                "the destination is the root of a file system, so nothing can be staged beside it",
                code="destination_mount",
                where=Where(self.path),
                fix=f"publish to a directory below it, or to file://{self.path}, which is written as an object store is",
            )


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        # A file system without hard links.
        shutil.copy2(source, target, follow_symlinks=False)


def _sync(path: Path) -> None:
    """Flushes a file or directory, so that a power cut after the switch shows it whole."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
