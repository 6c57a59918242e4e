"""`tritonsmith plan`: what a build would do now, and why."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated

import typer

from tritonsmith.builder.base.text.console import emit_document, emit_json, emit_text, has_colour, width_of
from tritonsmith.builder.commands.failures import end_with
from tritonsmith.builder.commands.options import (
    DEFAULT_SPEC,
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


class PlanFormat(str, Enum):
    """For people, for machines, for a pull request, for `strategy.matrix`."""

    text = "text"
    json = "json"
    markdown = "markdown"
    github_matrix = "github-matrix"


def plan(
    models: ModelsArgument = None,
    spec: SpecOption = DEFAULT_SPEC,
    repository: RepositoryOption = None,
    templates: TemplatesOption = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 4 when anything is stale.")
    ] = False,
    update_revisions: UpdateRevisionsOption = False,
    target: TargetOption = None,
    remote_cache: RemoteCacheOption = None,
    remote_cache_read_only: RemoteCacheReadOnlyOption = False,
    format: Annotated[
        PlanFormat,
        typer.Option(
            "--format", help="Output on stdout; github-matrix: the jobs that make what no cache has."
        ),
    ] = PlanFormat.text,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every action, field and model, unchanged ones too.")
    ] = False,
) -> None:
    """Show what a build would do now, and why; nothing is changed.

    + is added, ~ changed, - removed. Fields of config.pbtxt are compared by meaning with what lies in the repository.

    Examples: tritonsmith plan
              tritonsmith plan minilm --exit-code
              tritonsmith plan --format github-matrix
    """
    from tritonsmith.builder.build.context import plan_build
    from tritonsmith.builder.plan.text import json_of_plan, markdown_of_plan, matrix_text_of, text_of_plan

    options = build_options(
        spec,
        repository,
        templates,
        remote_cache,
        remote_cache_read_only,
        update_revisions=update_revisions,
        target=target,
        models=tuple(models or ()),
    )
    _, result = plan_build(options)
    if format is PlanFormat.json:
        emit_json(json_of_plan(result, result.errors))
    elif format is PlanFormat.github_matrix:
        emit_document(matrix_text_of(result))
    elif format is PlanFormat.markdown:
        emit_document(markdown_of_plan(result))
    else:
        colour = has_colour(sys.stdout)
        text = text_of_plan(result, width_of(sys.stdout), colour=colour, verbose=verbose)
        emit_text(text, escaped=colour)
    end_with(result.errors)
    if exit_code and result.stale:
        raise typer.Exit(4)
