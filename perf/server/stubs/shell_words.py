"""Model repositories → paths that a Python stub can be started with, or the name that a shell would read otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError, UsageError, Where
from tritonsmith.builder.lint.read.model import Model, read_repository

# Triton's Python backend starts a stub by `bash -c` and puts paths and names into that line without quotes
# (python_backend, src/stub_launcher.cc). What bash reads as itself in the middle of a word: these, and all that is not
# ASCII.
_READ_OTHERWISE = re.compile(r"[^A-Za-z0-9_.@%+=:,#/\-\u0080-\U0010ffff]")


def read_otherwise(text: str) -> str | None:
    """The first character that a shell would not take for itself; None when there is none."""
    found = _READ_OTHERWISE.search(text)
    return None if found is None else found[0]


def linked_repositories(repositories: Sequence[Path], work_dir: Path) -> tuple[Path, ...]:
    """Each repository, or a link to it below work_dir where its path is none that a stub can be given.

    UsageError unstartable_name for a model that cannot be started whatever its repository's path; ToolError where
    work_dir itself cannot be given to a stub.
    """
    if (bad := read_otherwise(str(work_dir))) is not None:
        raise ToolError(
            f"the server's temporary directory has {bad!r} in its path, at which Triton's Python stubs do not start",
            code="temporary_directory",
            seen=work_dir,
            fix="TMPDIR=/tmp",
        )
    return tuple(_linked(path, work_dir / f"repository-{i}") for i, path in enumerate(repositories))


def _linked(repository: Path, link: Path) -> Path:
    for model in read_repository(repository).models.values():
        for what, name in _words(model):
            if (bad := read_otherwise(name)) is not None:
                raise UsageError(
                    f"model {model.name!r} cannot be served here: {what} has {bad!r} in it, and Triton's Python stub is "
                    "started by a shell that would read it as a command",
                    code="unstartable_name",
                    where=Where(model.config_path if model.parsed is not None else model.path),
                    seen=name,
                    valid=["letters", "digits", *"_-.@%+=:,#"],
                    fix="rename it, or serve it from a server with the C++ backend: --launch docker:IMAGE",
                )
    if read_otherwise(str(repository.absolute())) is None:
        return repository
    link.symlink_to(repository.absolute(), target_is_directory=True)
    return link


def _words(model: Model) -> Iterator[tuple[str, str]]:
    """What of a model comes into the line."""
    yield "its name", model.name
    if model.config is not None:
        yield "default_model_filename", model.config.default_model_filename
        for group in model.config.instance_group:
            yield "an instance_group's name", group.name
