"""`tritonsmith check`: paths and flags → findings on stdout, exit code 4 when one of them is an error."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from tritonsmith.builder.lint.check import LintOptions, LintReport
    from tritonsmith.builder.lint.target import Target


class CheckFormat(str, Enum):
    """How findings are written."""

    text = "text"
    json = "json"
    sarif = "sarif"
    junit = "junit"
    github = "github"


def check(
    paths: Annotated[
        Optional[list[Path]],  # noqa: UP045 - Typer reads the annotation at run time on Python 3.10
        typer.Argument(
            help="Model repositories, model directories or config.pbtxt files.", show_default=False
        ),
    ] = None,
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Triton release it must load on: 26.08, or with its image, 26.08-trtllm-python-py3."
        ),
    ] = None,
    gpus: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Number of GPUs that the server will have.", min=0),
    ] = None,
    server_args: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="The flags that the server is started with, as one string; '' when there are none."
        ),
    ] = None,
    select: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Judge only these rules or families (BATCH004,IO)."),
    ] = None,
    ignore: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Leave these rules or families out."),
    ] = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Run the ONNX files, too: would requests batched together be mixed?"),
    ] = False,
    format: Annotated[CheckFormat, typer.Option(help="How to write the findings.")] = CheckFormat.text,
    explain: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="RULE", help="Show one rule with a bad and a good example.", show_default=False),
    ] = None,
) -> None:
    """Find what Triton would refuse or silently ignore, and the fix.

    Examples: tritonsmith check model_repository/ --target 26.08
              tritonsmith check model_repository/ --deep
              tritonsmith check --explain BATCH004
    """
    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.builder.base.text.console import emit_document, emit_text, note
    from tritonsmith.builder.commands.failures import end_with

    if explain is not None:
        emit_text(explained(explain))
        return
    if not paths:
        raise UsageError("no path to check", code="no_path", fix="tritonsmith check model_repository/")
    text, found = checked(
        paths, options_from_flags(target, gpus, server_args, select, ignore, deep), format.value
    )
    if format is CheckFormat.text:
        emit_text(text, escaped=True)
    else:
        emit_document(text, escaped=format is CheckFormat.github)
    if not found.models:
        note(
            f"there is no model in {', '.join(map(str, paths))}: a model is a directory with a version directory"
        )
    end_with(found.failures)
    if found.errors:
        raise typer.Exit(4)


def explained(rule_id: str) -> str:
    """The text of `check --explain`. UsageError names the nearest id."""
    from tritonsmith.builder.lint.check import unknown_rule
    from tritonsmith.builder.lint.render import explanation
    from tritonsmith.builder.lint.table import RULES

    rule = RULES.get(rule_id.upper())
    if rule is None:
        raise unknown_rule(rule_id)
    return explanation(rule)


def checked(paths: list[Path], options: LintOptions, format_: str) -> tuple[str, LintReport]:
    """(what to print, what was found)"""
    from tritonsmith.builder.lint.check import report
    from tritonsmith.builder.lint.render import FORMATS, json_text, text

    found = report(paths, options)
    if format_ == "text":
        from tritonsmith.builder.base.text.console import has_colour

        return text(found.findings, found.models, has_colour(sys.stdout)), found
    if format_ == "json":
        return json_text(found.findings, found.models, found.failures), found
    return FORMATS[format_](found.findings, found.models), found


def options_from_flags(
    target: str | None,
    gpus: int | None,
    server_args: str | None,
    select: list[str] | None,
    ignore: list[str] | None,
    deep: bool = False,
) -> LintOptions:
    """Flags → LintOptions. UsageError when a release or a quote is wrong."""
    from dataclasses import replace

    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.builder.lint.check import LintOptions
    from tritonsmith.builder.lint.target import Target, server_args_from_list, target_from_text

    meant: Target = target_from_text(target) if target is not None else Target()
    if gpus is not None:
        meant = replace(meant, gpus=gpus)
    if server_args is not None:
        try:
            arguments = shlex.split(server_args)
        except ValueError as error:
            raise UsageError(f"--server-args: {error}", code="bad_server_args", seen=server_args) from error
        meant = replace(meant, server_args=server_args_from_list(arguments))
    return LintOptions(meant, _names(select), _names(ignore), deep)


def _names(given: list[str] | None) -> frozenset[str]:
    """`["BATCH004,io", "WARM"]` → the names in capitals."""
    return frozenset(word.strip().upper() for text in given or () for word in text.split(",") if word.strip())
