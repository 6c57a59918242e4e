"""The flags that stand before a command or after it: what is told on stderr, the version, help."""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import Any

import typer

from tritonsmith.builder.base.text import console

PANEL = "Global options"


def _set_quiet(ctx: typer.Context, wanted: bool) -> None:
    if wanted or ctx.parent is None:  # said before the command, it holds for the command, too
        console.set_loudness(quiet=wanted)


def _set_verbose(ctx: typer.Context, wanted: bool) -> None:
    if wanted or ctx.parent is None:
        console.set_loudness(verbose=wanted)


def _print_version(wanted: bool) -> None:
    if wanted:
        from tritonsmith import __version__

        console.emit_text(f"tritonsmith {__version__}")
        raise typer.Exit


def _flags(
    everywhere_quiet: bool = typer.Option(
        False,
        "--quiet",
        "-q",
        help="No progress and no notes; results and errors stay.",
        is_eager=True,
        expose_value=False,
        callback=_set_quiet,
    ),
    everywhere_verbose: bool = typer.Option(
        False,
        "--verbose",
        "-v",
        help="Tell what is run and how long it takes; tracebacks of errors.",
        is_eager=True,
        expose_value=False,
        callback=_set_verbose,
    ),
    everywhere_version: bool = typer.Option(
        False,
        "--version",
        "-V",
        help="Print the version.",
        is_eager=True,
        expose_value=False,
        callback=_print_version,
    ),
) -> None:
    """The names are no command's: two parameters of one name would get each other's values."""


@cache
def _parameters() -> tuple[Any, ...]:
    line = typer.Typer(add_completion=False)
    line.command()(_flags)
    return tuple(typer.main.get_command(line).params)


def with_flags(own: list[Any]) -> list[Any]:
    """A command's parameters and the flags; of a flag, only the names that the command does not use itself."""
    taken = {
        name for parameter in own for name in (*parameter.opts, *getattr(parameter, "secondary_opts", ()))
    }
    added = []
    for flag in _parameters():
        added.append(copy(flag))
        added[-1].opts = [name for name in flag.opts if name not in taken]
        added[-1].rich_help_panel = PANEL
    # The help option is the last one of a command's own.
    return [*own[:-1], *(flag for flag in added if flag.opts), *own[-1:]]
