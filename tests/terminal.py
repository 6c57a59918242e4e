"""A command, the size of a terminal, keys → what the command wrote to that terminal and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte

CTRL_C = b"\x03"
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
# More lines than any command writes: what a user scrolls back to is part of what is seen.
_SCREEN_LINES = 400


@dataclass(frozen=True, slots=True)
class Key:
    """Bytes to type once `after` (a regular expression) has been written, and so many seconds later."""

    keys: bytes
    after: str
    later_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Shown:
    """How a command ended on a terminal. raw: all that it wrote, both streams in their order."""

    code: int
    raw: str
    columns: int
    pid: int

    @property
    def plain(self) -> str:
        """`raw` without control sequences."""
        return _CONTROL.sub("", self.raw).replace("\r\n", "\n")

    @property
    def screen(self) -> list[str]:
        """The lines that stand on the screen at the end, right-stripped, without the empty ones below."""
        screen = pyte.Screen(self.columns, _SCREEN_LINES)
        pyte.Stream(screen).feed(self.raw)
        return "\n".join(line.rstrip() for line in screen.display).rstrip().split("\n")

    @property
    def has_cursor(self) -> bool:
        """Whether the cursor is visible at the end."""
        return self.raw.rfind("\x1b[?25h") >= self.raw.rfind("\x1b[?25l")


def on_terminal(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    columns: int = 80,
    lines: int = 24,
    keys: Sequence[Key] = (),
    timeout_s: float = 60.0,
) -> Shown:
    """Runs the command as the foreground process of a terminal of its own; TimeoutError names what it wrote."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(env),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(slave)
        try:
            raw = _talk(master, list(keys), time.monotonic() + timeout_s)
        except BaseException:
            process.kill()
            raise
        finally:
            os.close(master)
    return Shown(process.returncode, raw, columns, process.pid)


def _talk(master: int, keys: list[Key], deadline_s: float) -> str:
    """Reads until nobody has the terminal open any more, and types when it is time."""
    read, press_s = b"", None
    while True:
        text = read.decode(errors="replace")
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the command has not ended; it wrote:\n{text}")
        if keys and press_s is None and re.search(keys[0].after, _CONTROL.sub("", text)):
            press_s = time.monotonic() + keys[0].later_s
        if press_s is not None and time.monotonic() >= press_s:
            os.write(master, keys.pop(0).keys)
            press_s = None
        if select.select([master], [], [], 0.02)[0]:
            try:
                chunk = os.read(master, 1 << 16)
            except OSError:  # EIO: the other side is closed
                chunk = b""
            if not chunk:
                return text
            read += chunk
