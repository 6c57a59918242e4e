"""What people see: results on stdout, progress and notes on stderr, colour and bars on a terminal only."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from tritonsmith.builder.base.text.shown import visible, without_secrets
from tritonsmith.builder.base.text.text_layout import wrapped

Tell = Callable[[str, float, float | None], None]
"""Told what goes on, how much of it is done, and of how much: None while that is not known."""


def width_of(stream: IO[str]) -> int | None:
    """Columns of the terminal that the stream writes to; None when it is none, and text stays as it is."""
    if not stream.isatty():
        return None
    said = os.environ.get("COLUMNS", "")
    return (
        int(said) if said.isdecimal() and int(said) else os.get_terminal_size(stream.fileno()).columns or 80
    )


@dataclass(slots=True)
class _Loudness:
    """What the command line was told to tell on stderr; for Python's API it stays as it is here."""

    quiet: bool = False
    verbose: bool = False


_LOUDNESS = _Loudness()


def set_loudness(*, quiet: bool | None = None, verbose: bool | None = None) -> None:
    """quiet: no progress, no notes. verbose: what is run, and how long it takes. None leaves it as it is."""
    _LOUDNESS.quiet = _LOUDNESS.quiet if quiet is None else quiet
    _LOUDNESS.verbose = _LOUDNESS.verbose if verbose is None else verbose


def is_verbose() -> bool:
    """Whether --verbose was given."""
    return _LOUDNESS.verbose


def is_drawable(stream: IO[str]) -> bool:
    """Whether it leads to a terminal that knows more than letters, whose cursor moves, that has colours; quiet, none does
    for stderr, where progress is drawn."""
    if _LOUDNESS.quiet and stream is sys.stderr:
        return False
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def has_colour(stream: IO[str]) -> bool:
    """Whether colours may be written to it: it could show them, and the user did not say NO_COLOR."""
    return is_drawable(stream) and not os.environ.get("NO_COLOR")


def note(text: str) -> None:
    """One line for people, on stderr, unless --quiet was given."""
    if not _LOUDNESS.quiet:
        tell_error(text)


def detail(text: str) -> None:
    """One line about what goes on inside, on stderr, when --verbose was given."""
    if _LOUDNESS.verbose:
        tell_error(text)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Tells, when --verbose was given, that it begins, and how long it took."""
    if not _LOUDNESS.verbose:
        yield
        return
    started_s = time.monotonic()
    detail(f"run: {what}")
    try:
        yield
    finally:
        detail(f"{time.monotonic() - started_s:.2f} s: {what}")


def tell_error(text: str) -> None:
    """Why the exit code is not 0, on stderr, --quiet or not; a terminal that was closed meanwhile ends nothing."""
    try:
        print(wrapped(_safe(text), width_of(sys.stderr)), file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def emit_json(value: Any) -> None:
    """A result for machines, on stdout."""
    print(without_secrets(json.dumps(value, indent=2, sort_keys=False, default=str)), flush=True)


def emit_text(text: str, *, escaped: bool = False) -> None:
    """A result for people, on stdout; on a terminal its lines are broken between words.

    escaped: it holds colours of ours, so what it holds of others is safe already.
    """
    print(wrapped(text if escaped else _safe(text), width_of(sys.stdout)), flush=True)


def emit_document(text: str, *, escaped: bool = False) -> None:
    """A result that is copied or saved as it stands (a diff, YAML, Markdown), on stdout; escaped: as of emit_text."""
    print(text if escaped else _safe(text), flush=True)


# A line that begins so is an order to a CI's runner.
_ORDER = re.compile(r"^([ \t]*:)(?=:)", re.MULTILINE)


def _safe(text: str) -> str:
    return _ORDER.sub("\\1\u200b", visible(without_secrets(text)))


@contextmanager
def progress(what: str, *, share: bool = False, alike: bool = True) -> Iterator[Tell]:
    """A line on stderr, drawn where that is a terminal; gives what is told how far it is.

    What goes on and for how long; with a total also a bar, how far it is, and how long it will go on.
    share: what is done is a part of the total, not a number of things, and is shown in per cent.
    alike: its parts take about the same time each, so that the time left can be told.
    """
    if not is_drawable(sys.stderr):
        yield lambda what, done, total: None
        return
    from tritonsmith.builder.base.text.progress import bars, drawn

    display = bars()
    display.add_task(what, total=None, share=share, alike=alike)
    (task,) = display.tasks

    def tell(what: str, done: float, total: float | None) -> None:
        is_next = total is None and what != task.description
        if is_next or (total is None) != (task.total is None):
            display.reset(task.id)  # another step: its own clock
        task.total = total  # update() takes None for no change
        display.update(task.id, description=what, completed=done)

    with drawn(display):
        yield tell


@contextmanager
def activity(what: str) -> Iterator[None]:
    """One long step of which nothing is known but that it runs: on a terminal, a line with the time that it takes.

    Where something is drawn already, the line is part of that.
    """
    if not is_drawable(sys.stderr):
        yield
        return
    from tritonsmith.builder.base.text.progress import step

    with step(what):
        yield


@contextmanager
def progress_as_asked(asked: bool | Tell, what: str, *, share: bool = False) -> Iterator[Tell | None]:
    """What progress is told to: nothing, a function of the caller's, or for True stderr: a bar on a terminal, else at
    most a line a second, which a notebook shows. share: as of progress."""
    if asked is False or callable(asked):
        yield asked or None
    elif is_drawable(sys.stderr):
        with progress(what, share=share) as tell:
            yield tell
    else:
        yield _lines(share)


def _lines(share: bool) -> Tell:
    said_s = -1.0

    def tell(what: str, done: float, total: float | None) -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= 1.0:
            said_s = time.monotonic()
            note(f"{what}: {done:.0%}" if share else f"{what}: {done:g}{f' of {total:g}' if total else ''}")

    return tell
