"""Errors of single models → messages on stderr, the tracebacks of bugs at the end, and the command's exit code."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from tritonsmith.builder.base.errors import TritonsmithError, worst_of
from tritonsmith.builder.base.text.console import is_verbose, tell_error


def show_error(error: TritonsmithError) -> None:
    """The error on stderr; where it came from before it, when --verbose was given."""
    if is_verbose() and error.__traceback__ is not None:
        import traceback  # not for --help

        tell_error("".join(traceback.format_exception(error)).rstrip())
    tell_error(f"error[{error.code}]: {error}")


def end_with(errors: Sequence[TritonsmithError]) -> None:
    """Tells them and ends the command with the exit code of the worst; nothing when there is none."""
    for error in errors:
        show_error(error)
    for bug in (error for error in errors if error.traceback):
        tell_error(f"\n{bug.message}\n{bug.traceback.rstrip()}")
    if errors:
        raise typer.Exit(worst_of(errors).exit_code)
