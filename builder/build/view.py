"""BuildProgress → a live view on a terminal: how many models are settled, and a line for each action that runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tritonsmith.builder.base.text.console import is_drawable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from tritonsmith.builder.build.execution import BuildProgress


@contextmanager
def build_view() -> Iterator[Callable[[BuildProgress], None]]:
    """Gives what build() tells its progress to; nothing is drawn where stderr is no terminal."""
    if not is_drawable(sys.stderr):
        yield lambda at: None
        return
    from tritonsmith.builder.base.text.progress import activities, bars, drawn

    models, actions = bars(), activities()
    total = models.add_task("looking at what is stale", total=None)
    lines: dict[str, TaskID] = {}

    def tell(at: BuildProgress) -> None:
        models.update(
            total, description="models" if at.total > 1 else "building", completed=at.done, total=at.total
        )
        for gone in [what for what in lines if what not in at.running]:
            actions.remove_task(lines.pop(gone))
        for what in at.running:
            if what not in lines:
                lines[what] = actions.add_task(what)

    with drawn(models, actions):
        yield tell
