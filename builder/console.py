"""What people see: results on stdout, progress and notes on stderr, colour and bars on a terminal only."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from builder.shown import one_line, visible, without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn


def stderr_console() -> Console:
    """A rich console on stderr; plain when stderr is not a terminal."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """One line for people, on stderr."""
    print(_safe(text), file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """A result for machines, on stdout."""
    print(without_secrets(json.dumps(value, indent=2, sort_keys=False, default=str)), flush=True)


def emit_text(text: str, *, styled: bool = False) -> None:
    """A result for people, on stdout. styled: it holds colours of ours, so what it holds of others is safe already."""
    print(text if styled else _safe(text), flush=True)


# A line that begins so is an order to a CI's runner.
_ORDER = re.compile(r"^([ \t]*:)(?=:)", re.MULTILINE)


def _safe(text: str) -> str:
    return _ORDER.sub("\\1\u200b", visible(without_secrets(text)))


def described_column() -> ProgressColumn:
    """A task's description, which may name what others wrote: as text, without markup and control characters."""
    from rich.progress import Task, TextColumn
    from rich.text import Text

    class Described(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(one_line(task.description))

    return Described("")


@contextmanager
def progress() -> Iterator[Progress]:
    """A rich progress display on stderr that draws nothing when stderr is not a terminal."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = stderr_console()
    with Progress(
        SpinnerColumn(),
        described_column(),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        yield bar
