"""Errors of single models → messages on stderr, the tracebacks of bugs at the end, and the command's exit code."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.console import note


def end_with(errors: Sequence[TritonsmithError]) -> None:
    """Tells them and ends the command; nothing when there is none.

    The exit code: 1 for a bug, else that of the first error that is more than a gate's no, else 4.
    """
    for error in errors:
        note(f"error[{error.code}]: {error}")
    bugs = [error for error in errors if error.traceback]
    for bug in bugs:
        note(f"\n{bug.message}\n{bug.traceback.rstrip()}")
    worse = [error for error in errors if error.exit_code != 4]
    for error in (*bugs, *worse, *errors):
        raise typer.Exit(error.exit_code)
