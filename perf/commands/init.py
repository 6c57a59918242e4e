"""`tritonsmith init`: ONNX files, repositories or a live Triton → a first models.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonsmith.builder.commands.init import STDOUT, refuse_existing, root_of, write_spec
from tritonsmith.builder.commands.options import DEFAULT_SPEC, Format, FormatOption
from tritonsmith.perf.commands.flattened import flag, flattened

if TYPE_CHECKING:
    from tritonsmith.builder.importing.imported import Imported


@flattened
def init(
    origins: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH|URL…",
            help="ONNX files, directories of them, model repositories or directories, or a live Triton's URL.",
        ),
    ],
    output: Path = flag(DEFAULT_SPEC, "The spec to write; - prints it.", "--output", "-o"),
    force: bool = flag(False, "Replace a spec that is there.", "--force"),
    format: FormatOption = Format.text,
) -> None:
    """Write a first models.yaml from what is there.

    A model of one ONNX file becomes `source: {onnx: …}`; any other model of a repository is taken over as it is,
    `source: {directory: …}`. Comments of a config.pbtxt are not carried over; each is named. A live Triton tells
    its configs but hands no files out: their paths are left to be written in.

    Examples: tritonsmith init detector.onnx
              tritonsmith init /models --output models.yaml
              tritonsmith init http://localhost:8000
    """
    refuse_existing(output, force)
    write_spec(
        _imported(origins, root_of(output)),
        ", ".join(origins),
        output,
        format is Format.json and output != STDOUT,
    )


def _imported(origins: list[str], root: Path) -> Imported:
    from tritonsmith.builder.base.errors import UsageError

    urls = [origin for origin in origins if "://" in origin]
    if not urls:
        from tritonsmith.builder.importing.files import imported_paths

        return imported_paths([Path(origin) for origin in origins], root)
    if len(origins) > 1:
        raise UsageError(
            "a live Triton is imported by itself",
            code="url_and_more",
            seen=" ".join(origins),
            fix=f"tritonsmith init {urls[0]}",
        )
    return imported_url(urls[0])


def imported_url(url: str) -> Imported:
    """Every model that a live Triton serves; a note for each that it knows of but does not serve."""
    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.builder.importing.imported import Note
    from tritonsmith.builder.importing.live import imported_configs
    from tritonsmith.perf.server import control
    from tritonsmith.perf.server.spec import address_from_url

    host, port = address_from_url(url)
    address = f"{host}:{port}"
    control.server_metadata(address)  # what is no Triton is told as that
    rows = control.repository_index(address)
    served = sorted({row.name for row in rows if row.state == "READY"})
    idle = sorted({row.name for row in rows} - set(served))
    notes = [Note(f"{name}: not served now, so the server tells no config; not in the spec") for name in idle]
    if not served:
        raise UsageError(
            f"the Triton at {address} serves no model",
            code="no_models",
            seen=", ".join(idle) or None,
            fix="load its models first",
        )
    return imported_configs([control.model_config(address, name) for name in served], notes)
