"""The address of a server that others share → the directory in which this user's sweeps say who changes it, and what.

$XDG_STATE_HOME/tritonsmith/sweeps/HOST-PORT, by default below ~/.local/state. It knows nothing of sweeps that other users
or other machines run, unless they share that directory.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError, Where


def state_directory() -> Path:
    """tritonsmith/sweeps in the user's state directory by the XDG rules."""
    base = os.environ.get("XDG_STATE_HOME")
    # The XDG rules: a relative path is to be ignored.
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state"
    return root / "tritonsmith" / "sweeps"


def place_of(http_url: str) -> Path:
    """HTTP host:port → its directory, which is made; ToolError where it cannot be written."""
    place = state_directory() / server_key(http_url)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(place, error) from None
    return place


def unwritable(place: Path, error: OSError) -> ToolError:
    """Why a server that is not ours is not swept: nobody could put back what a killed sweep changed."""
    return ToolError(
        f"what a sweep changes on a running server cannot be noted down: {error.strerror}",
        code="no_state_directory",
        where=Where(place),
        fix="XDG_STATE_HOME=DIRECTORY of a directory that can be written",
    )


def server_key(http_url: str) -> str:
    """host:port → a name that is the same under every name of the host: `localhost-8000` for any of this machine's."""
    host, _, port = http_url.rpartition(":")
    host = host.strip("[]")
    addresses = {host}
    with suppress(OSError, UnicodeError):  # a name that leads nowhere: the server will not answer either
        addresses = {
            str(info[4][0]).partition("%")[0]
            for info in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        }
    if any(_is_here(address) for address in addresses):
        return f"localhost-{port}"
    return f"{min(addresses).replace('/', '_')}-{port}"


def _is_here(address: str) -> bool:
    import psutil

    with suppress(ValueError):
        known = ipaddress.ip_address(address)
        if known.is_loopback or known.is_unspecified:
            return True
    own = {one.address.partition("%")[0] for found in psutil.net_if_addrs().values() for one in found}
    return address in own


def started_s(http_url: str) -> float | None:
    """When the process began that listens at host:port; None where it is another machine's or another user's."""
    import psutil

    if not server_key(http_url).startswith("localhost-"):
        return None
    port = int(http_url.rpartition(":")[2])
    with suppress(psutil.Error, OSError):
        pids = {
            one.pid
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid
        }
        return max((psutil.Process(pid).create_time() for pid in pids), default=None)
    return None
