"""RunResult → what its weak and failed trials mean for the verdict, and how small a difference it could see; pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from tritonsmith.perf.report import numbers
from tritonsmith.perf.stats import ValidityLevel
from tritonsmith.perf.sweep.run_record import RunResult
from tritonsmith.perf.sweep.trial import TrialResult

MOST_POINTS = 4
_MEANING = {
    ValidityLevel.FAILED: "no request was answered, so they say nothing of the config but that",
    ValidityLevel.CLIENT_BOUND: (
        "the client was at its limit, not the server: what configs differ by there comes out smaller than it is"
    ),
    ValidityLevel.TOO_SHORT: (
        "few requests were answered: a p99 rests on a handful of them, and more time in each trial helps"
    ),
    ValidityLevel.UNSETTLED: (
        "rate or latency still moved, or scattered, within the trial. Every config met that in the same rounds, and "
        "the intervals are as wide as it made them: the verdict stands, a calmer machine would see smaller differences"
    ),
}


def trust_of(run: RunResult) -> list[str]:
    """Sentences, what weighs most first."""
    whole = [t for t in run.trials if t.summary is not None and not t.interrupted]
    return [*_failed(run), *_weak(run, whole), *_seen(run)]


def _failed(run: RunResult) -> Iterator[str]:
    lost = sum(t.summary is None for t in run.trials)
    if lost:
        yield (
            f"{lost:,} of {len(run.trials):,} trials gave no numbers; configs are compared over the rounds that have them."
        )


def _weak(run: RunResult, whole: Sequence[TrialResult]) -> Iterator[str]:
    if not whole:
        return
    weak: Counter[ValidityLevel] = Counter(
        t.summary.validity.verdict
        for t in whole
        if t.summary and t.summary.validity.verdict != ValidityLevel.VALID
    )
    if not weak:
        yield f"Each of the {len(whole):,} trials is steady enough to be believed by itself."
    for verdict, meaning in _MEANING.items():
        if weak[verdict]:
            loads = sorted(
                {t.trial.concurrency for t in whole if t.summary and t.summary.validity.verdict == verdict}
            )
            where = "" if run.spec.slo_p99_ms is not None else f" (concurrency {', '.join(map(str, loads))})"
            share = (
                "all" if weak[verdict] == len(whole) else f"{numbers.percent(weak[verdict] / len(whole))} of"
            )
            yield f"In {share} trials{where} {meaning}."


def _seen(run: RunResult) -> Iterator[str]:
    """By the median over the configs of the half-width of their intervals, and what the A/A pair differed by."""
    least: dict[int, float] = {}
    for point in run.verdict.points:
        halves = [
            math.log(one.ratio.interval.high / one.ratio.interval.low) / 2
            for one in point.arms.values()
            if one.ratio is not None and one.ratio.interval is not None and one.ratio.interval.low > 0
        ]
        if halves:
            least[point.concurrency] = math.expm1(
                float(np.median(halves)) + math.log1p(point.resolution or 0.0)
            )
    if not least:
        return
    ends = [_share(min(least.values())), _share(max(least.values()))]
    told = ", ".join(f"{_share(value)} {run.spec.where_words(at)}" for at, value in least.items())
    if len(least) > MOST_POINTS:
        told = f"{ends[0]} to {ends[1]}, by the load"
    yield f"The smallest difference that this run could tell: {told}."


def _share(value: float) -> str:
    return "more than double" if value > 1 else f"about {numbers.percent(value)}"
