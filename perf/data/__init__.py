"""A model's inputs and where their values come from → a pool of distinct infer payloads, from a seed."""

from __future__ import annotations

from perf.data.interface import ModelInterface, interface_from_metadata
from perf.data.options import DataOptions
from perf.data.pool import (
    POOL_LIMIT_BYTES,
    Pool,
    payload_from_sample,
    payloads_from_options,
    pool_from_options,
)
from perf.distribution import Span

__all__ = [
    "POOL_LIMIT_BYTES",
    "DataOptions",
    "ModelInterface",
    "Pool",
    "Span",
    "interface_from_metadata",
    "payload_from_sample",
    "payloads_from_options",
    "pool_from_options",
]
