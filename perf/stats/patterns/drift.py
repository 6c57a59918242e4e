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
STEP_LEVEL = 0.9995
IN_ORDER = 0.9


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

    A straight line and the best step are fitted to batch means, each tested by Student's t, its error widened by the
    correlation from one mean to the next of what the fit leaves (Bartlett's (1 + r) / (1 - r)), so that a queue's slow
    ups and downs are not taken for a trend. Of steady series less than one in twenty is found to drift, also where their
    memory (the integrated autocorrelation time) is as long as the run; of waits in a queue at 95 % of its capacity, which
    are skew besides, up to one in eight in a run as short as that.
    logged: of the logarithms, so that means are geometric and one stall weighs little.
    """
    if series.size < LEAST_VALUES:
        return None
    used = np.log(np.maximum(series, 1e-9)) if logged else series
    quarter = used.size // 4
    first, last = float(used[:quarter].mean()), float(used[-quarter:].mean())
    drift = Drift(math.exp(first), math.exp(last)) if logged else Drift(first, last)
    if abs(drift.relative) <= MOST_CHANGE:
        return None
    means = means_of_batches(used, min(MOST_BATCHES, used.size))
    is_sure = _is_in_order(used) or _is_line(means) or _is_step(means)
    return drift if is_sure else None


def _is_in_order(series: Floats) -> bool:
    """Whether hardly one of sixteen means is out of its place by size (Kendall's tau): a climb, straight or not."""
    means = means_of_batches(series, 2 * FEWEST_BATCHES)
    pairs = np.sign(means[None, :] - means[:, None])[np.triu_indices(means.size, 1)]
    return bool(abs(pairs.mean()) >= IN_ORDER)


def _is_line(means: Floats) -> bool:
    return _is_sure(means, np.arange(means.size, dtype=np.float64), LEVEL)


def _is_step(means: Floats) -> bool:
    """The best of all steps, of which one by chance would often be good: hence the higher level."""
    eighth = means.size // 8
    cuts = np.arange(eighth, means.size - eighth + 1)
    sums = np.cumsum(means - means.mean())[cuts - 1]
    best = int(cuts[np.argmax(sums * sums / (cuts * (means.size - cuts)))])
    return _is_sure(means, np.asarray(np.arange(means.size) >= best, np.float64), STEP_LEVEL)


def _is_sure(means: Floats, shape: Floats, level: float) -> bool:
    """Whether the means follow the shape by more than chance."""
    n, place, centred = means.size, shape - shape.mean(), means - means.mean()
    power = float(place @ place)
    slope = float(place @ centred) / power
    rest = centred - slope * place
    correlation = _unbiased(lag_one(rest), n)
    error = math.sqrt(float(rest @ rest) / (n - 2) / power * (1 + correlation) / (1 - correlation))
    return abs(slope) > student_t((1 + level) / 2, n - 2) * error


def _unbiased(left: float, n: int) -> float:
    """The correlation from one of n means to the next, by that of what a fit leaves of them.

    The fit takes the slowest ups and downs away, all the more the longer the memory, so it makes the correlation too low.
    The square's factor is from simulations: 2 is the least that keeps false alarms at one in twenty for every memory up to
    the whole run, and where the memory is below a fiftieth it costs no power that can be seen.
    """
    return min(0.98, max(0.0, left + 5 / n + 2 * max(0.0, left) ** 2))
