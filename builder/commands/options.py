"""Flags that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from builder.build import BuildOptions


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

DEFAULT_SPEC = Path("models.yaml")


def build_options(
    spec: Path,
    repository: Path | None,
    templates: Path | None,
    *,
    overwrite: bool = False,
    lint: bool = True,
    target: str | None = None,
) -> BuildOptions:
    """Flags → BuildOptions with the default cache."""
    from builder.build import BuildOptions
    from builder.cache import Cache, default_cache_directory

    return BuildOptions(
        spec, repository, Cache(default_cache_directory()), templates, overwrite, lint, target
    )
