"""What a server tells about itself, as JSON → the same, its types checked; ServerError where it is not what Triton says.

Of Triton's protocol extensions (docs/protocol: model repository, model configuration, statistics) the types name the
fields that are read here; others stay as they came. gRPC's JSON form, 64-bit numbers as strings, becomes numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from tritonsmith.builder.base.errors import ServerError

_Count = Annotated[int, Field(ge=0, lt=1 << 64)]
_Dim = Annotated[int, Field(ge=-1, lt=1 << 63)]
_MOST_DURATIONS = 100


def _each(kind: Any) -> BeforeValidator:
    """A list's values one by one, up to the first that is wrong: pydantic would keep an error for each."""
    adapter = TypeAdapter(kind)

    def values(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError("a list is meant")
        try:
            return tuple(adapter.validate_python(part) for part in value)
        except ValidationError as error:
            raise ValueError(_first(error)) from None

    return BeforeValidator(values)


def _few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > _MOST_DURATIONS:
        raise ValueError(f"more than {_MOST_DURATIONS} durations")
    return value


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part)[:40] for part in first["loc"][:8])
    text = first["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=(), coerce_numbers_to_str=True)


class ServerMetadata(_Told):
    """GET /v2."""

    name: str = ""
    version: str = ""
    extensions: Annotated[tuple[str, ...], _each(str)] = ()


class IndexRow(_Told):
    """One version of a model; Triton leaves out what is empty."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


class TensorMetadata(_Told):
    """shape: -1 for what varies."""

    name: str
    datatype: str
    shape: Annotated[tuple[_Dim, ...], _each(_Dim)]


class ModelMetadata(_Told):
    """GET /v2/models/M."""

    name: str
    versions: Annotated[tuple[str, ...], _each(str)] = ()
    platform: str = ""
    inputs: Annotated[tuple[TensorMetadata, ...], _each(TensorMetadata)] = ()
    outputs: Annotated[tuple[TensorMetadata, ...], _each(TensorMetadata)] = ()


class _Duration(_Told):
    count: _Count = 0
    ns: _Count = 0


class _BatchStatistics(_Told):
    batch_size: _Count
    compute_infer: _Duration = _Duration()


class ModelStatistics(_Told):
    """One row of `model_stats`."""

    name: str = ""
    version: str = ""
    inference_count: _Count = 0
    execution_count: _Count = 0
    inference_stats: Annotated[dict[str, _Duration], BeforeValidator(_few)] = {}
    batch_stats: Annotated[tuple[_BatchStatistics, ...], _each(_BatchStatistics)] = ()


class _AllStatistics(_Told):
    model_stats: Annotated[tuple[ModelStatistics, ...], _each(ModelStatistics)]


_Kind = TypeVar("_Kind", bound=_Told)
_INDEX: TypeAdapter[tuple[IndexRow, ...]] = TypeAdapter(Annotated[tuple[IndexRow, ...], _each(IndexRow)])


def server_metadata_from(value: Any, where: str) -> dict[str, Any]:
    """The answer to `GET /v2`; where: the address and the question, for the error."""
    told = _told(ServerMetadata, value, where)
    if not told.name and not told.version:  # an object of anybody's
        raise ServerError(
            f"{where}: not what Triton answers: no name, no version",
            code="not_triton",
            seen=str(value)[:80],
            fix=_FIX,
        )
    return _as_dict(told)


def index_from(value: Any, where: str) -> tuple[IndexRow, ...]:
    """The answer to `POST /v2/repository/index`."""
    try:
        return _INDEX.validate_python(value)
    except ValidationError as error:
        raise _not_triton(error, where) from None


def model_metadata_from(value: Any, where: str) -> dict[str, Any]:
    """The answer to `GET /v2/models/M`; a datatype that the protocol lacks is an error, too."""
    from tritonsmith.builder.base.tensors import DTYPES

    told = _told(ModelMetadata, value, where)
    known = [row.kserve for row in DTYPES]
    for tensor in (*told.inputs, *told.outputs):
        if tensor.datatype not in known:
            raise ServerError(
                f"{where}: tensor {tensor.name!r} has a datatype that KServe v2 lacks",
                code="not_triton",
                seen=tensor.datatype[:80],
                valid=known,
            )
    return _as_dict(told)


def statistics_from(value: Any, where: str) -> list[dict[str, Any]]:
    """The answer to `GET /v2/models/M/stats`, its `model_stats`."""
    return [_as_dict(row) for row in _told(_AllStatistics, value, where).model_stats]


def config_from(value: Any, where: str) -> dict[str, Any]:
    """The answer to `GET /v2/models/M/config`: every field that tritonclient's ModelConfig knows has its type."""
    from google.protobuf import json_format

    from tritonsmith.builder.base.triton_proto import model_config_pb2

    message = model_config_pb2().ModelConfig()
    try:
        json_format.ParseDict(value, message, ignore_unknown_fields=True)
        return _typed(value, message.DESCRIPTOR)
    except (json_format.ParseError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ServerError(
            f"{where}: not a model config: {str(error)[:300]}", code="not_triton", fix=_FIX
        ) from None


_FIX = "is this the address of a Triton (HTTP port 8000, gRPC port 8001 by default)?"


def _told(kind: type[_Kind], value: Any, where: str) -> _Kind:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _not_triton(error, where) from None


def _as_dict(told: _Told) -> dict[str, Any]:
    return told.model_dump(mode="json", exclude_unset=True)


def _not_triton(error: ValidationError, where: str) -> ServerError:
    return ServerError(
        f"{where}: not what Triton answers: {_first(error)[:300]}",
        code="not_triton",
        seen=repr(error.errors()[0]["input"])[:80],
        fix=_FIX,
    )


def _typed(value: Mapping[str, Any], descriptor: Any) -> dict[str, Any]:
    """JSON that ParseDict took, without what it takes beside: null for what is left out, text for numbers."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{descriptor.name} is no object")
    return {
        name: _typed_field(part, descriptor.fields_by_name[name])
        if name in descriptor.fields_by_name
        else part
        for name, part in value.items()
        if part is not None
    }


def _typed_field(value: Any, field: Any) -> Any:
    if isinstance(value, list):
        return [_typed_value(part, field) for part in value]
    inside = field.message_type
    if inside is not None and inside.GetOptions().map_entry:
        return {key: _typed_value(part, inside.fields_by_name["value"]) for key, part in value.items()}
    return _typed_value(value, field)


def _typed_value(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return _typed(value, field.message_type)
    if field.cpp_type in (
        field.CPPTYPE_INT32,
        field.CPPTYPE_INT64,
        field.CPPTYPE_UINT32,
        field.CPPTYPE_UINT64,
    ):
        return int(value)
    if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        return float(value)
    return value
