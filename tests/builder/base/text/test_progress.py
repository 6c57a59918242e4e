"""What is drawn of tasks under way: honest about what is not known, and never the end of a command."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
from rich.progress import Progress, TextColumn

from tests.terminal import plain
from tritonsmith.builder.base.text.console import activity, note, progress
from tritonsmith.builder.base.text.progress import bars, drawn


@contextmanager
def terminal_as_stderr() -> Iterator[int]:
    """Its reading side. In the test itself: between fixtures and tests pytest sets stderr anew."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    stream = os.fdopen(slave, "w")
    with pytest.MonkeyPatch.context() as patch, suppress(OSError), stream:
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("COLUMNS", raising=False)
        yield master
    with suppress(OSError):
        os.close(master)


def shown(screen: int) -> str:
    """What was written by now."""
    text = b""
    while select.select([screen], [], [], 0.2)[0]:  # it comes a moment later
        text += os.read(screen, 1 << 16)
    return plain(text.decode())


def test_an_unknown_total_is_no_number() -> None:
    with terminal_as_stderr() as screen:
        with progress("looking") as tell:
            tell("listing", 0, None)
        assert "listing" in (text := shown(screen)) and "/" not in text


def test_a_total_is_counted_and_may_be_unknown_again() -> None:
    with terminal_as_stderr() as screen:
        with progress("looking") as tell:
            tell("reading", 3, 8)
        text = shown(screen)
        assert "reading" in text and "3/8" in text
        with progress("looking") as tell:
            tell("reading", 3, 8)
            tell("removing what was left", 0, None)
        assert "/" not in shown(screen).rpartition("removing what was left")[2]


def test_a_share_is_in_per_cent_and_what_has_not_begun_says_nothing() -> None:
    with terminal_as_stderr() as screen:
        display = bars()
        begun = display.add_task("build", total=1.0, share=True)
        display.add_task("serve", total=1.0, start=False, share=True)
        display.update(begun, completed=0.37)
        with drawn(display):
            pass
        text = shown(screen)
        assert "37 %" in text and "serve" in text
        assert "0/1" not in text and "-:--:--" not in text and "0 %" not in text.replace("37 %", "")


def of_a_task(total: float | None, done: Sequence[float], **fields: bool) -> str:
    """What is drawn of a task that was told of every second."""
    now_s = 0.0
    with terminal_as_stderr() as screen:
        display = bars()
        display.get_time = lambda: now_s
        task = display.add_task("trials", total=total, **fields)
        for completed in done:
            now_s += 1.0
            display.update(task, completed=completed)
        with drawn(display):
            pass
        return shown(screen)


def test_one_thing_alone_has_a_clock_and_no_bar() -> None:
    text = of_a_task(1, [0, 0, 0])
    assert "trials" in text and "0:00:03" in text and "/" not in text and "━" not in text


def test_an_empty_bar_is_not_drawn() -> None:
    assert "0/9" in (text := of_a_task(9, [0, 0, 0])) and "━" not in text
    assert "━" in of_a_task(9, [0, 0, 1])


def test_time_left_is_told_only_where_it_can_be_estimated() -> None:
    assert "3/12" in (text := of_a_task(12, [0, 1, 2, 3], alike=True)) and "0:00:04, 0:00:09 left" in text
    assert "left" not in of_a_task(12, [0, 1, 2, 3]), "its parts are not alike"
    assert "left" not in of_a_task(12, [0, 0, 0, 0], alike=True), "nothing is done"
    assert "left" not in of_a_task(None, [0, 1, 2, 3], alike=True), "the end is not known"


def test_each_step_has_its_own_clock() -> None:
    with terminal_as_stderr() as screen:
        with progress("starting the server", share=True) as tell:
            time.sleep(1.1)
            tell("measuring", 0.2, 1.0)
        text = shown(screen)
    assert "0:00:01" in text and "0:00:00" in text.rpartition("measuring")[2]


def test_a_long_step_deeper_down_is_a_line_of_its_own() -> None:
    with terminal_as_stderr() as screen:
        with progress("starting the server"), activity("fetching packages"):
            time.sleep(0.2)
        text = shown(screen)
        assert "starting the server" in text and "fetching packages" in text
        with activity("fetching packages"):
            time.sleep(0.2)
        assert "fetching packages" in shown(screen)


def test_what_goes_on_is_never_markup() -> None:
    with terminal_as_stderr() as screen:
        with progress("reading s3://bucket/[/red] and [bold]") as tell:
            tell("reading [/] of model[0]", 1, 2)
        assert "reading [/] of model[0]" in shown(screen)


def test_what_cannot_be_drawn_ends_nothing() -> None:
    with terminal_as_stderr() as screen:
        display = Progress(TextColumn("{task.total:.0f}"), disable=True)
        display.add_task("looking", total=None)
        with drawn(display):
            note("goes on")
        text = shown(screen)
        assert "goes on" in text and "Traceback" not in text


def test_a_terminal_that_was_closed_ends_nothing() -> None:
    with terminal_as_stderr() as screen:
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
