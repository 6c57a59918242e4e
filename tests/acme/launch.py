"""A kind of server: a small one that speaks KServe v2 on a real socket and serves one model by name."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from tritonsmith.perf.server.launches.table import Command, LaunchRow

if TYPE_CHECKING:
    from tritonsmith.perf.server.process.ports import Ports
    from tritonsmith.perf.server.spec import ServerSpec

ROW = LaunchRow("small", "small:MODEL", start="acme.launch:start")


def start(spec: ServerSpec, ports: Ports, work_dir: Path) -> Command:
    """This module as a process."""
    return Command([sys.executable, "-m", "acme.launch", str(ports.http), spec.reference])


class _Small(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer({"name": "small", "version": "0.1", "extensions": []})

    def do_POST(self) -> None:
        self._answer([{"name": sys.argv[2], "version": "1", "state": "READY"}])

    def _answer(self, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), _Small).serve_forever()
