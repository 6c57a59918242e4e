"""`tritonsmith plan`: what a build would do now, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from builder.commands.options import (
    DEFAULT_SPEC,
    Format,
    FormatOption,
    RepositoryOption,
    SpecOption,
    TargetOption,
    TemplatesOption,
    build_options,
)
from builder.console import emit_json, emit_text

if TYPE_CHECKING:
    from builder.plan import BuildPlan


def plan(
    spec: SpecOption = DEFAULT_SPEC,
    repository: RepositoryOption = None,
    templates: TemplatesOption = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 4 when anything is stale.")
    ] = False,
    target: TargetOption = None,
    format: FormatOption = Format.text,
) -> None:
    """Show what a build would do now, and why; nothing is changed."""
    from builder.build import plan_build

    _, result = plan_build(build_options(spec, repository, templates, target=target))
    if format is Format.json:
        emit_json({"stale": bool(result.stale), "actions": [a.as_dict() for a in result.actions]})
    else:
        emit_text(_text(result))
    if exit_code and result.stale:
        raise typer.Exit(4)


def _text(result: BuildPlan) -> str:
    rows = [
        (
            a.model,
            a.kind if a.variant is None else f"{a.kind} {a.variant}",
            a.state.value,
            a.reason.value if a.reason else "",
            a.detail,
        )
        for a in result.actions
    ]
    widths = [max((len(r[i]) for r in rows), default=0) for i in range(4)]
    lines = [
        "  ".join([*(c.ljust(w) for c, w in zip(r[:4], widths, strict=True)), r[4]]).rstrip() for r in rows
    ]
    stale = len({a.model for a in result.stale})
    lines.append(
        f"{stale} of {len({a.model for a in result.actions})} models stale" if stale else "nothing stale"
    )
    return "\n".join(lines)
