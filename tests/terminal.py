"""A command, the size of a terminal, keys → what the command wrote there and what its screen shows."""

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
from types import TracebackType

import pyte

CTRL_C = b"\x03"
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
# More lines than a command writes: what people scroll back to is part of what they see.
_SCREEN_LINES = 300


@dataclass(frozen=True, slots=True)
class Shown:
    """How a command ended on a terminal. raw: all that it wrote, on both streams, in its order."""

    code: int
    raw: str
    columns: int

    @property
    def plain(self) -> str:
        """`raw` without control sequences: what was drawn over is in it, too."""
        return plain(self.raw)

    @property
    def screen(self) -> list[str]:
        """The lines that stand on the screen at the end, without blanks at their ends and empty ones below."""
        screen = pyte.Screen(self.columns, _SCREEN_LINES)
        pyte.Stream(screen).feed(self.raw)
        return "\n".join(line.rstrip() for line in screen.display).rstrip().split("\n")

    @property
    def text(self) -> str:
        """The screen as one string."""
        return "\n".join(self.screen)

    @property
    def is_cursor_visible(self) -> bool:
        """Whether the cursor was shown again each time that it was hidden."""
        return self.raw.rfind("\x1b[?25h") >= self.raw.rfind("\x1b[?25l")

    @property
    def too_wide(self) -> list[str]:
        """Lines as they were written that the terminal had to break, but for those of one long word and its label."""
        lines = (line.rpartition("\r")[2].rstrip() for line in self.plain.replace("\r\n", "\n").split("\n"))
        return [line for line in lines if len(line) > self.columns and not _is_one_word(line, self.columns)]


def _is_one_word(line: str, columns: int) -> bool:
    longest = max(map(len, line.split()))
    return len(line) - longest <= columns // 4


def plain(raw: str) -> str:
    """Text without control sequences."""
    return _CONTROL.sub("", raw)


class Terminal:
    """A command in the foreground of a terminal of its own, which is closed at the end of the block."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        columns: int = 80,
        lines: int = 24,
        stdout: Path | None = None,
    ) -> None:
        """stdout: a file that standard output goes to in place of the terminal."""
        self.columns = columns
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        out = slave if stdout is None else os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._process = subprocess.Popen(
            # In a session of its own, with the terminal for its own: Ctrl-C goes to all that it started, too.
            ["setsid", "--ctty", *command],
            cwd=cwd,
            env=dict(env),
            stdin=slave,
            stdout=out,
            stderr=slave,
        )
        for descriptor in {slave, out}:
            os.close(descriptor)
        self.pid = self._process.pid
        self._read = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.close()

    def close(self) -> None:
        """Closes the window."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    @property
    def raw(self) -> str:
        """All that came so far."""
        return self._read.decode(errors="replace")

    def press(self, keys: bytes) -> None:
        """Types."""
        os.write(self._master, keys)

    def wait_for(self, pattern: str, timeout_s: float = 60.0) -> re.Match[str]:
        """Reads until the pattern has been written."""
        deadline_s = time.monotonic() + timeout_s
        while (found := re.search(pattern, plain(self.raw))) is None:
            assert self._more(deadline_s), f"ended without {pattern!r}:\n{self.raw}"
        return found

    def finish(self, timeout_s: float = 60.0) -> Shown:
        """Reads until nobody has the terminal open any more."""
        deadline_s = time.monotonic() + timeout_s
        while self._more(deadline_s):
            pass
        return Shown(self._process.wait(timeout_s), self.raw, self.columns)

    def wait(self, timeout_s: float = 60.0) -> int:
        """The exit code, whatever the terminal does."""
        return self._process.wait(timeout_s)

    def _more(self, deadline_s: float) -> bool:
        ready = select.select([self._master], [], [], max(0.0, deadline_s - time.monotonic()))[0]
        if not ready:
            raise TimeoutError(f"no end; it wrote:\n{self.raw}")
        try:
            chunk = os.read(self._master, 1 << 16)
        except OSError:  # EIO: closed at the other side
            return False
        self._read += chunk
        return bool(chunk)
