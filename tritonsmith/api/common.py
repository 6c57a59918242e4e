"""What the functions of the API share: how paths, names and progress are given, and what is raised."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, TypeVar

from tritonsmith.builder.base.errors import TritonsmithError, one_for
from tritonsmith.builder.base.text.console import Tell

PathLike = str | os.PathLike[str]
OnError = Literal["raise", "return"]
Progress = bool | Tell
"""False: none. True: on stderr. A function is told what goes on, how much of it is done, and of how much (or None)."""

_Result = TypeVar("_Result")


def several(given: PathLike | Sequence[PathLike]) -> Sequence[PathLike]:
    """One path, or those given."""
    return (given,) if isinstance(given, (str, os.PathLike)) else given


def names(given: str | Sequence[str]) -> tuple[str, ...]:
    """One name is not the sequence of its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def unless_failed(result: _Result, errors: Sequence[TritonsmithError], on_error: OnError) -> _Result:
    """The result, or the error that stands for all."""
    if errors and on_error == "raise":
        raise one_for(errors)
    return result


def unless_interrupted(result: _Result, interrupted: bool, on_error: OnError) -> _Result:
    """The result, or the Ctrl-C that cut it short."""
    if interrupted and on_error == "raise":
        raise KeyboardInterrupt
    return result
