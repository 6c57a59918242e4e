"""The seam to what is asked once a test, over either protocol: metadata, config, statistics, shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol


class ServerApi(Protocol):
    """One server's answers in the form of Triton's REST API, whichever protocol they came over.

    Every call raises ServerError when nothing answers and TrialError with Triton's reason when it refuses.
    """

    def server_metadata(self) -> Mapping[str, Any]:
        """name, version, extensions."""

    def repository_index(self) -> list[dict[str, Any]]:
        """A row a version of every model: name, version, state (READY …), reason; Triton leaves out what is empty."""

    def model_metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        """name, inputs and outputs."""

    def model_config(self, model: str, version: str = "") -> Mapping[str, Any]:
        """The config in use."""

    def statistics(self, model: str, version: str = "") -> list[dict[str, Any]]:
        """`model_stats`: a row a version."""

    def register_region(self, name: str, key: str, size_bytes: int) -> None:
        """Have the server map a system shared-memory region of this machine (`key` as for shm_open)."""

    def register_cuda_region(self, name: str, handle: bytes, device: int, size_bytes: int) -> None:
        """Have the server open a region of a GPU's memory by its cudaIpcMemHandle_t."""

    def unregister_region(self, name: str, kind: Literal["system", "cuda"] = "system") -> None:
        """Have the server let go of it."""
