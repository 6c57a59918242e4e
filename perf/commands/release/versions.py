"""`tritonsmith versions`: what was published somewhere, which of it is served, and where it came from."""

from __future__ import annotations

import sys

from tritonsmith.builder.commands.options import Format, FormatOption
from tritonsmith.perf.commands.flattened import argument, flattened
from tritonsmith.perf.commands.release.options import destination_argument, destination_first


@flattened
def versions(
    destination: str | None = destination_argument(),
    model: str | None = argument(None, "Only this model; default: all.", metavar="MODEL"),
    format: FormatOption = Format.text,
) -> None:
    """List published versions, newest first, and which are served.

    With --format json also where each came from.

    Examples: tritonsmith versions /srv/models
              tritonsmith versions s3://models/prod minilm --format json
    """
    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.builder.base.text.console import emit_json, emit_text, width_of
    from tritonsmith.builder.publish import list_versions, open_destination, text_of_versions

    where, named = destination_first(destination, model)
    if len(named) > 1:
        raise UsageError("one model at most is listed by itself", code="two_models", seen=" ".join(named))
    rows = list_versions(open_destination(where), *named)
    if format is Format.json:
        emit_json({"destination": where, "versions": [row.as_dict() for row in rows]})
    else:
        emit_text(text_of_versions(rows, where, width_of(sys.stdout)))
