"""BuildProgress → a live view on a terminal: how many models are settled, and a line for each action that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.console import progress

if TYPE_CHECKING:
    from builder.execution import BuildProgress


@contextmanager
def build_view() -> Iterator[Callable[[BuildProgress], None]]:
    """Gives what build() tells its progress to; nothing is drawn where stderr is no terminal."""
    with progress() as bar:
        total = bar.add_task("reading the spec", total=1)
        lines: dict[str, object] = {}

        def tell(at: BuildProgress) -> None:
            bar.update(total, description="models", completed=at.done, total=at.total)
            for gone in [what for what in lines if what not in at.running]:
                bar.remove_task(lines.pop(gone))  # type: ignore[arg-type]
            for what in at.running:
                if what not in lines:
                    lines[what] = bar.add_task(f"  {what}", total=None)

        yield tell
