"""A timing cache file ↔ a build: measured kernel times of earlier builds, valid for one TensorRT and one GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tritonsmith.builder.base.files.disk import write_atomically

if TYPE_CHECKING:
    import tensorrt


class TimingCache:
    """One build's use of the file; a file that is damaged or another version's is a miss, never an error.

    outcome: "none" | "new" | "reused" | "refused".
    """

    def __init__(self, directory: Path | None, engine: str, version: str, gpu: str | None) -> None:
        name = re.sub(r"[^\w.-]+", "-", f"{engine}-{version}-{gpu or 'any'}") + ".timing"
        self.path = None if directory is None else directory / name
        self.outcome = "none"

    def attach(self, config: tensorrt.IBuilderConfig) -> None:
        """Hands what the file holds to the build."""
        if self.path is None:
            return
        known = self.path.read_bytes() if self.path.is_file() else b""
        self.outcome = "reused" if known else "new"
        if known and not self._set(config, known):
            self.outcome = "refused"
            known = b""
        if not known:
            self._set(config, b"")

    def keep(self, config: tensorrt.IBuilderConfig) -> None:
        """Writes back what the build knows now, with what another build wrote meanwhile."""
        if self.path is None:
            return
        cache: tensorrt.ITimingCache | None = config.get_timing_cache()
        if cache is None:
            return
        if self.path.is_file() and self.outcome != "refused":
            try:
                other: tensorrt.ITimingCache | None = config.create_timing_cache(self.path.read_bytes())
            except (RuntimeError, TypeError, ValueError):
                other = None
            if other is not None:
                cache.combine(other, False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, bytes(cache.serialize()))

    @staticmethod
    def _set(config: tensorrt.IBuilderConfig, data: bytes) -> bool:
        try:
            cache: tensorrt.ITimingCache | None = config.create_timing_cache(data)
            return cache is not None and bool(config.set_timing_cache(cache, False))
        except (RuntimeError, TypeError, ValueError):
            return False
