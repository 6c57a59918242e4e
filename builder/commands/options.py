"""Flags that several commands share."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer
from typing_extensions import Unpack

if TYPE_CHECKING:
    from tritonsmith.builder.build.context import BuildOptions
    from tritonsmith.builder.cache.shared import SharedCache


class OtherOptions(TypedDict, total=False):
    """Fields of BuildOptions that only some commands have flags for."""

    overwrite: bool
    lint: bool
    target: str | None
    models: tuple[str, ...]
    locked: bool
    update_revisions: bool
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


REMOTE_CACHE = "TRITONSMITH_REMOTE_CACHE"
REMOTE_CACHE_READ_ONLY = "TRITONSMITH_REMOTE_CACHE_READ_ONLY"

FormatOption = Annotated[Format, typer.Option("--format", help="How to write the result.")]
SpecOption = Annotated[Path, typer.Option("--spec", "-f", help="The spec file.")]
RepositoryOption = Annotated[
    Path | None,
    typer.Option(
        "--repository", "-r", help="The model repository; default: model_repository/ beside the spec."
    ),
]
TemplatesOption = Annotated[
    Path | None,
    typer.Option(
        "--templates",
        help="Templates of your own (config.pbtxt.j2); default: those of tritonsmith.",
    ),
]

TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target", help="What it must load on: a release (26.08), an image or a live server's URL."
    ),
]

UpdateRevisionsOption = Annotated[
    bool,
    typer.Option(
        "--update-revisions",
        help="Ask the Hugging Face hub for the newest commits of names without one, whatever the lock file says.",
    ),
]

ModelsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Only these models, with the steps of ensembles; default: all.", show_default=False),
]

RemoteCacheOption = Annotated[
    str | None,
    typer.Option(
        "--remote-cache",
        envvar=REMOTE_CACHE,
        help="A cache that machines share: s3://…, gs://…, az://… or a directory.",
        show_default=False,
    ),
]
RemoteCacheReadOnlyOption = Annotated[
    bool,
    typer.Option(
        "--remote-cache-read-only",
        envvar=REMOTE_CACHE_READ_ONLY,
        help="Read the remote cache and add nothing to it: for code that is not trusted.",
    ),
]

DEFAULT_SPEC = Path("models.yaml")


def build_options(
    spec: Path,
    repository: Path | None,
    templates: Path | None,
    remote_cache: str | None = None,
    remote_cache_read_only: bool = False,
    **others: Unpack[OtherOptions],
) -> BuildOptions:
    """Flags → BuildOptions with the default cache; a command without flags for the remote one goes by the environment.

    UsageError or ToolError when the remote cache's address is none, or its package is not installed.
    """
    from tritonsmith.builder.build.context import BuildOptions
    from tritonsmith.builder.cache.cache import Cache, default_cache_directory

    shared = shared_cache(remote_cache, remote_cache_read_only)
    return BuildOptions(spec, repository, Cache(default_cache_directory(), shared), templates, **others)


def shared_cache(url: str | None, read_only: bool) -> SharedCache | None:
    """The remote cache of the flags, else of the environment; None when neither names one. Nothing is opened."""
    url = os.environ.get(REMOTE_CACHE) if url is None else url
    if not url:
        return None
    from tritonsmith.builder.cache.shared import SharedCache

    read_only = read_only or os.environ.get(REMOTE_CACHE_READ_ONLY, "").lower() in ("1", "true", "yes", "on")
    return SharedCache(url, writable=not read_only)
