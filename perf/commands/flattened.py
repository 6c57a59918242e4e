"""A command that takes frozen dataclasses of flags → one that typer reads, with a flag for each of their fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, Field, field, fields, is_dataclass
from enum import Enum
from inspect import Parameter
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import typer

T = TypeVar("T")


def flag(default: T, help: str, *names: str, **more: Any) -> T:
    """Of a field of a dataclass of flags, or of a parameter: its default, and what typer.Option takes."""
    return field(default=default, metadata={"info": typer.Option(*names, help=help, **more)})


def argument(default: T, help: str, **more: Any) -> T:
    """The same of a positional argument."""
    return field(default=default, metadata={"info": typer.Argument(help=help, **more)})


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """In the place of a parameter of a dataclass are its fields, whose help stands in the panel that its PANEL names.

    Their types, as those of other parameters, may be Annotated with typer.Option or typer.Argument instead. A Literal is a
    choice, and arrives as its text.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    flags = [
        flag
        for parameter in inspect.signature(command).parameters.values()
        for flag in _flags_of(parameter, hints[parameter.name])
    ]

    defaults = {flag.name: flag.default for flag in flags if flag.default is not Parameter.empty}

    def flat(*positional: Any, **named: Any) -> None:
        first = dict(zip((flag.name for flag in flags), positional, strict=False))
        given = defaults | first | named
        values = {name: value.value if isinstance(value, _Choice) else value for name, value in given.items()}
        made = {
            name: kind(**{one.name: values.pop(one.name) for one in fields(kind)})
            for name, kind in groups.items()
        }
        command(**values, **made)

    flat.__name__, flat.__doc__, flat.__module__ = command.__name__, command.__doc__, command.__module__
    flat.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    flat.__annotations__ = {flag.name: flag.annotation for flag in flags}
    return flat


class _Choice(str, Enum):
    """What typer takes for a Literal."""


def _flags_of(parameter: Parameter, hint: Any) -> Iterator[Parameter]:
    if not is_dataclass(hint):
        stated = parameter.default
        info = stated.metadata["info"] if isinstance(stated, Field) else None
        yield _flag(parameter.name, hint, info, stated.default if isinstance(stated, Field) else stated)
        return
    types = get_type_hints(hint, include_extras=True)
    for one in fields(hint):
        default = Parameter.empty if one.default is MISSING else one.default
        yield _flag(
            one.name, types[one.name], one.metadata.get("info"), default, getattr(hint, "PANEL", None)
        )


def _flag(name: str, kind: Any, info: Any, default: Any, panel: str | None = None) -> Parameter:
    if info is None:
        kind, info = get_args(kind)
    if panel is not None:
        info = copy(info)
        info.rich_help_panel = panel
    choices = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    if choices:
        values = {value: value for value in get_args(choices[0])}
        choice = cast(Any, _Choice)("Choice", values)
        kind = choice if kind is choices[0] else choice | None
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])
