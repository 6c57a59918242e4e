"""Errors of single models → messages on stderr, the tracebacks of bugs at the end, and the command's exit code."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from tritonsmith.builder.base.errors import TritonsmithError, worst_of
from tritonsmith.builder.base.text.console import note


def end_with(errors: Sequence[TritonsmithError]) -> None:
    """Tells them and ends the command with the exit code of the worst; nothing when there is none."""
    for error in errors:
        note(f"error[{error.code}]: {error}")
    for bug in (error for error in errors if error.traceback):
        note(f"\n{bug.message}\n{bug.traceback.rstrip()}")
    if errors:
        raise typer.Exit(worst_of(errors).exit_code)
