"""A command that takes frozen dataclasses of flags → one that typer reads, with a flag for each of their fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import fields, is_dataclass
from enum import Enum
from inspect import Parameter
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """In the place of a parameter of a dataclass are its fields, whose help stands in the panel that its PANEL names.

    A type is Annotated with typer.Option or typer.Argument; a Literal in it is a choice, and arrives as its text.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    flags = [
        flag
        for parameter in inspect.signature(command).parameters.values()
        for flag in _flags_of(parameter, hints[parameter.name])
    ]

    def flat(**given: Any) -> None:
        values = {name: value.value if isinstance(value, Enum) else value for name, value in given.items()}
        made = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**values, **made)

    flat.__name__, flat.__doc__, flat.__module__ = command.__name__, command.__doc__, command.__module__
    flat.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    flat.__annotations__ = {flag.name: flag.annotation for flag in flags}
    return flat


def _flags_of(parameter: Parameter, hint: Any) -> Iterator[Parameter]:
    if not is_dataclass(hint):
        yield Parameter(
            parameter.name, Parameter.KEYWORD_ONLY, default=parameter.default, annotation=_read_by_typer(hint)
        )
        return
    panel = getattr(hint, "PANEL", None)
    types = get_type_hints(hint, include_extras=True)
    for field in fields(hint):
        annotation = _read_by_typer(types[field.name], panel)
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _read_by_typer(hint: Any, panel: str | None = None) -> Any:
    kind, option = get_args(hint)
    if panel is not None:
        option = copy(option)
        option.rich_help_panel = panel
    inner = [_enum_of(part) for part in get_args(kind) if get_origin(part) is Literal]
    if get_origin(kind) is Literal:
        kind = _enum_of(kind)
    elif inner:
        kind = inner[0] | None
    return Annotated[kind, option]


def _enum_of(choice: Any) -> Any:
    return Enum("Choice", {value: value for value in get_args(choice)}, type=str)
