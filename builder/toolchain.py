"""This machine → Toolchain: the versions that the build's actions depend on; a missing tool is a value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

from builder.sources import source_rows

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


@lru_cache(maxsize=1)
def this_toolchain() -> Toolchain:
    """What is installed beside us; nothing is imported for it."""
    sources = (name for row in source_rows().values() for name in row.distributions)
    return Toolchain(tuple((name, _version(name)) for name in dict.fromkeys((*VERSION_PACKAGES, *sources))))


def _version(name: str) -> str | None:
    try:
        # The local part says how it was packaged (+cpu, +cu130), not what it computes.
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None
