"""(what an entry is wanted for, its record, its files) → the record, typed; ValueError when it is anything else.

An entry's key says nothing about its content, and whoever may write to a shared cache may put anything under it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.config import with_config
from typing_extensions import NotRequired, TypedDict

from tritonsmith.builder.actions.action import TAKEN, Kind
from tritonsmith.builder.actions.batch_rows.report import RowsJson
from tritonsmith.builder.base.dim_relations import relation_from_text
from tritonsmith.builder.base.files.untrusted import (
    STRICT,
    Dependency,
    Distance,
    RelativePath,
    Sha256,
    first_fault,
)
from tritonsmith.builder.base.tensors import dtype_from_config

# Another version of tritonsmith that uses the same cache may write more.
_MORE = ConfigDict(**{**STRICT, "extra": "ignore"})


def _data_type(name: str) -> str:
    try:
        return dtype_from_config(name).config
    except KeyError:
        raise ValueError("no data type of Triton's") from None


_Dim = Annotated[int, Field(ge=-1, lt=2**63)]
_DimName = Annotated[str, Field(min_length=1, max_length=200)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Tools = dict[str, str | None]


@with_config(_MORE)
class _Tensor(TypedDict):
    name: Annotated[str, Field(min_length=1)]
    data_type: Annotated[str, AfterValidator(_data_type)]
    shape: list[_Dim | _DimName]


@with_config(_MORE)
class _Bounds(TypedDict):
    relative_l2: Distance | None
    cosine: Distance | None
    max_abs: Distance | None
    negligible_abs: Distance
    top1: Distance | None


@with_config(STRICT)
class _Deviation(TypedDict):
    output: str
    relative_l2: Distance | None
    cosine: Distance
    max_abs: Distance | None
    failure: str | None
    bounds: _Bounds
    runtime: str
    sample: str
    top1: Distance | None
    passed: bool
    violations: list[str]


@with_config(_MORE)
class _Accuracy(TypedDict):
    samples: _Count
    note: str | None
    deviations: list[_Deviation]


@with_config(_MORE)
class _Made(TypedDict):
    inputs: list[_Tensor]
    outputs: list[_Tensor]
    dependencies: dict[Dependency, Sha256]
    accuracy: _Accuracy
    served_files: list[RelativePath]
    samples: RelativePath | None
    tools: _Tools


@with_config(_MORE)
class _TakenOver(_Made):
    directories: list[RelativePath]


def _relation(text: str) -> str:
    relation_from_text(text)
    return text


@with_config(_MORE)
class _Exported(_Made):
    opset: _Count
    ir_version: _Count
    relations: NotRequired[dict[_DimName, Annotated[str, AfterValidator(_relation)]]]
    exporter: NotRequired[str | None]
    notes: NotRequired[list[str]]


@with_config(_MORE)
class _Layer(TypedDict):
    node: str
    op_type: str
    own_loss: Distance
    total_loss: Distance


@with_config(_MORE)
class _Layers(TypedDict):
    layers: list[_Layer]
    suggested_exclude: list[str]


@with_config(STRICT)
class _Metric(TypedDict):
    runtime: str
    value: Distance | None
    passed: bool


@with_config(_MORE)
class _Coverage(TypedDict):
    nodes: _Count
    of_nodes: _Count
    weight_bytes: _Count
    of_weight_bytes: _Count
    kept: dict[str, _Count]


@with_config(_MORE)
class _Converted(_Exported, _Layers):
    metric: list[_Metric]
    findings: list[str]
    converted: list[str]
    notes: list[str]  # type: ignore[misc]
    coverage: NotRequired[_Coverage | None]


@with_config(_MORE)
class _Engine(TypedDict):
    version: str
    compute_capability: str | None
    profiles: _Count
    bytes: _Count


@with_config(_MORE)
class _Proof(TypedDict):
    engine: _Engine


@with_config(_MORE)
class _Compiled(_Converted, _Proof):
    pass


@with_config(_MORE)
class _Rows(TypedDict):
    rows: RowsJson


_TYPES: Mapping[Kind, Any] = {
    "rows": _Rows,
    "convert": _Converted,
    "compile": _Compiled,
    "layers": _Layers,
    "proof": _Proof,
}


@cache
def _adapter(type_: Any) -> TypeAdapter[dict[str, Any]]:
    return TypeAdapter(type_)


def checked_record(kind: Kind, record: Mapping[str, Any], files: Collection[str]) -> Mapping[str, Any]:
    """The record of an entry with these files, as the actions of this kind write it."""
    if kind == "source":
        type_: Any = _TakenOver if "directories" in record else _Exported
    else:
        type_ = _TYPES[kind]
    try:
        checked = _adapter(type_).validate_python(record)
    except ValidationError as error:
        raise ValueError(f"record.{first_fault(error)}") from None
    missing = [name for name in _named(checked) if name not in files]
    if missing:
        raise ValueError(f"its record names {missing[0]!r:.80}, which it has not")
    has_onnx = any(name.endswith(".onnx") for name in checked.get("served_files", ()))
    if (kind == "convert" or type_ is _Exported) and not has_onnx:
        raise ValueError("it has no ONNX file")
    return checked


def _named(record: Mapping[str, Any]) -> Iterable[str]:
    prefix = f"{TAKEN}/" if "directories" in record else ""
    yield from (f"{prefix}{name}" for name in record.get("served_files", ()))
    if record.get("samples") is not None:
        yield record["samples"]
