"""`tritonsmith build`: brings the model repository up to date with its spec."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.text.console import emit_json, emit_text, note, width_of
from tritonsmith.builder.base.text.quantities import bytes_from_text
from tritonsmith.builder.build.view import build_view
from tritonsmith.builder.commands.failures import end_with
from tritonsmith.builder.commands.options import (
    DEFAULT_SPEC,
    Format,
    FormatOption,
    ModelsArgument,
    RemoteCacheOption,
    RemoteCacheReadOnlyOption,
    RepositoryOption,
    SpecOption,
    TargetOption,
    TemplatesOption,
    UpdateRevisionsOption,
    build_options,
)


def build(
    models: ModelsArgument = None,
    spec: SpecOption = DEFAULT_SPEC,
    repository: RepositoryOption = None,
    templates: TemplatesOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace model directories that no build of this spec made.")
    ] = False,
    lint: Annotated[bool, typer.Option(help="Refuse to lay out a model that Triton would refuse.")] = True,
    locked: Annotated[
        bool,
        typer.Option("--locked", help="Exit with 4 rather than build anything the lock file does not say."),
    ] = False,
    update_revisions: UpdateRevisionsOption = False,
    artifacts_only: Annotated[
        bool,
        typer.Option(
            "--artifacts-only",
            help="Build what is stale into the cache only, and lay nothing out (a CI runner with a GPU).",
        ),
    ] = False,
    variants: Annotated[
        Path | None,
        typer.Option(
            help="Also lay every variant out, as MODEL__VARIANT in this directory.", show_default=False
        ),
    ] = None,
    target: TargetOption = None,
    remote_cache: RemoteCacheOption = None,
    remote_cache_read_only: RemoteCacheReadOnlyOption = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="Actions at once; default: one per CPU.", show_default=False
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory that actions may use together (16GiB); default: what is free.", show_default=False
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="What one action may take; default: no limit.", show_default=False
        ),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="End at the first failure; default: build the other models.")
    ] = False,
    executor: Annotated[
        str,
        typer.Option(
            help="local, ray, or ray:ADDRESS of a cluster; ray needs a cache that all its nodes reach."
        ),
    ] = "local",
    format: FormatOption = Format.text,
) -> None:
    """Build what is stale and lay the model repository out.

    Examples: tritonsmith build
              tritonsmith build minilm --variants variants
              tritonsmith build --locked --remote-cache s3://cache/tritonsmith
    """
    from tritonsmith.builder.build.build import build as run_build
    from tritonsmith.builder.build.text import as_json, text_of_build

    options = build_options(
        spec,
        repository,
        templates,
        remote_cache,
        remote_cache_read_only,
        overwrite=overwrite,
        lint=lint,
        target=target,
        models=tuple(models or ()),
        locked=locked,
        update_revisions=update_revisions,
        artifacts_only=artifacts_only,
        jobs=jobs,
        memory_bytes=None if memory is None else bytes_from_text(memory, "--memory"),
        timeout_s=timeout,
        fail_fast=fail_fast,
        executor=known_executor(executor),
    )
    with build_view() as tell:
        result = run_build(options, tell)
    emit_json(as_json(result)) if format is Format.json else emit_text(
        text_of_build(result, width_of(sys.stdout))
    )
    if variants is not None and not artifacts_only:
        from tritonsmith.builder.build.variant_directories import with_variants

        result = with_variants(result, options, variants)
        for path in result.variants:
            note(f"variant: {path}")
    end_with(result.errors)


def known_executor(text: str) -> str:
    """The text itself; UsageError where it names no executor."""
    if text != "local" and text != "ray" and not text.startswith("ray:"):
        raise UsageError(
            f"no executor {text!r} is known",
            code="executor",
            seen=text,
            valid=("local", "ray", "ray:ADDRESS"),
        )
    return text
