"""When requests were due and answered → pauses of the server that come at regular times; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonsmith.perf.stats.intervals import Floats, Integers

Indices = npt.NDArray[np.integer[Any]]

FEWEST = 5
MOST_PER_REQUEST = 0.05
TOLERANCE = 0.10
REGULAR_SHARE = 0.8
LEAST_TIMES_P50 = 1.5


@dataclass(frozen=True, slots=True)
class Stalls:
    """Pauses in which requests waited and none was answered: how many, how far apart, and the longest of most."""

    count: int
    period_s: float
    length_s: float


def find_stalls(scheduled_ns: Integers, end_ns: Integers, payload_index: Indices) -> Stalls | None:
    """Regular pauses of a garbage collection, a throttled cgroup, a timer; None when there are none.

    All of answered requests, as they ended. A pause is a time with requests in flight and no answer. Pauses beyond
    a threshold, which is tried at growing heights, are regular when four of five of the times between them are
    within a tenth of their median; times between pauses that come by chance are exponential, of which a
    tenth is. Pauses that always the same few requests of the pool end are those requests' own time.
    """
    if end_ns.size < 4 * FEWEST:
        return None
    oldest = np.minimum.accumulate(scheduled_ns[::-1])[::-1]
    before = np.concatenate(([oldest[0]], end_ns[:-1]))
    pauses = (end_ns - np.maximum(before, oldest)).astype(np.float64)
    threshold = max(LEAST_TIMES_P50 * float(np.median(end_ns - scheduled_ns)), float(np.median(pauses)), 1.0)
    pool = int(payload_index.max()) + 1
    while True:
        at = np.flatnonzero(pauses > threshold)
        if at.size < FEWEST:
            return None
        if at.size <= MOST_PER_REQUEST * pauses.size and not _same_requests(payload_index[at], pool):
            found = _regular(end_ns[at].astype(np.float64), pauses[at])
            if found is not None:
                return found
        threshold *= 1.5


def _regular(ends_ns: Floats, pauses_ns: Floats) -> Stalls | None:
    between = np.diff(ends_ns)
    period = float(np.median(between))
    regular = np.abs(between - period) <= TOLERANCE * period
    length = float(np.quantile(pauses_ns, 0.9))
    if regular.sum() < max(FEWEST - 1, REGULAR_SHARE * between.size) or period < 2 * length:
        return None
    return Stalls(ends_ns.size, period / 1e9, length / 1e9)


def _same_requests(payloads: Indices, pool: int) -> bool:
    """Whether they are far fewer different ones than chance would draw from the pool."""
    expected = pool * (1 - (1 - 1 / pool) ** payloads.size)
    return bool(np.unique(payloads).size < 0.6 * expected)
