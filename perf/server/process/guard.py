"""A server's argument list → that server, for exactly as long as the process that asked for it lives.

Run as a script, in its own session, by process.py: `python -I -S guard.py`, with a pipe as stdin whose first
line is the job as JSON (a command line would show the environment's secrets to every user). It starts the
server and waits; when the pipe closes, because its parent asked for a stop or died in whatever
way, kill -9 included, it stops the server, kills whatever the server left behind, and removes its shared
memory and working directory.

It is a process of its own because PR_SET_PDEATHSIG, the kernel's own way, fires when the *thread* that
started the child ends, and because somebody must still be there to clean up after a kill -9. Standard library
only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run the server described by the first line of stdin until stdin closes or the server ends by itself; its
    exit status is ours."""
    job = json.loads(sys.stdin.buffer.readline())
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    # Orphans of the server (its stubs) become our children, so that none can escape.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopping: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))

    def dies_with_the_guard() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    with Path(job["log_path"]).open("ab") as log:
        # The guard has one thread, so a preexec_fn is safe here.
        server = subprocess.Popen(
            job["argv"],
            env=job["env"],
            cwd=job["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=dies_with_the_guard,
        )
    # Closed after one line, so that nobody waits on a pipe the guard holds.
    with contextlib.suppress(OSError):
        os.write(1, f"{server.pid}\n".encode())
    os.close(1)

    while server.poll() is None and not stopping and os.getppid() == parent:
        # Forked children of the parent may hold the pipe's other end open: the timeout looks at the parent
        # itself.
        ready, _, _ = select.select([0, wake_read], [], [], 1.0)
        if 0 in ready and not os.read(0, 1):
            break
        if wake_read in ready:
            os.read(wake_read, 4096)
    _stop(server, job["patience_s"])
    if job["after"]:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                job["after"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
            )
    _kill_orphans()
    if job["shm_prefix"]:
        for region in Path("/dev/shm").glob(job["shm_prefix"] + "*"):  # noqa: S108
            region.unlink(missing_ok=True)
    if os.getppid() != parent:
        # Nobody is left who could still want the log.
        shutil.rmtree(job["work_dir"], ignore_errors=True)
    code = server.returncode
    return code if code >= 0 else 128 - code


def _stop(server: subprocess.Popen[bytes], patience_s: float) -> None:
    if server.poll() is None:
        try:
            if patience_s > 0:
                server.terminate()
            server.wait(patience_s)
        except subprocess.TimeoutExpired:
            server.kill()
    server.wait()


def _kill_orphans() -> None:
    """Kill and reap what the server left; it has been adopted by us, so the kernel lists it as ours."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        pids = children.read_text().split() if children.exists() else []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
