"""This machine, as observed → the first reason why an embedded server cannot run here, each with the command
that mends it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tritonsmith.builder.base.errors import ToolError
from tritonsmith.perf.server.embedded import Embedded

# nvidia-pytriton 0.7.0 is tagged manylinux_2_35.
MIN_GLIBC = (2, 35)
# Each instance maps about 1 MiB at first and more with its tensors; Docker's default is 64 MiB.
MIN_SHM_BYTES = 16 * 2**20
IN_DOCKER = "serve with --launch docker:nvcr.io/nvidia/tritonserver:26.08-py3"


@dataclass(frozen=True, slots=True)
class Observed:
    """What preflight looks at; a missing tool or file is None."""

    system: str
    machine: str
    glibc: tuple[int, int] | None
    bash: str | None
    shm_free_bytes: int | None


def observe(environ: Mapping[str, str] = os.environ) -> Observed:
    """Look at this machine."""
    shm = "/dev/shm"  # noqa: S108
    return Observed(
        system=platform.system(),
        machine=platform.machine(),
        glibc=_glibc(),
        bash=shutil.which("bash", path=environ.get("PATH")),
        shm_free_bytes=shutil.disk_usage(shm).free if os.path.isdir(shm) else None,  # noqa: PTH112
    )


def check(seen: Observed) -> None:
    """Raise the first of `problems`."""
    for problem in problems(seen):
        raise problem


def problems(seen: Observed) -> Iterator[ToolError]:
    """Every reason against, the most fundamental first."""
    if (seen.system, seen.machine) != ("Linux", "x86_64"):
        yield ToolError(
            "the embedded Triton runs on x86-64 Linux only",
            code="platform_unsupported",
            seen=f"{seen.system} {seen.machine}",
            valid=("Linux x86_64",),
            fix=f"{IN_DOCKER}, or attach with --launch http://HOST:8000",
        )
    if seen.glibc is not None and seen.glibc < MIN_GLIBC:
        yield ToolError(
            "the embedded Triton needs a newer C library",
            code="glibc_too_old",
            seen="glibc " + ".".join(map(str, seen.glibc)),
            valid=("glibc >= " + ".".join(map(str, MIN_GLIBC)),),
            fix=f"use Ubuntu 22.04, Debian 12 or newer, or {IN_DOCKER}",
        )
    if seen.bash is None:
        yield ToolError(
            "Triton starts its Python stubs through bash, which is not in PATH",
            code="bash_missing",
            fix="apt-get install bash",
        )
    if seen.shm_free_bytes is None or seen.shm_free_bytes < MIN_SHM_BYTES:
        free = (
            "no /dev/shm"
            if seen.shm_free_bytes is None
            else f"{seen.shm_free_bytes >> 20} MiB free in /dev/shm"
        )
        yield ToolError(
            "Triton exchanges tensors with its Python stubs through /dev/shm, which has too little room",
            code="shm_full",
            seen=free,
            valid=(f">= {MIN_SHM_BYTES >> 20} MiB",),
            fix="in a container: --shm-size=1g; elsewhere: mount -o remount,size=1g /dev/shm",
        )


def check_stub(parts: Embedded, env: Mapping[str, str]) -> None:
    """ToolError when the stub does not load: a server would wait for it in silence."""
    error = _stub_error(parts, env)
    if error is not None:
        raise ToolError(
            "Triton's Python stub does not start on this machine",
            code="stub_unusable",
            seen=error,
            fix=f"tritonsmith server install tries again; or {IN_DOCKER}",
        )


def _glibc() -> tuple[int, int] | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        major, minor = version.split(".")[:2]
        return (int(major), int(minor)) if name == "glibc" else None
    except (ValueError, OSError):
        return None


def _stub_error(parts: Embedded, env: Mapping[str, str]) -> str | None:
    """What the loader says of the stub; run without arguments it only complains about them."""
    try:
        result = subprocess.run(
            [str(parts.stub)], env=dict(env), capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    # The dynamic loader's own exit status; a stub that got as far as main() has another.
    return result.stderr.strip() if result.returncode == 127 else None
