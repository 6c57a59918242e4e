"""ServerSpec → a tritonserver in a container of this machine's Docker."""

from __future__ import annotations

import secrets
import shutil

from tritonsmith.builder.base.errors import ToolError
from tritonsmith.perf.server.launches.place import Place, Started
from tritonsmith.perf.server.process.command import docker_command
from tritonsmith.perf.server.spec import ServerSpec


def start_docker(spec: ServerSpec, place: Place) -> Started:
    """The image's tritonserver."""
    if shutil.which("docker") is None:
        raise ToolError(
            "docker is not in PATH",
            code="docker_missing",
            seen=spec.reference,
            fix="install Docker, or serve with --launch embedded",
        )
    name = f"tritonsmith-{secrets.token_hex(6)}"
    # The docker client's end is not the container's.
    return Started(
        place.run(docker_command(spec, place.ports, name), after=("docker", "rm", "--force", name))
    )
