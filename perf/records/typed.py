"""A frozen dataclass that was filled from a file → the same with every field of its type, or a ValueError."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from tritonsmith.builder.base.files.untrusted import first_fault

T = TypeVar("T")

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""What a dataclass's own `from_dict` raises of data that is not as `as_dict` writes it."""


def typed(value: T) -> T:
    """The dataclass with the ones in it; whole numbers become floats where those are wanted."""
    try:
        kind: Any = type(value)
        return cast(T, _adapter(kind).validate_python(asdict(cast(Any, value))))
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


@lru_cache(maxsize=16)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
