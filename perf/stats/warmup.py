"""Latencies in time order → how many of the first ones are warm-up; pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tritonsmith.perf.stats.intervals import Floats
from tritonsmith.perf.stats.patterns.drift import find_drift

BATCH = 5
LEAST_DIFFERENCE = 0.05


@dataclass(frozen=True, slots=True)
class Warmup:
    """The requests to leave out at the start.

    requests: how many; 0 when the start looks like the rest.
    settled:  False when the series still changes in its second half, so that no start can be cut off.
    """

    requests: int
    settled: bool


def find_warmup(latencies: Floats) -> Warmup:
    """The warm-up by MSER-5 on log latencies.

    MSER-5 (White 1997; White, Cobb & Spratt 2000) cuts where the standard error of what is left is least,
    over means of five. Two guards are ours: the logarithm, so that one stall is not taken for a start, and
    the cut only stands if the median before it differs by 5 % and by four standard errors from the median
    after it, so that plain noise costs no requests. A best cut in the second half means that the series has not settled,
    and so does a long cut after which it drifts on: a climb over the whole run has no start to be cut off.
    """
    batches = latencies.size // BATCH
    if batches < 4:
        return Warmup(0, True)
    means = np.log(np.maximum(latencies[: batches * BATCH], 1.0)).reshape(batches, BATCH).mean(axis=1)
    left = np.arange(batches, 0, -1, dtype=np.float64)
    centred = means - means.mean()
    total = np.cumsum(centred[::-1])[::-1]
    square = np.cumsum((centred * centred)[::-1])[::-1]
    error = (square - total * total / left) / (left * left)
    usable = batches - max(2, batches // 10)  # the last few means always have a small error
    cut = int(np.argmin(error[:usable]))
    if cut == 0 or not _differs(means, cut):
        return Warmup(0, True)
    still_moves = cut > batches // 10 and find_drift(latencies[cut * BATCH :], logged=True) is not None
    if cut > batches // 2 or still_moves:
        return Warmup(0, False)
    return Warmup(cut * BATCH, True)


def _differs(means: Floats, cut: int) -> bool:
    before, after = np.median(means[:cut]), np.median(means[cut:])
    noise = 1.25 * float(means[cut:].std()) / np.sqrt(cut)  # standard error of a median of normal values
    return bool(abs(before - after) > max(np.log1p(LEAST_DIFFERENCE), 4 * noise))
