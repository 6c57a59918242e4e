"""Flags of the commands that change what live servers serve."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.commands.flattened import argument, flag

if TYPE_CHECKING:
    from tritonsmith.perf.commands.release.live import LiveRelease

DESTINATION_VARIABLE = "TRITONSMITH_PUBLISH_TO"


def destination_argument() -> str | None:
    """The argument DEST, which publish, versions and rollback have first."""
    return argument(
        None,
        "Where versions are published, a model repository that servers read: a directory, or s3://, gs:// or az:// "
        f"and a prefix.  [default: {DESTINATION_VARIABLE}; a directory given in place of it has a slash: ./DIR]",
        metavar="DEST",
    )


def destination_first(*words: str | None) -> tuple[str, list[str]]:
    """The arguments in their order → (the destination, the others); UsageError when no destination is named.

    Where the environment names one, the first word is another only when it has a slash, which no model's name has: a model
    that is meant is never taken for a directory to publish to.
    """
    given, named = [word for word in words if word is not None], os.environ.get(DESTINATION_VARIABLE)
    if named and not (given and ("/" in given[0] or given[0] in (".", ".."))):
        return named, given
    if not given:
        raise UsageError(
            "where versions are published is not said",
            code="no_destination",
            valid=["a directory", "s3://BUCKET/PREFIX", "gs://BUCKET/PREFIX", "az://CONTAINER/PREFIX"],
            fix=f"name it as DEST, or in {DESTINATION_VARIABLE}",
        )
    return given[0], given[1:]


@dataclass(frozen=True, slots=True)
class ReleaseFlags:
    """The servers to tell, and how."""

    reload: list[str] | None = flag(
        None,
        "A Triton (http or https) that reads the destination: it loads the version and answers the recorded "
        "requests, or all is as before; may be repeated.",
        "--reload",
        metavar="URL",
    )
    header: list[str] | None = flag(
        None, "NAME:VALUE sent to the servers, or @FILE with such lines.", "--header", "-H"
    )
    ca_file: Path | None = flag(None, "Certificates that https trusts beside the system's.")
    reload_timeout: float = flag(600.0, "Seconds that a server may take to have a model ready.", min=1.0)


def release_from_flags(flags: ReleaseFlags) -> LiveRelease | None:
    """The servers to tell; None without --reload."""
    if not flags.reload:
        return None
    from tritonsmith.perf.commands.load.flags import headers_from_flags

    return release_at(
        flags.reload, headers_from_flags(flags.header or []), flags.ca_file, flags.reload_timeout
    )


def release_at(
    urls: Sequence[str], headers: Mapping[str, str], ca_file: Path | None, timeout_s: float
) -> LiveRelease:
    """The servers to tell, and what each request to them carries and trusts."""
    from tritonsmith.perf.commands.release.live import LiveRelease
    from tritonsmith.perf.wire.http import HttpTarget

    file = None if ca_file is None else str(ca_file)
    return LiveRelease([HttpTarget(url, headers=headers, ca_file=file) for url in urls], timeout_s)
