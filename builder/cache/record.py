"""(what an entry is wanted for, its record, its files) → the record, typed; ValueError when it is anything else.

An entry's key says nothing about its content, and whoever may write to a shared cache may put anything under it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from tritonsmith.builder.actions.action import TAKEN, Kind
from tritonsmith.builder.base.files.untrusted import adapter_of, first_fault


def checked_record(kind: Kind, record: Mapping[str, Any], files: Collection[str]) -> Mapping[str, Any]:
    """The record of an entry with these files, as the actions of this kind write it."""
    is_export = kind == "source" and "directories" not in record
    try:
        checked: dict[str, Any] = adapter_of(_type_of(kind, is_export)).validate_python(record)
    except ValidationError as error:
        raise ValueError(f"record.{first_fault(error)}") from None
    missing = [name for name in _named(checked) if name not in files]
    if missing:
        raise ValueError(f"its record names {missing[0]!r:.80}, which it has not")
    has_onnx = any(name.endswith(".onnx") for name in checked.get("served_files", ()))
    if (kind == "convert" or is_export) and not has_onnx:
        raise ValueError("it has no ONNX file")
    return checked


def _type_of(kind: Kind, is_export: bool) -> Any:
    # A plan looks at no record, and needs to import none of these.
    from tritonsmith.builder.actions.accuracy.action import LayersRecord
    from tritonsmith.builder.actions.batch_rows.action import RowsRecord
    from tritonsmith.builder.actions.compile.action import CompileRecord, ProofRecord
    from tritonsmith.builder.actions.convert.action import ConvertRecord
    from tritonsmith.builder.actions.export.action import ExportRecord
    from tritonsmith.builder.actions.language.action import ReferenceRecord, WeightsRecord
    from tritonsmith.builder.actions.take_over.action import TakenOverRecord

    types: Mapping[Kind, Any] = {
        "source": ExportRecord if is_export else TakenOverRecord,
        "rows": RowsRecord,
        "convert": ConvertRecord,
        "compile": CompileRecord,
        "layers": LayersRecord,
        "proof": ProofRecord,
        "weights": WeightsRecord,
        "reference": ReferenceRecord,
    }
    return types[kind]


def _named(record: Mapping[str, Any]) -> Iterable[str]:
    prefix = f"{TAKEN}/" if "directories" in record else ""
    yield from (f"{prefix}{name}" for name in record.get("served_files", ()))
    if record.get("samples") is not None:
        yield record["samples"]
