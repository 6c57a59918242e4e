"""Tasks under way → lines on stderr's terminal, drawn over and over; what fails in that ends no command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import IO, Any, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.table import Column
from rich.text import Text

from tritonsmith.builder.base.text.shown import one_line

_BAR_WIDTH = 14
# Before that, nobody can say how long the rest will take.
_LEAST_ELAPSED_S = 3.0


class _What(ProgressColumn):
    """The description: never markup, and what gives way when the line would be too long."""

    def render(self, task: Task) -> Text:
        return Text(one_line(task.description), no_wrap=True, overflow="ellipsis")


class _Spinner(SpinnerColumn):
    """Turns while a task runs; nothing before, a check mark after."""

    def __init__(self) -> None:
        super().__init__(finished_text="✓", table_column=Column(no_wrap=True))

    def render(self, task: Task) -> RenderableType:
        return super().render(task) if task.started else Text(" ")


class _Bar(BarColumn):
    """Of a task of several parts, from the first that is done: an empty bar would tell nothing."""

    def __init__(self) -> None:
        super().__init__(_BAR_WIDTH, table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Any:
        return super().render(task) if _has_parts(task) and task.completed > 0 else Text()


class _Done(ProgressColumn):
    """`3/8`, or `37 %` of a task with share=True; nothing where that is not known, or of one thing alone."""

    def render(self, task: Task) -> Text:
        if not _has_parts(task) or task.total is None:
            return Text()
        if task.fields.get("share"):
            return Text(f"{task.percentage:.0f} %" if task.completed > 0 else "")
        return Text(f"{task.completed:.0f}/{task.total:.0f}")


def _has_parts(task: Task) -> bool:
    if not task.started or task.total is None:
        return False
    return not task.finished if task.fields.get("share") else task.total > 1


class _Took(ProgressColumn):
    """Time since the task began, h:mm:ss, and how long it will go on, where its parts are alike and some are done."""

    def render(self, task: Task) -> Text:
        elapsed_s = task.finished_time if task.finished else task.elapsed
        if elapsed_s is None:
            return Text("")
        left_s = task.time_remaining if task.fields.get("alike") and elapsed_s >= _LEAST_ELAPSED_S else None
        return Text(_clock(elapsed_s) + (f", {_clock(left_s)} left" if left_s and not task.finished else ""))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def bars() -> Progress:
    """Tasks of which is known, or will be, how much there is to do: what goes on, a bar, how far, for how long.

    Fields of a task: share (what is done is a part of the total), alike (its parts take about the same time each).
    """
    return _progress(_Bar(), _Done(Column(no_wrap=True, justify="right")))


def activities() -> Progress:
    """Tasks of which is known that they run: what goes on, and for how long."""
    return _progress()


def _progress(*middle: ProgressColumn) -> Progress:
    columns = (_Spinner(), _What(), *middle, _Took(Column(no_wrap=True)))
    return Progress(*columns, disable=True)  # `drawn` draws it


_steps: Progress | None = None
"""Below what is drawn now: single steps of it that somebody deeper down tells of."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """A line of its own for one long step, below what is drawn already or alone."""
    if _steps is None:
        with drawn(), step(what):
            yield
        return
    display, task = _steps, _steps.add_task(what)
    try:
        yield
    finally:
        display.remove_task(task)


@contextmanager
def drawn(*displays: Progress) -> Iterator[None]:
    """Draws them on stderr, one below the other, as long as the block runs, and takes them away at its end."""
    global _steps
    steps, before = activities(), _steps

    def picture() -> RenderableType:
        with suppress(Exception):
            return Group(*(display.make_tasks_table(display.tasks) for display in (*displays, steps)))
        return Text()

    console, live = _live(picture, refresh_per_second=8)
    _steps = steps
    try:
        with live:
            yield
    finally:
        _steps = before
        console.show_cursor()  # a Ctrl-C may have come while the drawing began or ended


def _live(picture: Callable[[], RenderableType], **more: Any) -> tuple[Console, Live]:
    console = Console(file=cast("IO[str]", _Forgiving(sys.stderr)), highlight=False, soft_wrap=True)
    live = Live(
        console=console,
        get_renderable=picture,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # what is written to a pipe or a file belongs there
        **more,
    )
    return console, live


@contextmanager
def pictured(picture: Callable[[int, int], Sequence[str]]) -> Iterator[Callable[[], None]]:
    """Gives what draws the lines of picture(columns, lines) on stderr, in the place of those that it drew before.

    Between two calls nothing is drawn and no thread runs: what is measured meanwhile has the machine for itself.
    At the end of the block the lines are taken away.
    """

    def drawing() -> RenderableType:
        with suppress(Exception):
            text = Text("\n".join(picture(*console.size)), no_wrap=True, overflow="crop")
            for mark, style in _STYLES.items():
                text.highlight_words([mark], style)
            return text
        return Text()

    console, live = _live(drawing, auto_refresh=False)
    try:
        with live:
            yield live.refresh
    finally:
        console.show_cursor()


_STYLES = {"▲": "green", "▼": "red", "✕": "red", "▶": "bold"}


class _Forgiving:
    """A stream whose failed writes are nobody's concern: the terminal may have been closed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """All of it, as far as anybody knows."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Likewise."""
        with suppress(OSError):
            self._stream.flush()
