"""(weights, `engine:`, a kind of GPU) → whether the weights fit into the GPUs that the engine may use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Gigabytes (10^9) of one GPU; of kinds that are sold with several sizes the largest, so that a no is certain.
# Source: NVIDIA's product pages and data sheets.
GPU_MEMORY_GB: Mapping[str, int] = {
    "v100": 32, "t4": 16, "rtx2080ti": 11,
    "a100": 80, "a30": 24, "a2": 16, "a10": 24, "a10g": 24, "a16": 16, "a40": 48,
    "rtx3090": 24, "rtxa6000": 48, "orin": 64,
    "l4": 24, "l40": 48, "l40s": 48, "rtx4090": 24, "rtx6000ada": 48,
    "h100": 96, "h200": 144, "h20": 144, "gh200": 144,
    "b100": 192, "b200": 192, "gb200": 192, "b300": 288, "gb300": 288,
    "rtx5090": 32, "rtxpro6000": 96, "gb10": 128,
}  # fmt: skip
_SHARE = 0.9
"""Of a GPU's memory, where neither engine is told another: vLLM's gpu_memory_utilization."""


def gpus_used(engine: Mapping[str, Any]) -> int:
    """How many GPUs one instance spreads its weights over."""
    stated = (engine.get(name) for name in ("tensor_parallel_size", "pipeline_parallel_size"))
    return math.prod(max(1, size) for size in stated if isinstance(size, int))


def room_bytes(kind: str, engine: Mapping[str, Any]) -> float | None:
    """What weights and cache may take, of all GPUs together and of what the engine may keep in main memory; None for a kind
    that is not known."""
    gigabytes = GPU_MEMORY_GB.get(kind)
    if gigabytes is None:
        return None
    share, offloaded_gb = engine.get("gpu_memory_utilization"), engine.get("cpu_offload_gb")
    share = share if isinstance(share, float | int) and 0 < share <= 1 else _SHARE
    offloaded = offloaded_gb * 2**30 if isinstance(offloaded_gb, float | int) and offloaded_gb > 0 else 0
    return gpus_used(engine) * (gigabytes * 1e9 * share + offloaded)
