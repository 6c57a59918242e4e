"""Flags that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer
from typing_extensions import Unpack

if TYPE_CHECKING:
    from builder.context import BuildOptions


class OtherOptions(TypedDict, total=False):
    """Fields of BuildOptions that only some commands have flags for."""

    overwrite: bool
    lint: bool
    target: str | None
    models: tuple[str, ...]
    locked: bool
    artifacts_only: bool
    jobs: int | None
    memory_bytes: int | None
    timeout_s: float | None
    fail_fast: bool
    executor: str


class Format(str, Enum):
    """Output for people or for machines."""

    text = "text"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="Output on stdout: text or json.")]
SpecOption = Annotated[Path, typer.Option("--spec", "-f", help="The spec file.")]
RepositoryOption = Annotated[
    Path | None,
    typer.Option(
        "--repository", "-r", help="The model repository; default: model_repository/ beside the spec."
    ),
]
TemplatesOption = Annotated[
    Path | None, typer.Option("--templates", help="A directory with templates of your own (config.pbtxt.j2).")
]

TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target", help="What it must load on: a release (26.08), an image or a live server's URL."
    ),
]

ModelsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Only these models, with the steps of ensembles; default: all.", show_default=False),
]

DEFAULT_SPEC = Path("models.yaml")


def build_options(
    spec: Path, repository: Path | None, templates: Path | None, **others: Unpack[OtherOptions]
) -> BuildOptions:
    """Flags → BuildOptions with the default cache."""
    from builder.cache import Cache, default_cache_directory
    from builder.context import BuildOptions

    return BuildOptions(spec, repository, Cache(default_cache_directory()), templates, **others)
