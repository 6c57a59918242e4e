"""BuildProgress → a live view on a terminal: how many models are settled, and a line for each action that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.console import described_column, stderr_console

if TYPE_CHECKING:
    from builder.execution import BuildProgress


@contextmanager
def build_view() -> Iterator[Callable[[BuildProgress], None]]:
    """Gives what build() tells its progress to; nothing is drawn where stderr is no terminal."""
    console = stderr_console()
    if not console.is_terminal:
        yield lambda at: None
        return
    from rich.console import Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )

    models = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )
    actions = Progress(SpinnerColumn(), described_column(), TimeElapsedColumn())
    total = models.add_task("models", total=None)
    lines: dict[str, TaskID] = {}

    def tell(at: BuildProgress) -> None:
        models.update(total, completed=at.done, total=at.total)
        for gone in [what for what in lines if what not in at.running]:
            actions.remove_task(lines.pop(gone))
        for what in at.running:
            if what not in lines:
                lines[what] = actions.add_task(what)

    with Live(Group(models, actions), console=console, transient=True, refresh_per_second=8):
        yield tell
