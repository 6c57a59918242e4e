"""This machine, as observed → the first reason why an embedded server cannot run here, each with the command
that mends it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.errors import ToolError
from perf.server import embedded

# nvidia-pytriton 0.7.0 is tagged manylinux_2_35; numpy < 2, which its stubs need, ends at Python 3.12.
MIN_GLIBC = (2, 35)
PYTHONS = ("3.10", "3.11", "3.12")
# Each instance maps about 1 MiB at first and more with its tensors; Docker's default is 64 MiB.
MIN_SHM_BYTES = 16 * 2**20
IN_DOCKER = "serve with --launch docker:nvcr.io/nvidia/tritonserver:26.08-py3"
INSTALL = "pip install 'tritonsmith[embedded]'"


@dataclass(frozen=True, slots=True)
class Observed:
    """What preflight looks at; a missing package, tool or file is None."""

    system: str
    machine: str
    glibc: tuple[int, int] | None
    python: str
    bash: str | None
    pytriton: str | None
    stub_exists: bool
    stub_error: str | None
    numpy: str | None
    onnxruntime: str | None
    shm_free_bytes: int | None


def observe(parts: embedded.Embedded | None, env: Mapping[str, str]) -> Observed:
    """Look at this machine; `env` is the environment the server will get."""
    shm = "/dev/shm"  # noqa: S108
    stub_exists = parts is not None and parts.stub.exists()
    return Observed(
        system=platform.system(),
        machine=platform.machine(),
        glibc=_glibc(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        bash=shutil.which("bash", path=env.get("PATH")),
        pytriton=_version("nvidia-pytriton") if parts is not None else None,
        stub_exists=stub_exists,
        stub_error=_stub_error(parts, env) if parts is not None and stub_exists else None,
        numpy=_version("numpy"),
        onnxruntime=_version("onnxruntime") or _version("onnxruntime-gpu"),
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
    if seen.python not in PYTHONS:
        yield ToolError(
            "the embedded Triton has no usable Python stub for this Python",
            code="python_unsupported",
            seen=seen.python,
            valid=PYTHONS,
            fix="python3.12 -m venv .venv && .venv/bin/" + INSTALL,
        )
    if seen.pytriton is None:
        yield ToolError(
            "the embedded Triton is not installed",
            code="pytriton_missing",
            seen="no nvidia-pytriton package",
            fix=INSTALL,
        )
    elif not seen.stub_exists:
        yield ToolError(
            f"nvidia-pytriton {seen.pytriton} holds no Python stub for Python {seen.python}",
            code="stub_missing",
            seen=seen.pytriton,
            valid=("0.7.0",),
            fix="pip install --force-reinstall --no-deps nvidia-pytriton==0.7.0",
        )
    if seen.bash is None:
        yield ToolError(
            "Triton starts its Python stubs through bash, which is not in PATH",
            code="bash_missing",
            fix="apt-get install bash",
        )
    if seen.stub_error is not None:
        yield _stub_problem(seen)
    yield from _environment_problems(seen)


def _stub_problem(seen: Observed) -> ToolError:
    libpython = f"libpython{seen.python}.so.1.0"
    if libpython in (seen.stub_error or ""):
        return ToolError(
            f"Triton's Python stub needs a shared {libpython}; neither this Python nor the system has one",
            code="libpython_missing",
            seen=seen.stub_error,
            fix=f"apt-get install libpython{seen.python}, or use a Python built with --enable-shared",
        )
    return ToolError(
        "Triton's Python stub does not start on this machine",
        code="stub_unusable",
        seen=seen.stub_error,
        fix="pip install --force-reinstall --no-deps nvidia-pytriton==0.7.0",
    )


def _environment_problems(seen: Observed) -> Iterator[ToolError]:
    if seen.numpy is None or int(seen.numpy.split(".")[0]) >= 2:
        yield ToolError(
            "the embedded Triton needs numpy < 2: under numpy 2 its stub corrupts tensors silently",
            code="numpy_too_new" if seen.numpy else "numpy_missing",
            seen=f"numpy {seen.numpy}" if seen.numpy else "no numpy",
            valid=("numpy 1.26",),
            fix="pip install 'numpy<2' 'ml_dtypes<0.6'",
        )
    if seen.onnxruntime is None:
        yield ToolError(
            "ONNX models need onnxruntime in the server's Python environment",
            code="onnxruntime_missing",
            seen="no onnxruntime package",
            fix="pip install onnxruntime",
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


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _glibc() -> tuple[int, int] | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        major, minor = version.split(".")[:2]
        return (int(major), int(minor)) if name == "glibc" else None
    except (ValueError, OSError):
        return None


def _stub_error(parts: embedded.Embedded, env: Mapping[str, str]) -> str | None:
    """What the loader says of the stub; run without arguments it only complains about them."""
    try:
        result = subprocess.run(
            [str(parts.stub)], env=dict(env), capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    # The dynamic loader's own exit status; a stub that got as far as main() has another.
    return result.stderr.strip() if result.returncode == 127 else None
