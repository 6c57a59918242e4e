"""`tritonsmith versions`: what was published somewhere, which of it is served, and where it came from."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tritonsmith.builder.commands.options import Format, FormatOption
from tritonsmith.perf.commands.flattened import argument, flattened
from tritonsmith.perf.commands.release.options import DESTINATION_VARIABLE


@flattened
def versions(
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DEST",
            envvar=DESTINATION_VARIABLE,
            help="A directory, or s3://, gs:// or az:// and a prefix.",
        ),
    ],
    model: str | None = argument(None, "Only this one; default: all.", metavar="MODEL"),
    format: FormatOption = Format.text,
) -> None:
    """List published versions, newest first; --format json has each one's whole provenance."""
    from tritonsmith.builder.base.text.console import emit_json, emit_text, width_of
    from tritonsmith.builder.publish import list_versions, open_destination, text_of_versions

    rows = list_versions(open_destination(destination), model)
    if format is Format.json:
        emit_json({"destination": destination, "versions": [row.as_dict() for row in rows]})
    else:
        emit_text(text_of_versions(rows, destination, width_of(sys.stdout)))
