"""Triton's ModelConfig protobuf descriptor → a pydantic type with the proto's own field names, nesting and enums.

The proto is the schema: every field that this tritonclient knows can be written in models.yaml, and a
release that adds one needs no change here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictStr,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    create_model,
    model_validator,
)

from tritonsmith.builder.base.triton_proto import is_map, is_repeated, model_config_pb2

# google.protobuf.descriptor.FieldDescriptor.CPPTYPE_*
_INT32, _INT64, _UINT32, _UINT64, _DOUBLE, _FLOAT, _BOOL, _ENUM, _STRING, _MESSAGE = range(1, 11)


def _int_between(low: int, high: int) -> Any:
    return Annotated[int, Field(strict=True, ge=low, le=high)]


def _number_for_json(value: float) -> float | str:
    """protobuf JSON writes an infinity and NaN as words."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


_REAL = Annotated[float, PlainSerializer(_number_for_json)]
_SCALARS: dict[int, Any] = {
    _INT32: _int_between(-(2**31), 2**31 - 1),
    _INT64: _int_between(-(2**63), 2**63 - 1),
    _UINT32: _int_between(0, 2**32 - 1),
    _UINT64: _int_between(0, 2**64 - 1),
    _DOUBLE: _REAL,
    _FLOAT: _REAL,
    _BOOL: StrictBool,
    _STRING: StrictStr,
}

_NamedDim: Any = Annotated[
    _int_between(-(2**63), 2**63 - 1) | StrictStr,
    Field(description="a size, -1, or the name of a dynamic dimension", union_mode="left_to_right"),
]


class TritonMessage(BaseModel):
    """Base of every generated type: unknown keys are refused, at most one member of a oneof is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    __oneofs__: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @model_validator(mode="after")
    def _one_of_each_oneof(self) -> TritonMessage:
        for oneof, members in self.__oneofs__.items():
            present = [m for m in members if getattr(self, m) is not None]
            if len(present) > 1:
                raise ValueError(
                    f"{' and '.join(present)} exclude one another (Triton's {oneof} is one of {', '.join(members)})"
                )
        return self

    def as_proto_json(self) -> dict[str, Any]:
        """The set fields as protobuf JSON with proto field names."""
        return self.model_dump(mode="json", exclude_none=True)


def _shorthand_parameter(value: Any) -> Any:
    """`key: 4` under parameters means {string_value: "4"}, the only kind of value Triton has."""
    if isinstance(value, bool):
        return {"string_value": "true" if value else "false"}
    return {"string_value": str(value)} if isinstance(value, str | int | float) else value


class _Parameter(TritonMessage):
    string_value: StrictStr | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_scalar(cls, value: Any) -> Any:
        return _shorthand_parameter(value)


def _int_from_key(value: Any) -> Any:
    """A YAML key is text; a proto map may have whole numbers for keys."""
    text = value if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.removeprefix("-").isdigit() else value


def _enum_type(enum: Any) -> Any:
    """The enum's names. Its numbers are taken too, as text proto takes them, those of a later release included."""
    names = {v.number: v.name for v in enum.values}

    def from_number(value: Any, by_name: ValidatorFunctionWrapHandler) -> Any:
        number = isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31
        return names.get(value, value) if number else by_name(value)

    # TYPE_INVALID says that nothing was stated: an editor is not to offer it.
    offered = [name for name in names.values() if not name.endswith("_INVALID")]
    schema = {"anyOf": [{"type": "string", "enum": offered}, {"type": "integer"}]}
    return Annotated[
        Literal[tuple(names.values())],
        WrapValidator(from_number),
        PlainSerializer(lambda value: value),
        WithJsonSchema(schema),
    ]


def _single_type(field: Any) -> Any:
    if field.cpp_type == _ENUM:
        return _enum_type(field.enum_type)
    if field.cpp_type == _MESSAGE:
        return message_type(field.message_type.full_name)
    return _SCALARS[field.cpp_type]


def _field_type(message: Any, field: Any) -> Any:
    if message.name in ("ModelInput", "ModelOutput") and field.name == "dims":
        return tuple[_NamedDim, ...]
    if is_map(field):
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        key_type = _single_type(key)
        if key.cpp_type != _STRING:
            key_type = Annotated[key_type, BeforeValidator(_int_from_key)]
        return dict[key_type, _single_type(value)]  # type: ignore[misc, valid-type]
    if is_repeated(field):
        return tuple[_single_type(field), ...]  # type: ignore[misc]
    return _single_type(field)


def schema_name(full_name: str) -> str:
    """`inference.ModelEnsembling.Step` → its name in the JSON Schema, which no other message has."""
    return full_name.removeprefix("inference.").replace(".", "_")


@cache
def message_type(full_name: str, given: frozenset[str] | None = None) -> type[TritonMessage]:
    """`inference.ModelInstanceGroup` → its pydantic type. given: of the fields that are messages, those that may be."""
    if full_name == "inference.ModelParameter":
        return _Parameter
    pool = model_config_pb2().DESCRIPTOR.pool
    descriptor = pool.FindMessageTypeByName(full_name)
    fields: dict[str, Any] = {
        f.name: (
            _field_type(descriptor, f) | None
            if given is None or f.name in given or f.message_type is None
            else None,
            None,
        )
        for f in descriptor.fields
    }
    created: type[TritonMessage] = create_model(
        schema_name(full_name), __base__=TritonMessage, __module__=__name__, **fields
    )
    created.__oneofs__ = {o.name: tuple(f.name for f in o.fields) for o in descriptor.oneofs}
    return created


def model_config_type(given: frozenset[str] | None = None) -> type[TritonMessage]:
    """The type of Triton's ModelConfig. given: the only fields that will be, for types of messages take long to make."""
    return message_type("inference.ModelConfig", given)


def model_config_fields() -> tuple[str, ...]:
    """Names of ModelConfig's fields."""
    return tuple(field.name for field in model_config_pb2().ModelConfig.DESCRIPTOR.fields)
