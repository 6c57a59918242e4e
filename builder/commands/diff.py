"""`tritonsmith diff`: two repositories or configs → what differs by meaning, on stdout."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonsmith.builder.base.text.console import emit_json, emit_text
from tritonsmith.builder.base.text.quantities import counted
from tritonsmith.builder.commands.options import Format, FormatOption

if TYPE_CHECKING:
    from tritonsmith.builder.lint.diff import Change, Difference

_MARKS = {"added": "+", "removed": "-", "changed": "~"}


def diff(
    left: Annotated[Path, typer.Argument(metavar="A", help="The old one.", show_default=False)],
    right: Annotated[Path, typer.Argument(metavar="B", help="The new one.", show_default=False)],
    as_served: Annotated[
        bool,
        typer.Option(
            "--as-served", help="Compare what Triton makes of the configs, missing fields filled in."
        ),
    ] = False,
    files: Annotated[bool, typer.Option(help="Compare the other files of model directories too.")] = True,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 4 when anything differs.")
    ] = False,
    format: FormatOption = Format.text,
) -> None:
    """Compare two repositories, models or config.pbtxt files by meaning.

    Layout, comments and the order of fields do not count; each field that differs is named with its old and new
    value, each file by its content.

    Examples: tritonsmith diff /models model_repository --as-served
              tritonsmith diff old/config.pbtxt new/config.pbtxt --exit-code
    """
    from tritonsmith.builder.lint.diff import diff as run_diff

    found = run_diff(left, right, as_served=as_served, files=files)
    emit_json(_as_json(found)) if format is Format.json else emit_text(_text(found))
    if exit_code and found.models:
        raise typer.Exit(4)


def _as_json(found: Difference) -> dict[str, object]:
    return {
        "same": not found.models,
        "compared": found.compared,
        "models": [asdict(m) for m in found.models],
    }


def _text(found: Difference) -> str:
    lines = []
    for model in found.models:
        lines.append(f"{_MARKS[model.kind]} {model.model}" + ("" if model.changes else f"  {model.kind}"))
        lines += [f"    {_change(change)}" for change in model.changes]
    total = f"{counted(found.compared, 'model')} compared"
    return "\n".join(
        [*lines, f"{total}, {len(found.models)} differ" if found.models else f"{total}, all the same"]
    )


def _change(change: Change) -> str:
    return f"{change.path}: {change.old or 'none'} → {change.new or 'none'}"
