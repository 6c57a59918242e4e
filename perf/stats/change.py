"""Values or estimates of two runs that share nothing → the change from one to the other, with an interval; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from tritonsmith.perf.stats.intervals import Estimate, Interval, student_t


def welch_change(
    a_rounds: Sequence[float], b_rounds: Sequence[float], level: float
) -> tuple[float, Interval | None]:
    """B / A - 1 from values of independent rounds: Welch's t interval on the logs (Welch 1947).

    Rounds of two runs are not pairs, so both variances count, and degrees of freedom are Satterthwaite's.
    """
    a, b = np.log(np.asarray(a_rounds)), np.log(np.asarray(b_rounds))
    centre = float(b.mean() - a.mean())
    if a.size < 2 or b.size < 2:
        return math.expm1(centre), None
    parts = float(a.var(ddof=1)) / a.size, float(b.var(ddof=1)) / b.size
    total = sum(parts)
    if total == 0.0:
        return math.expm1(centre), Interval(math.expm1(centre), math.expm1(centre), level)
    df = total**2 / (parts[0] ** 2 / (a.size - 1) + parts[1] ** 2 / (b.size - 1))
    half = student_t((1 + level) / 2, max(1, int(df))) * math.sqrt(total)
    return math.expm1(centre), Interval(math.expm1(centre - half), math.expm1(centre + half), level)


def mover_change(a: Estimate, b: Estimate) -> tuple[float | None, Interval | None]:
    """B / A - 1 of two independent estimates from their own intervals.

    MOVER, the method of variance estimates recovery (Zou & Donner 2008) on the logs: each side's distance to
    its own bound stands for its error, which need not be alike above and below.
    """
    if not a.value or not b.value or a.value < 0 or b.value < 0:
        return None, None
    centre = math.log(b.value / a.value)
    if a.interval is None or b.interval is None or a.interval.low <= 0 or b.interval.low <= 0:
        return math.expm1(centre), None
    a_down, a_up = math.log(a.value / a.interval.low), math.log(a.interval.high / a.value)
    b_down, b_up = math.log(b.value / b.interval.low), math.log(b.interval.high / b.value)
    low, high = centre - math.hypot(b_down, a_up), centre + math.hypot(b_up, a_down)
    return math.expm1(centre), Interval(math.expm1(low), math.expm1(high), a.interval.level)


def share_change(a: tuple[int, int], b: tuple[int, int], level: float) -> tuple[float, Interval]:
    """Difference of two shares (failed, of all): Newcombe's hybrid of Wilson intervals (1998, method 10)."""
    (pa, la, ua), (pb, lb, ub) = _wilson(*a, level), _wilson(*b, level)
    difference = pb - pa
    low = difference - math.hypot(pb - lb, ua - pa)
    high = difference + math.hypot(ub - pb, pa - la)
    return difference, Interval(low, high, level)


def _wilson(failed: int, n: int, level: float) -> tuple[float, float, float]:
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = failed / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
