"""A server's directory → this sweep's claim on it: a flock, which ends with its process, and who holds it, to be told.

Who it was stands in the file until the sweep lets go. A claim that is written there and that nobody holds is of a
process that was killed, when that process was this machine's; of another machine's (a home directory that both mount) the
file system need not tell, so it stands until somebody says that it is over.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from tritonsmith.builder.base.errors import ServerError
from tritonsmith.builder.base.files.untrusted import json_value
from tritonsmith.perf.records.typed import MALFORMED, json_of, typed
from tritonsmith.perf.sweep.attached.place import unwritable

LOCK = "lock"
_POLL_S = 0.2
_MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Holder:
    """One sweep. boot_id: of the machine's kernel, the same in all its containers. since: UTC."""

    host: str = ""
    boot_id: str = ""
    pid: int = 0
    since: str = ""
    command: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "a sweep that has just begun"
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


def this_process(command: str) -> Holder:
    """Who we are."""
    return Holder(
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid=os.getpid(),
        since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
    )


@contextmanager
def locked_server(
    place: Path,
    url: str,
    command: str,
    *,
    wait: bool = False,
    break_lock: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Holder | None]:
    """Holds the server; gives who held it last and was killed, or None.

    wait:       until who holds it lets go. break_lock: not to mind a claim of another machine, which cannot be looked at.
    ServerError server_held when another sweep holds it: a server that is busy is one that is not to be had now.
    """
    try:
        handle = os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(place / LOCK, error) from None
    try:
        _lock(handle, place, url, wait, tell)
        before = _holder(handle)
        me = this_process(command)
        if before is not None and not break_lock and is_elsewhere(before, me):
            raise ServerError(
                f"a sweep on another machine holds {url}, and it cannot be seen from here whether it still runs",
                code="server_held",
                seen=before,
                fix="wait until it has ended; if it has, the same command with --break-lock",
            )
        _write(handle, json.dumps(json_of(me)))
        try:
            yield before
        finally:
            _write(handle, "")
    finally:
        os.close(handle)


def is_elsewhere(holder: Holder, me: Holder) -> bool:
    """Whether nothing here can tell that the holder is dead: neither this kernel, nor that this machine started anew."""
    return holder.boot_id != me.boot_id and holder.host != me.host


def _lock(handle: int, place: Path, url: str, wait: bool, tell: Callable[[str], None]) -> None:
    told: Holder | None = None
    while not _is_locked_now(handle, place):
        holder = _holder(handle) or Holder()
        if not wait:
            raise ServerError(
                f"another sweep holds {url}: two at a time would measure each other's settings",
                code="server_held",
                seen=holder,
                fix="--wait begins when it has ended",
            )
        if holder != told:
            tell(f"waiting for {holder}")
            told = holder
        time.sleep(_POLL_S)


def _is_locked_now(handle: int, place: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        raise unwritable(place / LOCK, error) from None
    return True


def _holder(handle: int) -> Holder | None:
    """Who stands in the file; a text that was cut off is somebody who is not known."""
    text = os.pread(handle, _MOST_BYTES, 0)
    if not text.strip():
        return None
    try:
        return typed(Holder, json_value(text))
    except MALFORMED:
        return Holder()


def _write(handle: int, text: str) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, text.encode(), 0)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
