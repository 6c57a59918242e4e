"""Flags of the commands that change what live servers serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from tritonsmith.perf.commands.release.live import LiveRelease

DESTINATION_VARIABLE = "TRITONSMITH_PUBLISH_TO"

ReloadOption = Annotated[
    Optional[list[str]],  # noqa: UP045 - Typer reads the annotation at run time on Python 3.10
    typer.Option(
        "--reload",
        metavar="URL",
        help="A Triton (http or https) that reads the destination: it loads the version and answers the recorded "
        "requests, or all is as before. May be given again for more servers.",
        show_default=False,
    ),
]
HeaderOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--header", "-H", help="NAME:VALUE sent to the servers, or @FILE with such lines.", show_default=False
    ),
]
CaFileOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Certificates that https trusts beside the system's.", show_default=False),
]
ReloadTimeoutOption = Annotated[
    float, typer.Option(min=1.0, help="Seconds that a server may take to have a model ready.")
]


def release_from_flags(
    urls: list[str] | None, headers: list[str] | None, ca_file: Path | None, timeout_s: float
) -> LiveRelease | None:
    """Flags → the servers to tell; None without --reload."""
    if not urls:
        return None
    from tritonsmith.perf.commands.load.flags import headers_from_flags

    return release_at(urls, headers_from_flags(headers or []), ca_file, timeout_s)


def release_at(
    urls: Sequence[str], headers: Mapping[str, str], ca_file: Path | None, timeout_s: float
) -> LiveRelease:
    """The servers to tell, and what each request to them carries and trusts."""
    from tritonsmith.perf.commands.release.live import LiveRelease
    from tritonsmith.perf.wire.http import HttpTarget

    file = None if ca_file is None else str(ca_file)
    return LiveRelease([HttpTarget(url, headers=headers, ca_file=file) for url in urls], timeout_s)
