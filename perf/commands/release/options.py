"""Flags of the commands that change what live servers serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritonsmith.perf.commands.flattened import flag

if TYPE_CHECKING:
    from tritonsmith.perf.commands.release.live import LiveRelease

DESTINATION_VARIABLE = "TRITONSMITH_PUBLISH_TO"


@dataclass(frozen=True, slots=True)
class ReleaseFlags:
    """The servers to tell, and how."""

    reload: list[str] | None = flag(
        None,
        "A Triton (http or https) that reads the destination: it loads the version and answers the recorded "
        "requests, or all is as before. May be given again for more servers.",
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
