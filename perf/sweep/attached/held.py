"""The URL of a server that others share → the server held for one sweep, with what a killed one left there put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tritonsmith.perf.server.spec import address_from_url
from tritonsmith.perf.sweep.attached.changes import Changes
from tritonsmith.perf.sweep.attached.lock import locked_server
from tritonsmith.perf.sweep.attached.place import place_of


def _nobody(text: str) -> None:
    """Told nothing."""


@contextmanager
def held_server(
    url: str,
    command: str,
    *,
    wait: bool = False,
    break_lock: bool = False,
    tell: Callable[[str], None] = _nobody,
    on_note: Callable[[str], None] = _nobody,
) -> Iterator[Changes]:
    """Held for the length of the block, as `locked_server` does it; nothing of an earlier sweep is left on it.

    tell: what goes on. on_note: one line of what was put back, which stands in the report, too.
    """
    place = _place(url)
    with locked_server(place, url, command, wait=wait, break_lock=break_lock, tell=tell) as killed:
        changes = Changes(place)
        if changes.before.models:
            tell("putting back what an earlier sweep left changed")
            who = "a sweep that did not come to its end" + (f": {killed}" if killed else "")
            said = changes.restore()
            changes.note = (
                f"{url} was left changed by {who}; put back: {'; '.join(said) or 'all was as before'}"
            )
            on_note(changes.note)
        try:
            yield changes
        finally:
            if changes.before.models:  # a second Ctrl-C, a server that does not answer
                on_note(f"{url} is still changed: tritonsmith sweep --restore {url} puts it back")


def is_left_changed(url: str) -> bool:
    """Whether a sweep of this server did not get to put it back."""
    return bool(Changes(_place(url)).before.models)


def _place(url: str) -> Path:
    host, port = address_from_url(url)
    return place_of(f"{host}:{port}")
