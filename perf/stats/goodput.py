"""Requests that kept their limits → goodput: what was answered in time, a second and as a share; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.stats.intervals import Estimate


@dataclass(frozen=True, slots=True)
class Goodput:
    """Inferences answered within every limit.

    limits_ns: of `latency` (scheduled time to last byte), `first` (to the first response) and `between` (a
               request's mean time between its responses); the last two are of streamed requests.
    per_s:     inferences a second that kept them all.
    share:     of all requests that were due, failed ones included; None when there was none.
    """

    limits_ns: Mapping[str, int]
    per_s: Estimate
    share: float | None


LIMITS = ("latency", "first", "between")


def within_limits(records: RequestRecords, limits_ns: Mapping[str, int]) -> npt.NDArray[np.bool_]:
    """bool (n,): answered without an error and within every limit; a request without a response keeps none of
    `first`, one with a single response keeps any of `between`."""
    good = records.ok.copy()
    if "latency" in limits_ns:
        good &= records.latency_ns <= limits_ns["latency"]
    if "first" in limits_ns:
        came = records.first_byte_ns > 0
        good &= came & (records.first_byte_ns - records.scheduled_ns <= limits_ns["first"])
    if "between" in limits_ns and records.responses is not None and records.last_response_ns is not None:
        several = records.responses > 1
        span_ns = records.last_response_ns - records.first_byte_ns
        good &= ~several | (span_ns <= limits_ns["between"] * (records.responses - 1))
    return np.asarray(good)
