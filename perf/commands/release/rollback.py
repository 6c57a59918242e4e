"""`tritonsmith rollback`: an older published version served again."""

from __future__ import annotations

from dataclasses import asdict

from tritonsmith.builder.commands.options import Format, FormatOption
from tritonsmith.perf.commands.flattened import argument, flag, flattened
from tritonsmith.perf.commands.release.options import (
    ReleaseFlags,
    destination_argument,
    destination_first,
    release_from_flags,
)


@flattened
def rollback(
    *,
    destination: str | None = destination_argument(),
    model: str | None = argument(None, "The model.  [required]", metavar="MODEL"),
    version: str | None = argument(
        None, "The version; default: the one served before the present one.", metavar="VERSION"
    ),
    at: str | None = flag(None, "DEST, as it was given before it was an argument.", "--at", hidden=True),
    servers: ReleaseFlags,
    format: FormatOption = Format.text,
) -> None:
    """Serve an older version of a published model again.

    Its files are read first, and found to be what was published.

    Examples: tritonsmith rollback /srv/models minilm
              tritonsmith rollback s3://models/prod minilm 4 --reload http://127.0.0.1:8000
    """
    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.builder.base.text.console import emit_json, emit_text, note, progress
    from tritonsmith.builder.publish import open_destination
    from tritonsmith.builder.publish import rollback as run_rollback

    words = [word for word in (destination, model, version) if word is not None]
    if at is not None:
        note("note: --at DEST is the argument DEST now: tritonsmith rollback DEST MODEL [VERSION]")
        where, named = at, words
    else:
        where, named = destination_first(*words)
    if not named or len(named) > 2 or not all(word.isdecimal() for word in named[1:]):
        raise UsageError(
            "a model, and a version of it as a number if one is meant, follow the destination",
            code="bad_rollback",
            seen=" ".join(words),
            fix="tritonsmith rollback DEST MODEL [VERSION]",
        )
    name, number = named[0], int(named[1]) if len(named) > 1 else None
    release = release_from_flags(servers)
    with progress("verifying", alike=False) as tell:
        done = run_rollback(
            open_destination(where),
            name,
            number,
            release,
            lambda file: tell(f"verified {file}", 0, None),
        )
    if format is Format.json:
        emit_json(asdict(done))
    else:
        was = ", ".join(map(str, done.previous)) or "none"
        emit_text(
            f"{name}: version {done.version} is served again (before: {was}), {done.verified_files} files verified"
            + (f"\n{done.live}" if done.live else "")
        )
