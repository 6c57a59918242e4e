"""`tritonsmith init`: callables, model files, repositories or a live Triton → a first models.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tritonsmith.builder.commands.init import (
    STDOUT,
    refuse_existing,
    refuse_other_schema,
    root_of,
    write_spec,
)
from tritonsmith.builder.commands.options import DEFAULT_SPEC, Format, FormatOption
from tritonsmith.perf.commands.flattened import flag, flattened

if TYPE_CHECKING:
    from tritonsmith.builder.importing.drafts.asked import Asked
    from tritonsmith.builder.importing.imported import Imported


@flattened
def init(
    origins: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="MODULE:CALLABLE of torch, model files, directories of them, Hugging Face directories, model "
            "repositories or directories, or a live Triton's URL.",
        ),
    ],
    output: Path = flag(DEFAULT_SPEC, "The spec to write; - prints it.", "--output", "-o"),
    force: bool = flag(False, "Replace a spec that is there.", "--force"),
    preset: Literal["image", "text", "audio"] | None = flag(
        None, "Start from batch sizes and sizes that suit such data.", "--preset"
    ),
    name: str | None = flag(None, "The model's name; default: its file's or callable's.", "--name"),
    input: list[str] | None = flag(
        None,
        "An input that the source does not tell, as x:FP32:3,height,width; without the batch.",
        "--input",
    ),
    output_tensor: list[str] | None = flag(None, "The same of a Python model's output.", "--output-tensor"),
    trust: bool = flag(False, "Load pickles: their authors may run code here.", "--trust"),
    schema: bool = flag(False, "Write models.schema.json beside it, for editors.", "--schema"),
    format: FormatOption = Format.text,
) -> None:
    """Write a first models.yaml from what is there.

    Each model is exported and held against its source as a build does it, in batches where its rows allow that, and
    stands in the spec as it was accepted; the build finds the artifacts in the cache. Python models are only parsed.

    A model of a repository that is one ONNX file becomes `source: {onnx: …}`; any other is taken over as it is,
    `source: {directory: …}`. Comments of a config.pbtxt are not carried over; each is named. A live Triton tells
    its configs but hands no files out: their paths are left to be written in.

    Examples: tritonsmith init net:load --preset image
              tritonsmith init detector.onnx scorer.pt2 fraud.ubj
              tritonsmith init risk.pkl --trust
              tritonsmith init chat.Q4_K_M.gguf
              tritonsmith init ./minilm --preset text
              tritonsmith init /models --output models.yaml
              tritonsmith init http://localhost:8000
    """
    from tritonsmith.builder.cache.cache import Cache, default_cache_directory
    from tritonsmith.builder.importing.drafts.asked import Asked, tensors_from_flags
    from tritonsmith.builder.importing.drafts.draft import sweep_commands

    refuse_existing(output, force)
    if schema:
        refuse_other_schema(output, force)
    asked = Asked(
        name,
        preset,
        trust,
        tensors_from_flags(input or (), "--input"),
        tensors_from_flags(output_tensor or (), "--output-tensor"),
        Cache(default_cache_directory()),
    )
    imported = _imported(origins, root_of(output), asked)
    write_spec(
        imported,
        ", ".join(origins),
        output,
        format is Format.json and output != STDOUT,
        schema=schema,
        commands=sweep_commands(imported.models, asked),
    )


def _imported(origins: list[str], root: Path, asked: Asked) -> Imported:
    from tritonsmith.builder.base.errors import UsageError

    urls = [origin for origin in origins if "://" in origin]
    if not urls:
        from tritonsmith.builder.importing.files import imported_paths

        return imported_paths(origins, root, asked)
    if len(origins) > 1:
        raise UsageError(
            "a live Triton is imported by itself",
            code="url_and_more",
            seen=" ".join(origins),
            fix=f"tritonsmith init {urls[0]}",
        )
    from tritonsmith.builder.importing.files import refuse_flags

    refuse_flags(asked, urls[0])
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
