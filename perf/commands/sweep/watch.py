"""`--watch`: a run directory and a port → a page on 127.0.0.1 for as long as the run goes on."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tritonsmith.perf.commands.flattened import flag

_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class WatchFlags:
    """Whether a page shows the run, and where."""

    PANEL: ClassVar[str] = "Page"

    watch: bool = flag(
        False, "Show the sweep on a page of this machine while it runs (http://127.0.0.1).", "--watch"
    )
    watch_port: int | None = flag(
        None, "Port of that page.  [default: a free one]", "--watch-port", min=1, max=65535
    )

    @property
    def is_asked(self) -> bool:
        """Naming a port asks for it, too."""
        return self.watch or self.watch_port is not None


@contextmanager
def watched(directory: Path, flags: WatchFlags) -> Iterator[None]:
    """A page in a process of its own shows the run that begins in the block. UsageError when the port is taken."""
    if not flags.is_asked:
        yield
        return
    from tritonsmith.builder.base.machine.own import IMPORT_ROOT, python_path
    from tritonsmith.perf.sweep.live.follow import journal_identity

    identity = journal_identity(directory)
    with listening(flags.watch_port) as served:
        page = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tritonsmith.perf.commands.sweep.watch_page",
                str(served.fileno()),
                str(directory.absolute()),
                "" if identity is None else f"{identity[0]}:{identity[1]}",
            ],
            stdin=subprocess.PIPE,  # its end is this process's end, in whatever way
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=IMPORT_ROOT,
            env={**os.environ, "PYTHONPATH": python_path(dict(os.environ))},
            pass_fds=[served.fileno()],
            start_new_session=True,  # a Ctrl-C is for the sweep, whose end it shows
        )
    assert page.stdin is not None
    try:
        yield
    finally:
        page.stdin.close()
        try:
            page.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            page.kill()
            page.wait()


def watch_run(directory: Path, port: int | None) -> None:
    """Shows a run of another process until it has ended, which may be at once; a Ctrl-C ends it sooner."""
    from tritonsmith.perf.commands.sweep.watch_page import PageServer
    from tritonsmith.perf.sweep.run_record import JOURNAL, RESULT

    if (directory / RESULT).is_file() or not (directory / JOURNAL).is_file():
        return
    with listening(port) as served:
        server = PageServer(served, directory)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while not server.has_run_ended():
            time.sleep(0.5)
        server.linger()


@contextmanager
def listening(port: int | None) -> Iterator[socket.socket]:
    """A socket of 127.0.0.1, its address told on stderr. UsageError when the port is taken."""
    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.builder.base.text.console import note

    loopback = "127.0.0.1"
    try:
        served = socket.create_server((loopback, port or 0))
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
        raise UsageError(
            f"port {port} of {loopback} {why}",
            code="port_taken",
            seen=port,
            fix="another --watch-port, or none for a free one",
        ) from None
    with served:
        note(f"watch: http://{loopback}:{served.getsockname()[1]}/")
        yield served
