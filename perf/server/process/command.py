"""(ServerSpec, ports, what was laid out) → the argument list that starts the server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.perf.server.process.ports import HOST, Ports
from tritonsmith.perf.server.spec import ServerSpec

# A docker container answers on Triton's own ports inside, and finds the repositories here.
_CONTAINER_PORTS = Ports(8000, 8001, 8002)
_CONTAINER_REPOSITORY = "/models"
_LOAD_THREADS = 16


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """A tritonserver of this machine: backends is our backend directory, None when the server has its own."""

    binary: Path
    env: dict[str, str]
    backends: Path | None
    own_backends: Path | None = None
    caches: Path | None = None


def local_command(spec: ServerSpec, ports: Ports, plan: LocalPlan, shm_prefix: str) -> list[str]:
    """The argument list of a tritonserver on this machine."""
    arguments = [str(plan.binary)]
    arguments += [f"--model-repository={path.absolute()}" for path in spec.repositories]
    backends = plan.backends or plan.own_backends
    if backends is not None:
        arguments.append(f"--backend-directory={backends}")
    arguments += [
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--http-address={HOST}",
        f"--http-port={ports.http}",
        f"--grpc-address={HOST}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={HOST}",
        f"--metrics-port={ports.metrics}",
        # Loading is mostly waiting for a stub to start or end, a second each.
        f"--model-load-thread-count={_LOAD_THREADS}",
        *_common(spec),
    ]
    if spec.cache_size_bytes and plan.caches is not None:
        arguments.append(f"--cache-directory={plan.caches}")
    return [*arguments, *spec.extra_args]


def default_max_batch_size(extra_args: Sequence[str]) -> str | None:
    """The value of --backend-config=default-max-batch-size, for all backends or for onnxruntime.

    Triton hands it to C++ backends only; ours gets it through its environment.
    """
    value = None
    arguments = " ".join(extra_args).replace("--backend-config ", "--backend-config=").split()
    for argument in arguments:
        match = re.fullmatch(r"--backend-config=(?:onnxruntime)?,?default-max-batch-size=(\d+)", argument)
        value = match.group(1) if match else value
    return value


def docker_command(spec: ServerSpec, ports: Ports, name: str) -> list[str]:
    """The argument list of `docker run`: ports on 127.0.0.1 only, repositories read-only, removed at its
    end."""
    # Where NVIDIA's examples mount the one repository, and language models name their weights by.
    inside = [f"{_CONTAINER_REPOSITORY}/{i}" for i in range(len(spec.repositories))]
    if len(inside) == 1:
        inside = [_CONTAINER_REPOSITORY]
    arguments = ["docker", "run", "--rm", "--name", name, "--shm-size=1g"]
    if spec.gpus:
        arguments += ["--gpus", "all"]
    for outside, container in (
        (ports.http, _CONTAINER_PORTS.http),
        (ports.grpc, _CONTAINER_PORTS.grpc),
        (ports.metrics, _CONTAINER_PORTS.metrics),
    ):
        arguments += ["-p", f"{HOST}:{outside}:{container}"]
    for path, target in zip(spec.repositories, inside, strict=True):
        arguments += ["--mount", f"type=bind,source={path.absolute()},target={target},readonly"]
    arguments += [spec.reference, "tritonserver"]
    arguments += [f"--model-repository={path}" for path in inside]
    return [*arguments, *_common(spec), *spec.extra_args]


def _common(spec: ServerSpec) -> list[str]:
    arguments = [
        f"--model-control-mode={spec.model_control}",
        # One refused model must not take the others down; `Server.refusals` tells of it.
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--exit-timeout-secs={spec.exit_timeout_s}",
    ]
    if spec.model_control == "poll":
        arguments.append("--repository-poll-secs=1")
    arguments += [f"--load-model={name}" for name in spec.load_models]
    if spec.cache_size_bytes:
        arguments.append(f"--cache-config=local,size={spec.cache_size_bytes}")
    return arguments
