"""A directory that servers read: a model's new directory is staged beside the repository and exchanged as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tritonsmith.builder.base.errors import BuildError, Where
from tritonsmith.builder.base.files.digest import digest_of_file
from tritonsmith.builder.base.files.disk import clear_away, flush, take_out, write_atomically
from tritonsmith.builder.base.files.untrusted import fault_of_model_name, inside, read_bounded
from tritonsmith.builder.publish.destinations.destination import Content, Switch
from tritonsmith.builder.publish.destinations.state import model_state
from tritonsmith.builder.publish.destinations.versions import PROVENANCE, ROOT, ModelState, version_number
from tritonsmith.builder.repository.repository import can_exchange, exclusive, publish_model
from tritonsmith.builder.spec.model_directory import CONFIG


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
                    "this file system cannot swap two directories in one step, so a killed publish could leave a model missing",
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
            return tuple(sorted(e.name for e in entries if e.is_dir() and not fault_of_model_name(e.name)))

    def state(self, model: str) -> ModelState:
        """See Destination."""
        directory = self.path / model
        files: dict[str, int] = {}
        numbers: set[int] = set()
        for root, below, names in os.walk(directory):
            place = Path(root).relative_to(directory).as_posix()
            if place == ".":
                numbers = {n for n in map(version_number, below) if n is not None}
            # A link to a directory is a file here: what lies behind it is not the destination's.
            for name in [*names, *(n for n in below if (Path(root) / n).is_symlink())]:
                path = Path(root) / name
                files[str(PurePosixPath(place) / name)] = path.lstat().st_size
        return model_state(model, files, numbers, lambda path: self.read(model, path), {})

    def read(self, model: str, path: str) -> bytes | None:
        """See Destination."""
        try:
            return read_bounded(self._place(model, path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BuildError(
                f"{model}/{path} cannot be read: {error}",
                code="destination_file",
                where=Where(self.path / model),
            ) from None

    def digest(self, model: str, path: str) -> str | None:
        """See Destination."""
        try:
            return digest_of_file(self._place(model, path))
        except (OSError, ValueError):
            return None

    def _place(self, model: str, path: str) -> Path:
        """ValueError for what is a link or lies behind one: only regular files were published."""
        place = inside(self.path / model, path)
        if place.is_symlink():
            raise ValueError("it is a link")
        return place

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
            flush(target)

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
            # An ensemble's version that somebody else made may be an empty directory, or a link.
            if not os.path.lexists(staged / str(number)):
                (staged / str(number)).mkdir()
        for name in change.root:
            _link(staged / str(change.number) / ROOT / name, staged / name)
        for name, content in change.marks.items():
            mark = self._inside(staged, name)
            mark.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(mark, content)
        write_atomically(staged / CONFIG, change.config_text)
        # mkdtemp made the directory above private; a server under another user must be able to read this one.
        staged.chmod(0o755)
        for directory, _, _ in os.walk(staged):
            flush(Path(directory))
        publish_model(staged, self.path)
        flush(self.path)
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
            raise self._leads_out(name, error) from None

    def _inside(self, staged: Path, name: str) -> Path:
        try:
            return inside(staged, name)
        except ValueError as error:
            raise self._leads_out(f"{staged.name}/{name}", error) from None

    def _leads_out(self, name: str, error: ValueError) -> BuildError:
        return BuildError(
            f"the destination is left as it is: {error}",
            code="destination_link",
            where=Where(self.path / name),
            fix="remove the link",
        )

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
