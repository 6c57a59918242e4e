"""A frozen dataclass ↔ its JSON form; what a stranger wrote that is none becomes a ValueError which says where.

A dataclass whose form is not its fields says so itself: an alias, a computed field, a validator or a serializer of pydantic.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar, cast

from pydantic import PlainSerializer, ValidationError

from tritonsmith.builder.base.files.untrusted import adapter_of, first_fault

T = TypeVar("T")

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""What is raised of data that are not as `json_of` gives them."""

Seconds = Annotated[float, PlainSerializer(lambda seconds: round(seconds, 4))]
"""A duration, in files as exact as it is worth."""


def typed(kind: type[T], data: Any) -> T:
    """What json_of gave → the dataclass with the ones in it; keys that it does not know are left out."""
    try:
        return cast(T, adapter_of(kind).validate_python(data, context={}))
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


def json_of(value: Any) -> Any:
    """The JSON form as plain values, as reading it from a file gives them: Infinity stays a number."""
    return json.loads(json.dumps(adapter_of(type(value)).dump_python(value), default=str))
