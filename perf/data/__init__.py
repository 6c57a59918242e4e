"""A model's inputs and where their values come from → a pool of distinct infer payloads, from a seed."""

from __future__ import annotations

from tritonsmith.perf.data.distribution import Span
from tritonsmith.perf.data.interface import ModelInterface, interface_from_metadata
from tritonsmith.perf.data.options import DataOptions
from tritonsmith.perf.data.pool import (
    Pool,
    payload_from_sample,
    payloads_from_options,
    pool_from_options,
)

__all__ = [
    "DataOptions",
    "ModelInterface",
    "Pool",
    "Span",
    "interface_from_metadata",
    "payload_from_sample",
    "payloads_from_options",
    "pool_from_options",
]
