"""What people see: results on stdout, progress and notes on stderr, colour and bars on a terminal only."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def stderr_console() -> Console:
    """A rich console on stderr; plain when stderr is not a terminal."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """One line for people, on stderr."""
    print(_encodable(text), file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """A result for machines, on stdout."""
    print(json.dumps(value, indent=2, sort_keys=False, default=str), flush=True)


def emit_text(text: str) -> None:
    """A result for people, on stdout."""
    print(_encodable(text), flush=True)


def _encodable(text: str) -> str:
    """The text without the halves of surrogates that stand for bytes of a file's name which are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


@contextmanager
def progress() -> Iterator[Progress]:
    """A rich progress display on stderr that draws nothing when stderr is not a terminal."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = stderr_console()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        yield bar
