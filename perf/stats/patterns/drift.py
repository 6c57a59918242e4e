"""A series in time order → whether it drifts over the whole run, and from where to where; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tritonsmith.perf.stats.intervals import (
    FEWEST_BATCHES,
    MOST_BATCHES,
    Floats,
    lag_one,
    means_of_batches,
    student_t,
)

LEAST_VALUES = 16
MOST_CHANGE = 0.075
"""From the first quarter of the run to the last: of a straight line, 10 % over the whole run."""
LEVEL = 0.995
STEPS_AT = (0.25, 0.5, 0.75)
IN_ORDER = 0.85


@dataclass(frozen=True, slots=True)
class Drift:
    """A change over the run that is no chance: the mean in its first quarter and in its last."""

    first: float
    last: float

    @property
    def relative(self) -> float:
        """0.2 is a rise by a fifth."""
        return self.last / max(self.first, 1e-9) - 1


def find_drift(series: Floats, logged: bool = False) -> Drift | None:
    """A trend over the whole run, or a step in it, by more than MOST_CHANGE; None when there is none, or chance
    explains it.

    A straight line and steps are fitted to batch means, each tested by Student's t. Batches are merged in
    pairs while what the fit leaves of them is correlated, so that a queue's slow ups and downs are not taken for
    a trend; the fit is taken out before that look, else a trend would be its own excuse. What correlation the last
    eight have widens the error. Of steady series less than one in twenty is found to drift, while their memory is
    below a twentieth of the run. Logged: of the logarithms, so that means are geometric and one stall weighs little.
    """
    if series.size < LEAST_VALUES:
        return None
    used = np.log(np.maximum(series, 1e-9)) if logged else series
    quarter = used.size // 4
    first, last = float(used[:quarter].mean()), float(used[-quarter:].mean())
    drift = Drift(math.exp(first), math.exp(last)) if logged else Drift(first, last)
    if abs(drift.relative) <= MOST_CHANGE:
        return None
    is_sure = _is_in_order(used) or any(_fits(used, step_at) for step_at in (None, *STEPS_AT))
    return drift if is_sure else None


def _is_in_order(series: Floats) -> bool:
    """Whether hardly one of sixteen means is out of its place by size (Kendall's tau): a climb, straight or not."""
    means = means_of_batches(series, 2 * FEWEST_BATCHES)
    pairs = np.sign(means[None, :] - means[:, None])[np.triu_indices(means.size, 1)]
    return bool(abs(pairs.mean()) >= IN_ORDER)


def _fits(series: Floats, step_at: float | None) -> bool:
    means = means_of_batches(series, min(MOST_BATCHES, series.size))
    slope, error, correlation = _fit(means, step_at)
    while means.size >= 2 * FEWEST_BATCHES and correlation > 1 / math.sqrt(means.size):
        means = means_of_batches(means, means.size // 2)
        slope, error, correlation = _fit(means, step_at)
    left = min(0.85, max(0.0, correlation + 2 / means.size))  # a guess from few batches: rather too much
    error *= math.sqrt((1 + left) / (1 - left))
    return abs(slope) > student_t((1 + LEVEL) / 2, means.size - 2) * error


def _fit(means: Floats, step_at: float | None) -> tuple[float, float, float]:
    """A line or a step through the means: slope, its standard error, and the correlation from one to the next of
    what is left, which the fit alone makes too low by about 2 / n."""
    place = np.arange(means.size, dtype=np.float64)
    if step_at is not None:
        place = np.asarray(place >= step_at * means.size, np.float64)
    place -= place.mean()
    centred, power = means - means.mean(), float(place @ place)
    slope = float(place @ centred) / power
    rest = centred - slope * place
    error = math.sqrt(float(rest @ rest) / (means.size - 2) / power)
    return slope, error, lag_one(rest) + 2 / means.size
