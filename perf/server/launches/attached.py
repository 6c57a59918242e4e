"""ServerSpec → a server that answers already at its URL, and is never stopped."""

from __future__ import annotations

from tritonsmith.builder.base.errors import ServerError
from tritonsmith.perf.server import control
from tritonsmith.perf.server.process.ports import Ports
from tritonsmith.perf.server.server import Server
from tritonsmith.perf.server.spec import ServerSpec, address_from_url


def attach(spec: ServerSpec) -> Server:
    """The server at `reference`; ServerError server_unreachable when none is ready there."""
    host, http_port = address_from_url(spec.reference)
    ports = Ports(http_port, spec.grpc_port or http_port + 1, spec.metrics_port or http_port + 2)
    server = Server(host=host, ports=ports)
    if not control.is_ready(server.http_url):
        raise ServerError(
            f"no ready Triton answers at {spec.reference}",
            code="server_unreachable",
            seen=server.http_url,
            fix="give the address of its HTTP port, or serve with --launch embedded",
        )
    server.version = str(control.server_metadata(server.http_url).get("version", ""))
    return server
