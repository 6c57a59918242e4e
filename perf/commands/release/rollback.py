"""`tritonsmith rollback`: an older published version served again."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from tritonsmith.builder.commands.options import Format, FormatOption
from tritonsmith.perf.commands.release.options import (
    DESTINATION_VARIABLE,
    CaFileOption,
    HeaderOption,
    ReloadOption,
    ReloadTimeoutOption,
    release_from_flags,
)


def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.", show_default=False)],
    version: Annotated[
        Optional[int],  # noqa: UP045 - Typer reads the annotation at run time on Python 3.10
        typer.Argument(
            help="The version; default: the one served before the present one.", show_default=False
        ),
    ] = None,
    destination: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="DEST",
            envvar=DESTINATION_VARIABLE,
            help="Where it was published: a directory, or s3://, gs:// or az:// and a prefix.",
            show_default=False,
        ),
    ] = "",
    reload: ReloadOption = None,
    header: HeaderOption = None,
    ca_file: CaFileOption = None,
    reload_timeout: ReloadTimeoutOption = 600.0,
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
    release = release_from_flags(reload, header, ca_file, reload_timeout)
    with progress("verifying") as tell:
        done = run_rollback(
            open_destination(destination),
            model,
            version,
            release,
            lambda file: tell(f"verified {file}", 0, None),
        )
    if format is Format.json:
        emit_json(
            {
                "model": done.model,
                "version": done.version,
                "served": list(done.served),
                "previous": list(done.previous),
                "verified_files": done.verified_files,
                "live": done.live,
            }
        )
    else:
        was = ", ".join(map(str, done.previous)) or "none"
        emit_text(
            f"{model}: version {done.version} is served again (before: {was}), {done.verified_files} files verified"
            + (f"\n{done.live}" if done.live else "")
        )
