"""A template's name → its Jinja2 template: the user's directory first, the packaged one behind it and under builtin/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.files.disk import files_below
from tritonsmith.builder.base.machine.own import PACKAGE

if TYPE_CHECKING:
    from jinja2 import Environment


def packaged_directory() -> Path:
    """The templates that travel in the wheel; in a checkout, templates/ at the top."""
    return PACKAGE / "templates"


def check_user_directory(user: Path | None) -> None:
    """UsageError when the user's template directory does not exist."""
    if user is not None and not user.is_dir():
        raise UsageError("there is no such template directory", code="no_templates", where=Where(user))


def template_path(name: str, user: Path | None) -> Path:
    """The file that `name` stands for."""
    if user is not None and (user / name).is_file():
        return user / name
    return packaged_directory() / name


def template_files(name: str, user: Path | None) -> tuple[Path, ...]:
    """Every file whose change may change what `name` renders to."""
    own = files_below(user) if user is not None else ()
    return (*own, packaged_directory() / name)


def environment(
    user: Path | None, *, autoescape: bool, finalize: Callable[[Any], Any] | None = None
) -> Environment:
    """A strict Jinja2 environment: an undefined name is an error."""
    from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    packaged = FileSystemLoader(packaged_directory())
    loaders = [] if user is None else [FileSystemLoader(user)]
    return SandboxedEnvironment(
        loader=ChoiceLoader([*loaders, packaged, PrefixLoader({"builtin": packaged})]),
        autoescape=autoescape,
        undefined=StrictUndefined,
        keep_trailing_newline=False,
        finalize=finalize,
    )
