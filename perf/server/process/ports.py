"""Requested ports → three ports on 127.0.0.1 that were free a moment ago, or one error that names the taken
one."""

from __future__ import annotations

import errno
import re
import socket
from dataclasses import dataclass

from tritonsmith.builder.base.errors import ServerError

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """What the server listens on."""

    http: int
    grpc: int
    metrics: int


def choose_ports(http: int | None, grpc: int | None, metrics: int | None) -> Ports:
    """Fill in the ports that are None with free ones.

    All are held open together while they are chosen, so that no two are the same. Raises ServerError
    `port_taken` when a requested one is in use. Between this call and the server's own bind another process
    may still take one: `launch` then tries again with new ones.
    """
    held: list[socket.socket] = []
    try:
        for name, port in (("HTTP", http), ("gRPC", grpc), ("metrics", metrics)):
            held.append(_bind(name, port))
        return Ports(*(s.getsockname()[1] for s in held))
    finally:
        for s in held:
            s.close()


def _bind(name: str, port: int | None) -> socket.socket:
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Lets a port be taken whose last connections are still in TIME_WAIT; one with a listener stays refused.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind((HOST, port or 0))
        # SO_REUSEADDR lets two sockets bind one port as long as none listens.
        s.listen(1)
    except OSError as error:
        s.close()
        if error.errno == errno.EADDRINUSE:
            raise port_taken(name, port) from None
        raise ServerError(
            f"the {name} port {port} cannot be used: {error.strerror}",
            code="port_refused",
            seen=port,
            fix="choose a port above 1023; 0 takes a free one",
        ) from None
    return s


def is_port_lost(words: str | None) -> bool:
    """Whether the last error of a tritonserver's log says that somebody else had the port."""
    return re.search(r"failed to start \w+ service: .*already in use", words or "") is not None


def port_taken(name: str, port: int | None) -> ServerError:
    """The error for a port that another process listens on."""
    return ServerError(
        f"the {name} port {port} is in use by another process",
        code="port_taken",
        seen=f"{HOST}:{port}",
        fix="stop what listens there, or choose another port; 0 takes a free one",
    )
