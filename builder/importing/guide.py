"""The models of a first spec → what its reader may write next, as comments: variants, accuracy, what a sweep settles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tritonsmith.builder.base.sources import source_rows
from tritonsmith.builder.importing.imported import ImportedModel

SCHEMA_FILE = "models.schema.json"
SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA_FILE}"


def heading_of(origins: str, has_schema: bool) -> list[str]:
    """The comment at the top, below the line for editors."""
    lines = [f"Written by tritonsmith init from {origins}; it is yours to edit."]
    if not has_schema:
        lines.append(f"For completion in an editor: tritonsmith schema > {SCHEMA_FILE}")
    return lines


def guide_to(models: Sequence[ImportedModel], commands: Mapping[str, str]) -> dict[str, list[str]]:
    """Name → lines below its entry: below the first model that is exported, since all have the same keys.

    commands: name → the sweep that starts from its entry.
    """
    rows = source_rows()
    for model in models:
        kind = str(next(iter(model.source)))
        if kind in rows and rows[kind].export is not None:
            return {model.name: _lines(model, len(models) > 1, commands.get(model.name))}
    return {}


def _lines(model: ImportedModel, is_one_of_many: bool, command: str | None) -> list[str]:
    batched = bool(model.fields.get("max_batch_size"))
    lines = ["What may stand in any of the models:"] if is_one_of_many else []
    lines += [
        "Other forms of the model: all are built, each is judged against it, `serve` is laid out.",
        "variants:",
        "  fp32: {backend: onnxruntime}",
        "  fp16: {precision: fp16}                 # half the bytes; faster on GPUs, seldom on CPUs",
        "  int8: {precision: int8}                 # a quarter of the bytes; needs calibration",
        "serve: fp16",
        "calibration: calibration.npz              # inputs that int8 takes its ranges from; or module:callable",
        "How far an answer may be from the source's, on inputs of yours; beyond it the build fails.",
        "accuracy: {cosine: 0.999, samples: samples.npz}",
        "What a sweep settles by measuring; `tritonsmith apply` writes the winner here.",
        "instance_group: [{kind: KIND_AUTO, count: 2}]   # copies that run at once",
    ]
    if batched:
        lines.append(
            "In dynamic_batching, max_queue_delay_microseconds: 500 lets requests wait for a fuller batch."
        )
    if command is not None:
        lines.append(f"  {command}")
    return lines
