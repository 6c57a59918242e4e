"""What is drawn of tasks under way: honest about what is not known, and never the end of a command."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.console import note, progress
from builder.progress import bars, drawn
from tests.terminal import plain


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The reading side of a terminal that is stderr for the test."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLUMNS", raising=False)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(slave, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        yield master


def shown(screen: int) -> str:
    """What was written by now."""
    text = b""
    while select.select([screen], [], [], 0.0)[0]:
        text += os.read(screen, 1 << 16)
    return plain(text.decode())


def test_an_unknown_total_is_no_number(screen: int) -> None:
    with progress("looking") as tell:
        tell("listing", 0, None)
    assert "listing" in (text := shown(screen)) and "/" not in text


def test_a_total_is_counted_and_may_be_unknown_again(screen: int) -> None:
    with progress("looking") as tell:
        tell("reading", 3, 8)
        first = shown_after_a_refresh(screen)
        tell("removing what was left", 0, None)
    assert "reading" in first and "3/8" in first
    assert "removing what was left" in (text := shown(screen)) and "/8" not in text.rpartition("removing")[2]


def shown_after_a_refresh(screen: int) -> str:
    text, deadline_s = "", time.monotonic() + 10
    while "reading" not in text and time.monotonic() < deadline_s:
        time.sleep(0.02)
        text += shown(screen)
    return text


def test_a_share_is_in_per_cent_and_what_has_not_begun_says_nothing(screen: int) -> None:
    display = bars()
    begun = display.add_task("build", total=1.0, share=True)
    display.add_task("serve", total=1.0, start=False, share=True)
    display.update(begun, completed=0.37)
    with drawn(display):
        pass
    text = shown(screen)
    assert "37 %" in text and "serve" in text
    assert "0/1" not in text and "-:--:--" not in text and "0 %" not in text.replace("37 %", "")


def test_what_goes_on_is_never_markup(screen: int) -> None:
    with progress("reading s3://bucket/[/red] and [bold]") as tell:
        tell("reading [/] of model[0]", 1, 2)
    assert "reading [/] of model[0]" in shown(screen)


def test_what_cannot_be_drawn_ends_nothing(screen: int) -> None:
    with progress("looking") as tell:
        tell("counting", 1, "many")  # type: ignore[arg-type]
    assert "Traceback" not in shown(screen)


def test_a_terminal_that_was_closed_ends_nothing(screen: int, tmp_path: Path) -> None:
    with progress("looking") as tell:
        os.close(screen)
        tell("counting", 1, 2)
        note("a note that nobody reads")
    note("another")


def test_a_note_that_does_not_fit_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", full)
        with pytest.raises(OSError, match="No space left"):
            note("lost")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
