"""`tritonsmith rollback`: an older published version served again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tritonsmith.builder.commands.options import Format, FormatOption
from tritonsmith.perf.commands.flattened import argument, flag, flattened
from tritonsmith.perf.commands.release.options import DESTINATION_VARIABLE, ReleaseFlags, release_from_flags


@flattened
def rollback(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    version: int | None = argument(None, "The version; default: the one served before the present one."),
    destination: str = flag(
        "",
        "Where it was published: a directory, or s3://, gs:// or az:// and a prefix.",
        "--at",
        metavar="DEST",
        envvar=DESTINATION_VARIABLE,
    ),
    servers: ReleaseFlags,
    format: FormatOption = Format.text,
) -> None:
    """Serve an older version of a published model again, after its files are found to be what was published.

    Examples: tritonsmith rollback minilm --at /srv/models
              tritonsmith rollback minilm 4 --at s3://models/prod --reload http://127.0.0.1:8000
    """
    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.builder.base.text.console import emit_json, emit_text, progress
    from tritonsmith.builder.publish import open_destination
    from tritonsmith.builder.publish import rollback as run_rollback

    if not destination:
        raise UsageError("where it was published is not said", code="no_destination", fix="--at DEST")
    release = release_from_flags(servers)
    with progress("verifying", alike=False) as tell:
        done = run_rollback(
            open_destination(destination),
            model,
            version,
            release,
            lambda file: tell(f"verified {file}", 0, None),
        )
    if format is Format.json:
        emit_json(asdict(done))
    else:
        was = ", ".join(map(str, done.previous)) or "none"
        emit_text(
            f"{model}: version {done.version} is served again (before: {was}), {done.verified_files} files verified"
            + (f"\n{done.live}" if done.live else "")
        )
