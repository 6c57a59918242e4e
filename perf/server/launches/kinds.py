"""ServerSpec → how a server of ours is started, or a Server that runs already: one function a kind."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError
from tritonsmith.perf.server import control, embedded, preflight
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.environment.canary import Canary
from tritonsmith.perf.server.environment.conversion import convert_ahead
from tritonsmith.perf.server.environment.requirements import has_vllm_models, requirements_of
from tritonsmith.perf.server.launches.table import Command
from tritonsmith.perf.server.process.command import (
    LocalPlan,
    default_max_batch_size,
    docker_command,
    local_command,
)
from tritonsmith.perf.server.process.ports import Ports
from tritonsmith.perf.server.process.response_cache import cache_size_bytes
from tritonsmith.perf.server.server import Server
from tritonsmith.perf.server.spec import ServerSpec, address_from_url
from tritonsmith.perf.server.stubs.shell_words import lay_out_shell


def start_embedded(spec: ServerSpec, ports: Ports, work_dir: Path) -> Command:
    """The tritonserver of the server's own environment."""
    return _local(spec, ports, work_dir, _with_our_backends(spec, work_dir))


def start_binary(spec: ServerSpec, ports: Ports, work_dir: Path) -> Command:
    """The binary, with the backends beside it; else with ours."""
    binary = Path(spec.reference).absolute()
    if not os.access(binary, os.X_OK) or binary.is_dir():
        raise ToolError(
            "the tritonserver binary is not an executable file",
            code="binary_missing",
            seen=spec.reference,
            fix="--launch binary:/opt/tritonserver/bin/tritonserver, or --launch embedded",
        )
    own, caches = (binary.parent.parent / name for name in ("backends", "caches"))
    if own.is_dir():
        plan = LocalPlan(binary, dict(os.environ), None, own, caches if caches.is_dir() else None)
        return _local(spec, ports, work_dir, plan)
    plan = replace(_with_our_backends(spec, work_dir), binary=binary)
    command = _local(spec, ports, work_dir, plan)

    def prove(deadline: float) -> None:
        # The environment was proven with its own server, not with this one.
        assert plan.backends is not None
        canary = Canary(binary, plan.backends, plan.env, work_dir / "canary", f"{command.shm_prefix}canary_")
        try:
            canary.verify(deadline)
        finally:
            canary.stop()

    return replace(command, prove=prove)


def _with_our_backends(spec: ServerSpec, work_dir: Path) -> LocalPlan:
    """Check this machine and lay out what the server needs."""
    machine = preflight.observe()
    preflight.check(machine)
    shell = lay_out_shell(work_dir / "shell", machine.bash or "/bin/bash")
    server = environment.ensure()
    parts = embedded.locate(server)
    base = environment.vllm_layer(server) if has_vllm_models(spec.repositories) else server
    models = environment.layer(base, requirements_of(spec.repositories), server=server)
    env = embedded.variables(models, os.environ, work_dir / "lib")
    env["PATH"] = os.pathsep.join([str(shell), env["PATH"]])
    if base is not server:
        env |= convert_ahead(spec.repositories, _loaded_at_start(spec), base)
    backends = embedded.lay_out_backends(parts, work_dir / "backends")
    if (default := default_max_batch_size(spec.extra_args)) is not None:
        env[embedded.DEFAULT_MAX_BATCH_SIZE] = default
    return LocalPlan(parts.binary, env, backends, None, parts.caches)


def _loaded_at_start(spec: ServerSpec) -> tuple[str, ...] | None:
    """None for all."""
    return spec.load_models if spec.model_control == "explicit" and "*" not in spec.load_models else None


def _local(spec: ServerSpec, ports: Ports, work_dir: Path, plan: LocalPlan) -> Command:
    spec = replace(spec, cache_size_bytes=cache_size_bytes(spec, plan.caches))
    prefix = f"tritonsmith_{os.getpid()}_{secrets.token_hex(4)}_"
    return Command(local_command(spec, ports, plan, prefix), plan.env, shm_prefix=prefix)


def start_docker(spec: ServerSpec, ports: Ports, work_dir: Path) -> Command:
    """The image's tritonserver in a container."""
    if shutil.which("docker") is None:
        raise ToolError(
            "docker is not in PATH",
            code="docker_missing",
            seen=spec.reference,
            fix="install Docker, or serve with --launch embedded",
        )
    spec = replace(spec, cache_size_bytes=cache_size_bytes(spec, None))
    name = f"tritonsmith-{secrets.token_hex(6)}"
    # The docker client's end is not the container's.
    return Command(docker_command(spec, ports, name), after=("docker", "rm", "--force", name))


def attach(spec: ServerSpec) -> Server:
    """The server that answers at `reference`; ServerError server_unreachable when none is ready there."""
    host, http_port = address_from_url(spec.reference)
    ports = Ports(http_port, spec.grpc_port or http_port + 1, spec.metrics_port or http_port + 2)
    server = Server(host=host, ports=ports)
    if not control.is_ready(server.http_url):
        raise control.why_not_ready(server.http_url)
    server.version = str(control.server_metadata(server.http_url).get("version", ""))
    return server
