"""A server's argument list, environment and log file → a running process that cannot outlive this one."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tritonsmith.builder.base.errors import ServerError
from tritonsmith.builder.base.text.console import detail

GUARD = Path(__file__).with_name("guard.py")


class GuardedProcess:
    """A server under its guard (guard.py); `pid` is the server's own.

    The guard stops the server when this object's pipe closes: by stop(), or by the end of this process,
    however it comes about.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log_path: Path,
        work_dir: Path,
        patience_s: float,
        shm_prefix: str = "",
        after: Sequence[str] = (),
    ) -> None:
        """Start it; returns when the process exists, long before it serves.

        patience_s: how long a stop may take before it becomes a kill; 0 kills at once.
        shm_prefix: regions of /dev/shm with this prefix are removed after the end.
        work_dir:   the directory to run in; the guard removes it when this process has died.
        after:      argument list of a command to run after the end (docker: remove the container).
        """
        job = {
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(work_dir),
            "log_path": str(log_path),
            "patience_s": patience_s,
            "shm_prefix": shm_prefix,
            "work_dir": str(work_dir),
            "after": list(after),
        }
        detail(f"run: {shlex.join(argv)}, log {log_path}")
        self.log_path = log_path
        self._patience_s = patience_s + 15.0
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Ctrl-C in a terminal is ours to answer, not the server's.
                start_new_session=True,
            )
        except OSError as error:  # an environment that no process can be given
            raise _not_started(argv, str(error)) from None
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None and self._guard.stderr is not None
        # Every user of the machine may read a command line, so the environment travels in the pipe.
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(json.dumps(job).encode() + b"\n")
            self._guard.stdin.flush()
        line = self._guard.stdout.readline()
        if not line:
            reason = self._guard.stderr.read().decode(errors="replace").strip().splitlines()
            self.stop()
            raise _not_started(argv, reason[-1] if reason else None)
        self.pid = int(line)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 + the signal's number when a signal ended it."""
        return self._guard.poll()

    def stop(self) -> int:
        """End the server and everything it started, and wait for that; its exit code."""
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        try:
            code = self._guard.wait(self._patience_s)
        except subprocess.TimeoutExpired:
            self._guard.kill()  # PR_SET_PDEATHSIG takes the server with it
            code = self._guard.wait()
        for stream in (self._guard.stdout, self._guard.stderr):
            if stream is not None:
                stream.close()
        return code


def _not_started(argv: Sequence[str], seen: str | None) -> ServerError:
    too_long = "Argument list too long" in (seen or "")
    return ServerError(
        f"{argv[0]} could not be started",
        code="server_not_started",
        seen=seen,
        fix="a variable of the environment is longer than Linux allows (128 KiB), or all together are"
        if too_long
        else None,
    )
