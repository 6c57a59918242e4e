"""ServerSpec → a tritonserver of this machine: the embedded one, or the binary at a path, with our backends if it has none."""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError
from tritonsmith.perf.server import embedded, preflight
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.environment.canary import Canary
from tritonsmith.perf.server.environment.requirements import requirements_of
from tritonsmith.perf.server.launches.place import Place, Started
from tritonsmith.perf.server.process.command import LocalPlan, default_max_batch_size, local_command
from tritonsmith.perf.server.shell_words import linked_repositories
from tritonsmith.perf.server.spec import ServerSpec


def start_embedded(spec: ServerSpec, place: Place) -> Started:
    """The tritonserver of the server's own environment."""
    return _started(spec, place, _with_our_backends(spec, place), _shm_prefix())


def start_binary(spec: ServerSpec, place: Place) -> Started:
    """The binary, with the backends beside it; else with ours, whose environment was proven with another server than this."""
    binary = Path(spec.reference).absolute()
    if not os.access(binary, os.X_OK) or binary.is_dir():
        raise ToolError(
            "the tritonserver binary is not an executable file",
            code="binary_missing",
            seen=spec.reference,
            fix="--launch binary:/opt/tritonserver/bin/tritonserver, or --launch embedded",
        )
    root, prefix = binary.parent.parent, _shm_prefix()
    if (root / "backends").is_dir():
        caches = root / "caches" if (root / "caches").is_dir() else None
        plan = LocalPlan(binary, dict(os.environ), None, root / "backends", caches)
        return _started(spec, place, plan, prefix)
    plan = replace(_with_our_backends(spec, place), binary=binary)
    assert plan.backends is not None
    started = _started(spec, place, plan, prefix)
    canary = Canary(binary, plan.backends, plan.env, place.work_dir / "canary", f"{prefix}canary_")
    place.stack.callback(canary.stop)

    def prove(deadline: float) -> None:
        canary.verify(deadline)
        canary.stop()

    return replace(started, prove=prove)


def _with_our_backends(spec: ServerSpec, place: Place) -> LocalPlan:
    """Check this machine and lay out what the server needs."""
    preflight.check(preflight.observe())
    server = environment.ensure()
    parts = embedded.locate(server)
    models = environment.layer(server, requirements_of(spec.repositories))
    env = embedded.variables(models, os.environ, place.work_dir / "lib")
    backends = embedded.lay_out_backends(parts, place.work_dir / "backends")
    if (default := default_max_batch_size(spec.extra_args)) is not None:
        env[embedded.DEFAULT_MAX_BATCH_SIZE] = default
    return LocalPlan(parts.binary, env, backends, None, parts.caches)


def _shm_prefix() -> str:
    return f"tritonsmith_{os.getpid()}_{secrets.token_hex(4)}_"


def _started(spec: ServerSpec, place: Place, plan: LocalPlan, prefix: str) -> Started:
    if plan.backends is not None:
        spec = replace(spec, repositories=linked_repositories(spec.repositories, place.work_dir))
    return Started(place.run(local_command(spec, place.ports, plan, prefix), plan.env, shm_prefix=prefix))
