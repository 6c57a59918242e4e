"""A series of numbers in time order → estimates with intervals that respect its autocorrelation; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationInfo, model_serializer, model_validator

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_BATCHES = 32
FEWEST_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval, in the unit of what it is about."""

    low: float
    high: float
    level: float = 0.95

    def contains(self, value: float) -> bool:
        """Whether the value lies in the closed interval."""
        return self.low <= value <= self.high


def ends_of(interval: Interval | None, *more: str) -> dict[str, Any]:
    """JSON form of an interval beside its value: low, high and `more`, which is "level" where no summary states it."""
    return {name: None if interval is None else getattr(interval, name) for name in ("low", "high", *more)}


def with_interval(data: Any, info: ValidationInfo) -> Any:
    """The inverse of ends_of, for the dataclass they are in; an interval without a level has that of its summary."""
    interval = None
    if data["low"] is not None:
        interval = {"level": (info.context or {}).get("level", 0.95), **data}
    return {**data, "interval": interval}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its interval, and why one of them is missing; never a silent gap.

    value:    the estimate; None when there was nothing to estimate it from.
    interval: None when the data cannot carry one; then `why` says what is short.
    """

    value: float | None
    interval: Interval | None = None
    why: str | None = None

    @property
    def relative_half_width(self) -> float | None:
        """Half the interval over the value: 0.05 is ± 5 %; None without an interval."""
        if self.interval is None or not self.value:
            return None
        return (self.interval.high - self.interval.low) / 2 / self.value

    _read = model_validator(mode="before")(with_interval)

    @model_serializer
    def _form(self) -> dict[str, Any]:
        return {"value": self.value, **ends_of(self.interval), "why": self.why}


@lru_cache(maxsize=4096)
def student_t(probability: float, df: int) -> float:
    """The quantile of Student's t at `probability` in (0.5, 1) for a whole number of degrees of freedom.

    The finite series of Abramowitz & Stegun 26.7.3 and 26.7.4 gives P(|T| <= t), which is bisected in
    theta = atan(t / sqrt(df)); above 300 degrees the normal quantile is closer than any use of it here.
    """
    if df < 1 or not 0.5 < probability < 1:
        raise ValueError(f"student_t needs df >= 1 and 0.5 < probability < 1, not {df}, {probability}")
    if df > 300:
        return NormalDist().inv_cdf(probability)
    wanted = 2 * probability - 1
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        if _two_sided_t(middle, df) < wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(df) * math.tan(low)


def _two_sided_t(theta: float, df: int) -> float:
    sine, cosine = math.sin(theta), math.cos(theta)
    if df == 1:
        return 2 * theta / math.pi
    odd = df % 2
    term = cosine if odd else 1.0
    total = term
    for k in range(3 if odd else 2, df - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


def batch_means(series: Floats) -> Floats:
    """Means of consecutive batches, as many (32, 16 or 8) as still look uncorrelated.

    Batches are merged in pairs while their lag-1 correlation is above what white noise shows one time in
    twenty, so that each is longer than the memory of the series (Fishman & Yarberry 1997, LBATCH, in its
    simplest form). A series shorter than 8 is returned as it is.
    """
    batches = min(MOST_BATCHES, series.size)
    means = means_of_batches(series, batches)
    while means.size >= 2 * FEWEST_BATCHES and lag_one(means) > 1.645 / math.sqrt(means.size):
        means = means_of_batches(series, means.size // 2)
    return means


def means_of_batches(series: Floats, batches: int) -> Floats:
    """Means of so many consecutive batches of equal length; what does not fill one is left out at the start."""
    if batches == 0:
        return series
    length = series.size // batches
    means: Floats = series[series.size - batches * length :].reshape(batches, length).mean(axis=1)
    return means


def lag_one(means: Floats) -> float:
    """The correlation of each value with the one before it."""
    centred = means - means.mean()
    power = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / power if power > 0 else 0.0


def mean_estimate(series: Floats, level: float = 0.95) -> Estimate:
    """The mean of a time-ordered series with a batch-means t interval (Law, Simulation Modeling, ch. 9)."""
    if series.size == 0:
        return Estimate(None, None, "nothing was measured")
    value = float(series.mean())
    means = batch_means(series)
    if means.size < FEWEST_BATCHES:
        return Estimate(value, None, f"needs {FEWEST_BATCHES} batches, the run has {means.size}")
    error = float(means.std(ddof=1)) / math.sqrt(means.size)
    correlation = lag_one(means)
    if correlation < -1.645 / math.sqrt(means.size):
        # Answers that come in lumps (batches) make a full bin follow a poor one; the mean knows better.
        error *= math.sqrt(max(0.1, 1 + 2 * correlation))
    half = student_t((1 + level) / 2, means.size - 1) * error
    return Estimate(value, Interval(value - half, value + half, level))


def quantile_estimates(
    series: Floats, probabilities: tuple[float, ...], level: float = 0.95
) -> tuple[Estimate, ...]:
    """Quantiles of a time-ordered series, each with an interval between two of its order statistics.

    The interval is Woodruff's (1952): the share of values below the quantile is estimated with its
    standard error, and the order statistics at both ends of that share are the bounds. The standard error
    comes from batch means of the indicator in time order, so requests that waited for the same batch or
    the same stall count as few, not as many. The shares are exact binomial ones at that effective sample
    size, which is why a tail without enough requests behind it gets no interval but the number it needs.

    Intervals of higher quantiles lie no lower, at either end: a quantile is not below one of a lower share, so
    it is not below that one's lower bound, and the lower one is not above the higher one's upper bound. Each
    lower bound is therefore the largest of those so far, each upper bound the smallest of those from there on;
    where the intervals hold together, these hold too.
    """
    ordered = np.sort(series)
    return _rising([_quantile_estimate(series, ordered, p, level) for p in probabilities], probabilities)


def _rising(estimates: list[Estimate], probabilities: tuple[float, ...]) -> tuple[Estimate, ...]:
    held = {i: e.interval for i, e in enumerate(estimates) if e.interval is not None}
    order = sorted(held, key=probabilities.__getitem__)
    for lower, higher in pairwise(order):
        held[higher] = replace(held[higher], low=max(held[lower].low, held[higher].low))
    for higher, lower in pairwise(reversed(order)):
        held[lower] = replace(held[lower], high=min(held[lower].high, held[higher].high))
    return tuple(Estimate(e.value, held.get(i), e.why) for i, e in enumerate(estimates))


def _quantile_estimate(series: Floats, ordered: Floats, p: float, level: float) -> Estimate:
    n = ordered.size
    if n == 0:
        return Estimate(None, None, "no request was answered")
    value = float(ordered[max(0, math.ceil(p * n) - 1)])  # nearest rank: a latency that really occurred
    needed = requests_for_quantile(p, level)
    if n < needed:
        return Estimate(value, None, f"needs {needed} requests, the run has {n}")
    independent = _effective_size((series <= value).astype(np.float64), p)
    if independent < needed:
        return Estimate(
            value, None, f"needs {needed} independent requests, {n} correlated ones count as {independent}"
        )
    ranks = _binomial_ranks(independent, p, level)
    if ranks is None:
        return Estimate(value, None, f"needs {needed} independent requests, the run counts as {independent}")
    scale = n / independent
    low = ordered[max(0, math.floor(ranks[0] * scale) - 1)]
    high = ordered[min(n - 1, math.ceil(ranks[1] * scale) - 1)]
    return Estimate(value, Interval(float(low), float(high), level))


def requests_for_quantile(p: float, level: float = 0.95) -> int:
    """The fewest independent requests whose largest and smallest bound the p-quantile on both sides."""
    tail = (1 - level) / 2
    return math.ceil(math.log(tail) / math.log(max(p, 1 - p)))


def _effective_size(below: Floats, p: float) -> int:
    """How many independent requests a correlated series is worth when a share p of it is counted."""
    means = batch_means(below)
    if means.size < FEWEST_BATCHES:
        return below.size
    spread = float(means.var(ddof=1)) / means.size
    # The variance itself is a guess from few batches: what t adds to z widens the share by the same.
    doubt = (student_t(0.975, means.size - 1) / 1.96) ** 2
    ideal = p * (1 - p) / below.size
    return max(1, int(below.size / max(1.0, doubt * spread / ideal)))


def _binomial_ranks(n: int, p: float, level: float) -> tuple[int, int] | None:
    """Ranks l < u, from 1, with P(X(l) <= quantile < X(u)) >= level for n independent values."""
    tail = (1 - level) / 2
    spread = math.sqrt(n * p * (1 - p))
    if spread > 30:  # far from both ends the normal ranks are the exact ones to within one
        z = NormalDist().inv_cdf(1 - tail)
        return math.floor(n * p - z * spread), math.ceil(n * p + z * spread) + 1
    cumulative = _binomial_cumulative(n, p)
    low = int(np.searchsorted(cumulative, tail, side="right"))
    high = int(np.searchsorted(cumulative, 1 - tail, side="left")) + 1
    return (low, high) if low >= 1 and high <= n else None


def _binomial_cumulative(n: int, p: float) -> Floats:
    factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    k = np.arange(n + 1)
    log_mass = factorial[n] - factorial - factorial[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    cumulative: Floats = np.cumsum(np.exp(log_mass))
    return cumulative
