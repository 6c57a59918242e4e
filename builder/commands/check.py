"""`tritonsmith check`: paths and flags → findings on stdout, exit code 4 when one of them is an error."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from tritonsmith.builder.base.text.console import note

if TYPE_CHECKING:
    from tritonsmith.builder.base.errors import TritonsmithError
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
            help="Model repositories, model directories, config.pbtxt files; of a models.yaml, its keys and values.",
            show_default=False,
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
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Write what only one thing can be meant by: names, case, quotes, dims."),
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Print what --fix would write, as a diff, and write nothing.")
    ] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Count the findings by rule in place of showing them.")
    ] = False,
    explain: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="RULE", help="Show one rule with a bad and a good example.", show_default=False),
    ] = None,
) -> None:
    """Find what Triton would refuse or silently ignore, and the fix.

    Examples: tritonsmith check model_repository/ --target 26.08
              tritonsmith check model_repository/ --deep
              tritonsmith check model_repository/ --fix --diff
              tritonsmith check --explain BATCH004
    """
    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.builder.base.text.console import emit_document, emit_text
    from tritonsmith.builder.base.text.quantities import counted
    from tritonsmith.builder.commands.failures import end_with

    if explain is not None:
        emit_text(explained(explain))
        return
    if not paths:
        raise UsageError("no path to check", code="no_path", fix="tritonsmith check model_repository/")
    if statistics and format not in (CheckFormat.text, CheckFormat.json):
        raise UsageError("--statistics is text or json", code="bad_format", seen=format.value)
    if diff and (statistics or format is not CheckFormat.text):
        raise UsageError(
            "--diff is a diff: it goes with neither --format nor --statistics", code="bad_format"
        )
    options = options_from_flags(target, gpus, server_args, select, ignore, deep)
    specs = [path for path in paths if path.suffix in (".yaml", ".yml") and path.is_file()]
    unread = [error for path in specs if (error := refused_spec(path)) is not None]
    repositories = [path for path in paths if path not in specs]
    if diff:
        text, found = differences(repositories, options)
        emit_document(text, escaped=True)
    else:
        text, found = checked(repositories, options, format.value, fix, statistics)
        if format is not CheckFormat.text:
            emit_document(text, escaped=format is CheckFormat.github)
        elif repositories:
            emit_text(text, escaped=True)
    if specs:
        note(f"{counted(len(specs), 'spec')} read: {counted(len(unread), 'error')}")
    if repositories and not found.models:
        note(
            f"there is no model in {', '.join(map(str, repositories))}: a model is a directory with a version directory"
        )
    end_with([*unread, *found.failures])
    if found.errors:
        raise typer.Exit(4)


def refused_spec(path: Path) -> TritonsmithError | None:
    """What is wrong with a file like models.yaml."""
    from tritonsmith.builder.base.errors import TritonsmithError
    from tritonsmith.builder.spec.spec import load_spec

    try:
        load_spec(path)
    except TritonsmithError as error:
        return error
    return None


def explained(rule_id: str) -> str:
    """The text of `check --explain`. UsageError names the nearest id."""
    from tritonsmith.builder.lint.check import unknown_rule
    from tritonsmith.builder.lint.render import explanation
    from tritonsmith.builder.lint.table import RULES

    rule = RULES.get(rule_id.upper())
    if rule is None:
        raise unknown_rule(rule_id)
    return explanation(rule)


def checked(
    paths: list[Path], options: LintOptions, format_: str, fix: bool = False, is_statistics: bool = False
) -> tuple[str, LintReport]:
    """(what to print, what was found and is left)"""
    from tritonsmith.builder.base.text.console import has_colour, width_of
    from tritonsmith.builder.lint.check import report
    from tritonsmith.builder.lint.render import FORMATS, json_text, statistics_text, sums, text

    fixed, unwritten = fixed_in_place(paths, options) if fix else (None, [])
    found = report(paths, options)
    found = replace(found, failures=(*found.failures, *unwritten))
    if format_ == "json":
        return json_text(
            found.findings, found.models, found.failures, fixed=fixed, is_statistics=is_statistics
        ), found
    width = width_of(sys.stdout)
    if is_statistics:
        return statistics_text(found.findings, found.models, width=width, fixed=fixed), found
    if format_ == "text":
        colour = has_colour(sys.stdout)
        words = text(found.findings, found.models, colour, texts=found.texts, width=width, fixed=fixed)
        return words, found
    if fixed is not None:
        note(sums(found.findings, found.models, fixed)[0])
    return FORMATS[format_](found.findings, found.models), found


def fixed_in_place(paths: list[Path], options: LintOptions) -> tuple[int, list[TritonsmithError]]:
    """Writes what can be mended; (how many findings that were, files that must not be written)"""
    from tritonsmith.builder.base.errors import TritonsmithError
    from tritonsmith.builder.lint.fix import Mended, mended, write

    def written(mend: Mended) -> TritonsmithError | None:
        try:
            write(mend)
        except TritonsmithError as error:
            return error
        return None

    outcomes = [(mend, written(mend)) for mend in mended(paths, options)]
    fixed = sum(len(mend.gone) for mend, error in outcomes if error is None)
    return fixed, [error for _, error in outcomes if error is not None]


def differences(paths: list[Path], options: LintOptions) -> tuple[str, LintReport]:
    """(what --fix would change, as a diff; what was found), and a note with the numbers."""
    from tritonsmith.builder.base.text.shown import visible, without_secrets
    from tritonsmith.builder.lint.check import report
    from tritonsmith.builder.lint.fix import mended

    found = report(paths, options)
    mends = list(mended(paths, options))
    left = len(found.findings) + sum(mend.has - mend.had for mend in mends)
    note(f"Would fix {sum(len(mend.gone) for mend in mends)}, {left} left")
    lines = "".join(mend.diff() for mend in mends).removesuffix("\n").split("\n")
    # A carriage return stays where it ends a line: `patch` has to find it there.
    ends = ["\r" if line.endswith("\r") else "" for line in lines]
    safe = (visible(without_secrets(line.removesuffix("\r"))) for line in lines)
    return "\n".join(line + end for line, end in zip(safe, ends, strict=True)), found


def options_from_flags(
    target: str | None,
    gpus: int | None,
    server_args: str | None,
    select: list[str] | None,
    ignore: list[str] | None,
    deep: bool = False,
) -> LintOptions:
    """Flags → LintOptions. UsageError when a release or a quote is wrong."""
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
