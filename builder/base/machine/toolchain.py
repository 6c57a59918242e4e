"""This machine → Toolchain: the versions that the build's actions depend on; a missing tool is a value."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.builder.base.sources import source_rows

VERSION_PACKAGES = (
    "torch",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "ml_dtypes",
    "tensorrt",
    "tensorrt-rtx",
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Versions by distribution name; None when it is not installed."""

    versions: tuple[tuple[str, str | None], ...]

    def fingerprint(self, *names: str) -> dict[str, str | None]:
        """The versions of the named tools; KeyError for one that is not looked at, whose upgrade nobody would see."""
        known = dict(self.versions)
        return {n: known[n] for n in names}


# Other distributions of the same tool. NVIDIA's are named after CUDA's major version, and bring the module `tensorrt`
# whether or not the one of that name is installed.
_ALSO: Mapping[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    "onnxruntime": ("onnxruntime-gpu",),
}


@lru_cache(maxsize=1)
def this_toolchain() -> Toolchain:
    """What is installed beside us; nothing is imported for it."""
    used = [row.distributions for row in source_rows().values()]
    used += [row.distributions for row in precision_rows().values()]
    names = dict.fromkeys((*VERSION_PACKAGES, *(name for names in used for name in names)))
    return Toolchain(tuple((name, _version(name)) for name in names))


def _version(name: str) -> str | None:
    for distribution in (name, *_ALSO.get(name, ())):
        with suppress(metadata.PackageNotFoundError):
            # The local part says how it was packaged (+cpu, +cu130), not what it computes.
            return metadata.version(distribution).partition("+")[0]
    return None


def this_platform() -> str:
    """`linux_x86_64`, `linux_aarch64`: operating system and CPU, which an engine is tied to."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    return f"{sys.platform}_{machine}"


def this_processor() -> str:
    """The processor's name as its maker gives it, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
