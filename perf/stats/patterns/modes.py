"""Latencies → the modes of their distribution, where it has more than one; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tritonsmith.perf.stats.intervals import Floats

LEAST_REQUESTS = 200
LEAST_SHARE = 0.05
DEEPEST = 0.5
LEAST_RATIO = 1.3
BINS = 512
ENOUGH = 20_000


@dataclass(frozen=True, slots=True)
class Mode:
    """One of several humps: the share of the requests in it, and their median latency."""

    share: float
    median_ns: float


def find_modes(latencies_ns: Floats) -> tuple[Mode, ...]:
    """The modes, fastest first; empty when there is one.

    A density of log latencies (a histogram smoothed with Silverman's bandwidth, 1986) is cut at its lowest points.
    A cut stands when the density there is half of the lower hump beside it, each side has a twentieth of
    the requests, and the medians differ by three tenths: exponential, gamma and lognormal latencies have none.
    """
    if latencies_ns.size < LEAST_REQUESTS:
        return ()
    latencies_ns = latencies_ns[:: 1 + latencies_ns.size // ENOUGH]
    logs = np.log(np.maximum(latencies_ns, 1.0))
    low, q1, q3, high = np.quantile(logs, (0.001, 0.25, 0.75, 0.999))
    spread = min(float(logs.std()), float(q3 - q1) / 1.349) or float(logs.std())
    width = max(0.9 * spread * logs.size**-0.2, 0.02)  # a hump narrower than 2 % is one value
    if high - low < 4 * width:
        return ()
    edges = np.linspace(low - 3 * width, high + 3 * width, BINS + 1)
    counts = np.histogram(logs, edges)[0].astype(np.float64)
    reach = np.arange(1 - BINS // 2, BINS // 2) * (edges[1] - edges[0]) / width
    density = np.convolve(counts, np.exp(-0.5 * reach * reach), "same")
    cuts = _cuts(density, counts)
    if not cuts:
        return ()
    place = np.searchsorted(edges[cuts], logs, side="right")
    modes = [
        Mode(float((place == i).mean()), float(np.median(latencies_ns[place == i])))
        for i in range(len(cuts) + 1)
    ]
    apart = all(b.median_ns > LEAST_RATIO * a.median_ns for a, b in pairwise(modes))
    return tuple(modes) if apart else ()


def _cuts(density: Floats, counts: Floats) -> Sequence[int]:
    """Bins at which humps part: the shallowest cut is taken back until all of them stand."""
    rises = np.diff(density) > 0
    cuts = [int(i) + 1 for i in np.flatnonzero(~rises[:-1] & rises[1:])]
    total = counts.sum()
    while cuts:
        parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, BINS], strict=True)]
        peaks = [density[part].max() for part in parts]
        shares = [counts[part].sum() / total for part in parts]
        # A hump of no height at all is none.
        lower = [min(peaks[i : i + 2]) for i in range(len(cuts))]
        depth = [density[cut] / low if low > 0 else 1.0 for cut, low in zip(cuts, lower, strict=True)]
        fall = [i for i, d in enumerate(depth) if d > DEEPEST or min(shares[i : i + 2]) < LEAST_SHARE]
        if not fall:
            break
        del cuts[max(fall, key=depth.__getitem__)]
    return cuts
