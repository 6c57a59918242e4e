"""Values of two or more arms over interleaved rounds → ratios with intervals; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import model_serializer, model_validator

from tritonsmith.perf.stats.intervals import Estimate, Floats, Interval, ends_of, student_t, with_interval

Bools = npt.NDArray[np.bool_]
MANY_ROUNDS = 1000
WIDEST = 300.0
"""Half an interval of a logarithm, at most: with one degree of freedom and thousands of comparisons it leaves the floats."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as much one arm gives as another.

    value:    geometric mean over the rounds; None when no round has both.
    interval: None with fewer than two rounds; then `why` says so.
    """

    value: float | None
    interval: Interval | None = None
    why: str | None = None

    _read = model_validator(mode="before")(with_interval)

    @model_serializer
    def _form(self) -> dict[str, Any]:
        return {"value": self.value, **ends_of(self.interval, "level"), "why": self.why}


def ratio_interval(a_rounds: Sequence[float], b_rounds: Sequence[float], level: float = 0.95) -> Ratio:
    """a / b from values measured in the same rounds, with a paired t interval on the log ratios.

    Pairing by round takes the drift that both arms saw out of the comparison; the logarithm makes a/b and
    b/a the same finding. At three to eight rounds a bootstrap has too few values to resample and covers
    well below its level; t keeps it (tests/perf/stats/test_stats.py simulates both).
    """
    if len(a_rounds) != len(b_rounds):
        raise ValueError(f"the arms have {len(a_rounds)} and {len(b_rounds)} rounds")
    a, b = np.asarray(a_rounds, dtype=np.float64), np.asarray(b_rounds, dtype=np.float64)
    both = (a > 0) & (b > 0) & np.isfinite(a) & np.isfinite(b)
    logs = np.log(a[both]) - np.log(b[both])
    if logs.size == 0:
        return Ratio(None, None, "no round measured both arms")
    centre = float(logs.mean())
    if logs.size < 2:
        return Ratio(math.exp(centre), None, "an interval needs two rounds, one was measured")
    half = min(
        student_t((1 + level) / 2, logs.size - 1) * float(logs.std(ddof=1)) / math.sqrt(logs.size), WIDEST
    )
    return Ratio(math.exp(centre), Interval(math.exp(centre - half), math.exp(centre + half), level))


def times_end(value: float) -> str:
    """An end of a ratio's interval as text; beyond a hundredfold the digits say nothing."""
    return f"{value:.2f}" if value < 100 else ">99"


@dataclass(frozen=True, slots=True)
class RoundTable:
    """Log values, arms × rounds, as the model log value = arm + round + noise fits them.

    logs:   NaN where an arm was not measured in a round.
    effect: log value of each arm in an average round; NaN for an arm without values.
    rounds: log factor of each round, 0 on average.
    pooled_variance, df: of the noise of one value, and how many values stand behind it.
    """

    logs: Floats
    effect: Floats
    rounds: Floats
    unscaled: Floats
    pooled_variance: float
    df: int


def fit_rounds(values: Floats) -> RoundTable:
    """Fit arms × rounds of positive values; NaN and values ≤ 0 are holes, as a failed trial leaves.

    This is the randomised complete block analysis on logs. Its gain over pairs is that all arms tell
    how noisy the machine is: with 5 arms and 3 rounds t has 8 degrees of freedom instead of 2.
    """
    positive = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    logs: Floats = np.log(positive)
    known = np.isfinite(logs)
    of_arms: Bools = np.atleast_1d(known.any(axis=1))
    of_rounds: Bools = np.atleast_1d(known.any(axis=0))
    if known.sum() == of_arms.sum() * of_rounds.sum():
        return _whole(logs, of_arms, of_rounds)
    arms, rounds = logs.shape
    row, column = np.nonzero(known)
    measured = row.size
    design = np.zeros((measured, arms + rounds))
    design[np.arange(measured), row] = 1
    design[np.arange(measured), arms + column] = 1
    # Arms and rounds share one constant, so the normal equations are singular. Their other eigenvalues are counts of
    # values, far above the cut. Of 200 arms this takes milliseconds, singular values of the design take half a second.
    eigenvalues, vectors = np.linalg.eigh(design.T @ design)
    kept = eigenvalues > 1e-10 * eigenvalues.max(initial=1.0)
    inverse = (vectors[:, kept] / eigenvalues[kept]) @ vectors[:, kept].T
    solution = inverse @ design.T @ logs[row, column]
    residual = logs[row, column] - design @ solution
    df = measured - int(kept.sum()) if measured else 0
    variance = float(residual @ residual) / df if df > 0 else math.nan
    average = float(solution[arms:][of_rounds].mean()) if of_rounds.any() else 0.0
    effect = solution[:arms] + average
    effect[~of_arms] = np.nan
    return RoundTable(logs, effect, solution[arms:] - average, inverse[:arms, :arms], variance, df)


