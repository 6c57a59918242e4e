"""ServerSpec → a running tritonserver for the length of a `with` block: embedded, a binary, docker, attached."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tritonsmith.builder.base.errors import ServerError, ToolError
from tritonsmith.builder.base.files.disk import clear_away, private_directory
from tritonsmith.perf.server import control, embedded, preflight
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.environment.canary import Canary
from tritonsmith.perf.server.environment.requirements import requirements_of
from tritonsmith.perf.server.process.command import (
    LocalPlan,
    default_max_batch_size,
    docker_command,
    local_command,
)
from tritonsmith.perf.server.process.ports import HOST, Ports, choose_ports, is_port_lost
from tritonsmith.perf.server.process.process import GuardedProcess
from tritonsmith.perf.server.server import Server, last_words, server_ended
from tritonsmith.perf.server.spec import ServerSpec, address_from_url, check_usage, kind_from_text
from tritonsmith.perf.server.stubs.shell_words import lay_out_shell

__all__ = ["Server", "ServerSpec", "kind_from_text", "launch"]

_PORT_RACES = 3
_POLL_S = 0.02


@contextmanager
def launch(spec: ServerSpec) -> Iterator[Server]:
    """Start the server, wait until it is ready, and stop it at the end of the block.

    A model that Triton refuses does not keep the others from being served: see `Server.refusals`. Raises
    ToolError when something is missing, ServerError when the server cannot be started, does not get ready, or
    fails its self-check.
    """
    if spec.kind == "attached":
        yield _attach(spec)
        return
    check_usage(spec)
    for attempt in range(_PORT_RACES):
        with ExitStack() as stack:
            try:
                server = _start(spec, stack)
            except ServerError as error:
                if error.code == "port_lost" and attempt + 1 < _PORT_RACES:
                    continue
                raise
            yield server
            return


def _attach(spec: ServerSpec) -> Server:
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


def _start(spec: ServerSpec, stack: ExitStack) -> Server:
    ports = choose_ports(spec.http_port, spec.grpc_port, spec.metrics_port)
    work_dir = private_directory()
    stack.callback(clear_away, work_dir)
    log_path = (spec.log_path or work_dir / "tritonserver.log").absolute()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log_path.write_bytes(b"")

    canary: Canary | None = None
    if spec.kind == "docker":
        process = _start_docker(spec, ports, work_dir, log_path)
        stack.callback(process.stop)
    else:
        plan = _local_plan(spec, work_dir)
        prefix = f"tritonsmith_{os.getpid()}_{secrets.token_hex(4)}_"
        process = GuardedProcess(
            local_command(spec, ports, plan, prefix),
            env=plan.env,
            log_path=log_path,
            work_dir=work_dir,
            patience_s=_patience_s(spec),
            shm_prefix=prefix,
        )
        stack.callback(process.stop)
        if spec.kind == "binary" and plan.backends is not None:
            # The environment was proven with its own server, not with this one.
            canary = Canary(plan.binary, plan.backends, plan.env, work_dir / "canary", f"{prefix}canary_")
            stack.callback(canary.stop)

    deadline = time.monotonic() + spec.startup_timeout_s
    server = Server(host=HOST, ports=ports, process=process, log_path=log_path)
    if canary is not None:
        canary.verify(deadline)
        canary.stop()
    _wait_ready(server, spec, deadline)
    server.version = str(control.server_metadata(server.http_url).get("version", ""))
    return server


def _patience_s(spec: ServerSpec) -> float:
    # tritonserver looks once a second whether it may end, and is slower with many stubs.
    return spec.exit_timeout_s + 5.0


def _local_plan(spec: ServerSpec, work_dir: Path) -> LocalPlan:
    """Check this machine and lay out what the server needs."""
    if spec.kind == "binary":
        binary = Path(spec.reference).absolute()
        if not os.access(binary, os.X_OK) or binary.is_dir():
            raise ToolError(
                "the tritonserver binary is not an executable file",
                code="binary_missing",
                seen=spec.reference,
                fix="--launch binary:/opt/tritonserver/bin/tritonserver, or --launch embedded",
            )
        root = binary.parent.parent
        if (root / "backends").is_dir():
            caches = root / "caches"
            return LocalPlan(
                binary, dict(os.environ), None, root / "backends", caches if caches.is_dir() else None
            )
    machine = preflight.observe()
    preflight.check(machine)
    shell = lay_out_shell(work_dir / "shell", machine.bash or "/bin/bash")
    server = environment.ensure()
    parts = embedded.locate(server)
    models = environment.layer(server, requirements_of(spec.repositories))
    env = embedded.variables(models, os.environ, work_dir / "lib")
    env["PATH"] = os.pathsep.join([str(shell), env["PATH"]])
    backends = embedded.lay_out_backends(parts, work_dir / "backends")
    if (default := default_max_batch_size(spec.extra_args)) is not None:
        env[embedded.DEFAULT_MAX_BATCH_SIZE] = default
    binary = parts.binary if spec.kind == "embedded" else Path(spec.reference).absolute()
    return LocalPlan(binary, env, backends, None, parts.caches)


def _start_docker(spec: ServerSpec, ports: Ports, work_dir: Path, log_path: Path) -> GuardedProcess:
    if shutil.which("docker") is None:
        raise ToolError(
            "docker is not in PATH",
            code="docker_missing",
            seen=spec.reference,
            fix="install Docker, or serve with --launch embedded",
        )
    name = f"tritonsmith-{secrets.token_hex(6)}"
    return GuardedProcess(
        docker_command(spec, ports, name),
        env=dict(os.environ),
        log_path=log_path,
        work_dir=work_dir,
        patience_s=_patience_s(spec),
        # The docker client's end is not the container's.
        after=("docker", "rm", "--force", name),
    )


def _wait_ready(server: Server, spec: ServerSpec, deadline: float) -> None:
    while not (_listens(server, spec) and control.is_ready(server.http_url)):
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


def _listens(server: Server, spec: ServerSpec) -> bool:
    """Whether it is this very process that listens on the HTTP port, not one that was faster."""
    if spec.kind == "docker" or server.pid is None:
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
    return server_ended(server, "before it was ready")
