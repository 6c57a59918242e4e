"""ServerSpec → a running tritonserver for the length of a `with` block, started or attached to as its LaunchRow says."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tritonsmith.builder.base.errors import ServerError
from tritonsmith.builder.base.files.disk import clear_away, private_directory
from tritonsmith.builder.base.rows import function_of
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launches.table import Command, LaunchRow, launch_rows
from tritonsmith.perf.server.process.ports import HOST, choose_ports, is_port_lost
from tritonsmith.perf.server.process.process import GuardedProcess
from tritonsmith.perf.server.server import Server, last_words, server_ended
from tritonsmith.perf.server.spec import ServerSpec, check_usage, kind_from_text

__all__ = ["Server", "ServerSpec", "kind_from_text", "launch"]

_ATTEMPTS = 3
# What can happen to any start and not to the next: a port lost to another process, and an abort of Triton's Python backend
# on a busy machine (triton-inference-server/server issue 8882; seen with 2.51 before any request).
_RACES = ("port_lost", "start_race")
_ABORT = "boost::interprocess::lock_exception"
_POLL_S = 0.02


@contextmanager
def launch(spec: ServerSpec) -> Iterator[Server]:
    """Start the server, wait until it is ready, and stop it at the end of the block.

    A model that Triton refuses does not keep the others from being served: see `Server.refusals`. Raises
    ToolError when something is missing, ServerError when the server cannot be started, does not get ready, or
    fails its self-check.
    """
    row = launch_rows()[spec.kind]
    if row.attach is not None:
        yield function_of(row.attach)(spec)
        return
    check_usage(spec)
    for attempt in range(_ATTEMPTS):
        with ExitStack() as stack:
            try:
                server = _start(spec, row, stack)
            except ServerError as error:
                if error.code not in _RACES or attempt + 1 == _ATTEMPTS:
                    raise
                continue
            yield server
            return


def _start(spec: ServerSpec, row: LaunchRow, stack: ExitStack) -> Server:
    ports = choose_ports(spec.http_port, spec.grpc_port, spec.metrics_port)
    work_dir = private_directory()
    stack.callback(clear_away, work_dir)
    log_path = (spec.log_path or work_dir / "tritonserver.log").absolute()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log_path.write_bytes(b"")
    assert row.start is not None, row.kind
    command: Command = function_of(row.start)(spec, ports, work_dir)
    process = GuardedProcess(
        command.argv,
        env=os.environ if command.env is None else command.env,
        log_path=log_path,
        work_dir=work_dir,
        # tritonserver looks once a second whether it may end, and is slower with many stubs.
        patience_s=spec.exit_timeout_s + 5.0,
        shm_prefix=command.shm_prefix,
        after=command.after,
    )
    stack.callback(process.stop)

    deadline = time.monotonic() + spec.startup_timeout_s
    server = Server(host=HOST, ports=ports, process=process, log_path=log_path)
    if command.prove is not None:
        command.prove(deadline)
    _wait_ready(server, spec, row, deadline)
    server.version = str(control.server_metadata(server.http_url).get("version", ""))
    return server


def _wait_ready(server: Server, spec: ServerSpec, row: LaunchRow, deadline: float) -> None:
    while not (_listens(server, row) and control.is_ready(server.http_url)):
        if not server.alive():
            raise _died(server, spec)
        if time.monotonic() > deadline:
            raise ServerError(
                f"tritonserver was not ready within {spec.startup_timeout_s:g} s",
                code="startup_timeout",
                seen=last_words(server),
                fix="give it more time, or look into its log with --log FILE",
            )
        time.sleep(_POLL_S)


def _listens(server: Server, row: LaunchRow) -> bool:
    """Whether it is this very process that listens on the HTTP port, not one that was faster."""
    if not row.local or server.pid is None:
        return True
    import psutil

    port = int(server.http_url.rpartition(":")[2])
    try:
        connections = psutil.Process(server.pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def _died(server: Server, spec: ServerSpec) -> ServerError:
    words = last_words(server)
    all_free = spec.http_port is None and spec.grpc_port is None and spec.metrics_port is None
    if is_port_lost(words):
        return ServerError(
            "another process took one of the server's ports while it started",
            code="port_lost" if all_free else "port_taken",
            seen=words,
            fix="try again, or choose other ports; 0 takes a free one",
        )
    error = server_ended(server, "before it was ready")
    if _ABORT in (words or ""):
        error.code = "start_race"
    return error