def _whole(logs: Floats, of_arms: Bools, of_rounds: Bools) -> RoundTable:
    """The same where every arm that was measured was so in every round: means of rows and columns, without equations.

    unscaled is right for comparisons, whose weights add up to 0.
    """
    grid = logs[np.ix_(of_arms, of_rounds)]
    effect, rounds = np.full(of_arms.size, np.nan), np.zeros(of_rounds.size)
    if not grid.size:
        return RoundTable(logs, effect, rounds, np.zeros((of_arms.size, of_arms.size)), math.nan, 0)
    effect[of_arms] = grid.mean(axis=1)
    rounds[of_rounds] = grid.mean(axis=0) - grid.mean()
    residual = grid - effect[of_arms, None] - rounds[None, of_rounds]
    df = (grid.shape[0] - 1) * (grid.shape[1] - 1)
    variance = float((residual**2).sum()) / df if df > 0 else math.nan
    return RoundTable(logs, effect, rounds, np.eye(of_arms.size) / grid.shape[1], variance, df)


def arm_ratio(
    table: RoundTable, arm: int, baselines: Sequence[int], level: float = 0.95, comparisons: int = 1
) -> Ratio:
    """The ratio of an arm to the mean of the baselines, at a level that holds for all comparisons at once.

    comparisons: how many such ratios are looked at for the best; the interval is Šidák's, so that the
    chance that any of them misses stays 1 - level.

    The variance is the pooled one, unless this arm's own differences to the baseline are noisier; then
    both count by their degrees of freedom: an unsteady arm must not borrow the calm of the others.
    """
    weights = np.zeros(table.effect.size)
    weights[arm] += 1
    for baseline in baselines:
        weights[baseline] -= 1 / len(baselines)
    involved = np.nonzero(weights)[0]
    if involved.size == 0:
        return Ratio(1.0, Interval(1.0, 1.0, level))
    if np.isnan(table.effect[involved]).any():
        return Ratio(None, None, "an arm of the comparison has no measurement")
    centre = float(weights[involved] @ table.effect[involved])
    if table.df < 1:
        return Ratio(math.exp(centre), None, "an interval needs two rounds, one was measured")
    leverage = float(weights @ table.unscaled @ weights)
    variance, df = _moderated(table, weights)
    single = level ** (1 / max(1, comparisons))
    half = min(student_t((1 + single) / 2, df) * math.sqrt(max(0.0, leverage * variance)), WIDEST)
    return Ratio(math.exp(centre), Interval(math.exp(centre - half), math.exp(centre + half), level))


def arm_level(table: RoundTable, arm: int, level: float = 0.95) -> Estimate:
    """An arm's value in an average round. What all arms saw alike in a round is not part of the interval.

    So it is an interval for looking from one arm to another, not for the value on another day.
    """
    rounds = int(np.isfinite(table.logs[arm]).sum())
    if rounds == 0:
        return Estimate(None, None, "not measured")
    centre = float(table.effect[arm])
    if table.df < 1:
        return Estimate(math.exp(centre), None, "an interval needs two rounds, one was measured")
    weights = np.zeros(table.effect.size)
    weights[arm] = 1
    variance, df = _moderated(table, weights)
    half = student_t((1 + level) / 2, df) * math.sqrt(variance / rounds)
    return Estimate(math.exp(centre), Interval(math.exp(centre - half), math.exp(centre + half), level))


def _moderated(table: RoundTable, weights: Floats) -> tuple[float, int]:
    """Variance of one log value and its degrees of freedom, for the arms that carry weight."""
    involved = np.nonzero(weights)[0]
    differences = weights[involved] @ (table.logs[involved] - (table.rounds if involved.size == 1 else 0.0))
    differences = differences[np.isfinite(differences)]
    own_df = differences.size - 1
    if own_df < 1:
        return table.pooled_variance, table.df
    own = float(differences.var(ddof=1)) / float(weights @ weights)
    if own <= table.pooled_variance:
        return table.pooled_variance, table.df
    # The worse the two agree, the less the calm of the other arms is worth as a witness.
    df = own_df + table.df * (table.pooled_variance / own) ** 2
    return own, max(1, int(df))


def more_rounds(ratio: Ratio, rounds: int, resolution: float, margin: float) -> int | None:
    """How many rounds more would decide whether the ratio is beyond what an A/A pair shows or within the margin.

    resolution: by what factor minus 1 the A/A pair differed; margin: the difference that does not matter.

    The ratio is taken to stay as it is; the interval's half-width and the A/A difference shrink with the square root of the
    rounds. (Student's t shrinks a little faster, so few rounds are overestimated.) None: no interval yet, or > MANY_ROUNDS.
    """
    if ratio.interval is None or ratio.value is None or rounds < 1:
        return None
    centre = abs(math.log(ratio.value))
    half = (math.log(ratio.interval.high) - math.log(ratio.interval.low)) / 2
    if not 0 < half < math.inf:
        return None
    shrunk = max(centre / (half + math.log1p(resolution)), (math.log1p(margin) - centre) / half)
    more = rounds / shrunk**2 - rounds
    return None if more > MANY_ROUNDS else max(1, math.ceil(more))
