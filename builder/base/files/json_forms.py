"""A frozen dataclass ↔ its JSON form, both by the types of its fields (tuples are arrays)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import Self

from tritonsmith.builder.base.files.untrusted import adapter_of


class JsonForm:
    """Base of a dataclass that travels between processes, or into records, as JSON."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """The JSON form. Values stay as they are (1 in a field of floats, too): keys are made of them."""
        form: dict[str, Any] = _arrays(
            adapter_of(type(self)).dump_python(self, by_alias=True, warnings=False)
        )
        return form

    @classmethod
    def from_dict(cls, form: Mapping[str, Any]) -> Self:
        """The inverse; unknown keys are passed over, ValidationError for a value of another type."""
        made: Self = adapter_of(cls).validate_python(form)
        return made


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return [_arrays(item) for item in value] if isinstance(value, (list, tuple)) else value
