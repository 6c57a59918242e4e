"""Imported models → models.yaml, written or printed, and what a reader has to know about it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.base.text.console import emit_document, emit_json, emit_text, note
from tritonsmith.builder.base.text.quantities import counted
from tritonsmith.builder.commands.failures import end_with

if TYPE_CHECKING:
    from tritonsmith.builder.importing.imported import Imported

STDOUT = Path("-")


def root_of(output: Path) -> Path:
    """The directory that the spec's relative paths start from."""
    return Path() if output == STDOUT else output.parent


def refuse_existing(output: Path, force: bool) -> None:
    """UsageError when the spec is there already."""
    from tritonsmith.builder.base.errors import UsageError, Where

    if output != STDOUT and os.path.lexists(output) and not force:
        raise UsageError(
            f"{output} is there already",
            code="spec_exists",
            where=Where(output),
            fix="--output OTHER.yaml, or --force to replace it",
        )


def write_spec(
    imported: Imported,
    origins: str,
    output: Path,
    as_json: bool,
    *,
    schema: bool = False,
    commands: Mapping[str, str] | None = None,
) -> None:
    """Writes the spec and tells what became of each model; SpecError when it would not be valid.

    schema: its JSON Schema is written beside it. commands: a model's name → the sweep that its comments name.
    """
    from tritonsmith.builder.base.files.disk import write_atomically
    from tritonsmith.builder.importing.guide import SCHEMA_FILE, SCHEMA_LINE, guide_to, heading_of
    from tritonsmith.builder.importing.spec_text import text_of_spec, without_refused

    imported = without_refused(imported)
    beside = output.parent / SCHEMA_FILE
    heading = heading_of(origins, schema or (output != STDOUT and beside.is_file()))
    below = guide_to(imported.models, commands or {})
    text = f"{SCHEMA_LINE}\n{text_of_spec(imported.models, heading, below)}"
    for lost in imported.notes:
        note(f"note: {lost}")
    if output == STDOUT:
        emit_document(text.rstrip("\n"))
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        if schema:
            write_atomically(beside, _schema_text())
        write_atomically(output, text)
        emit_json(_as_json(imported, output)) if as_json else _tell_written(imported, output)
    end_with(imported.failures)


def refuse_other_schema(output: Path, force: bool) -> None:
    """UsageError when a file of the schema's name is there and is not the schema."""
    from tritonsmith.builder.base.errors import UsageError, Where
    from tritonsmith.builder.importing.guide import SCHEMA_FILE

    beside = output.parent / SCHEMA_FILE
    if output == STDOUT:
        raise UsageError(
            "--schema writes a file beside the spec, and --output - writes none",
            code="schema_and_stdout",
            fix=f"tritonsmith schema > {SCHEMA_FILE}",
        )
    if os.path.lexists(beside) and not force and _text_of(beside) != _schema_text():
        raise UsageError(
            f"{beside} is there already, and is another",
            code="schema_exists",
            where=Where(beside),
            fix="--force to replace it and the spec, or no --schema",
        )


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _schema_text() -> str:
    import json

    from tritonsmith.builder.spec.json_schema import json_schema

    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _tell_written(imported: Imported, output: Path) -> None:
    emit_text(f"{output}: {counted(len(imported.models), 'model')}")
    spec = "" if output.name == "models.yaml" and output.parent == Path() else f" --spec {output}"
    note(f"next: tritonsmith plan{spec}, then tritonsmith build{spec}")
    origins_inside = [m.name for m in imported.models if _is_built_there(m.source.values())]
    if origins_inside:
        note(
            f"the models lie where build would write: `build{spec} --overwrite` takes them over in place, "
            "with no other copy of their files; --repository builds elsewhere"
        )


def _is_built_there(sources: Iterable[object]) -> bool:
    """Whether a source lies in the repository that a build of the spec writes when it is not told another."""
    return any(isinstance(source, str) and source.startswith("model_repository/") for source in sources)


def _as_json(imported: Imported, output: Path) -> dict[str, Any]:
    return {
        "spec": str(output),
        "models": [{"name": m.name, "source": dict(m.source)} for m in imported.models],
        "notes": [
            {"message": n.message, "where": None if n.where is None else str(n.where)} for n in imported.notes
        ],
        **({"errors": [e.as_dict() for e in imported.failures]} if imported.failures else {}),
    }
