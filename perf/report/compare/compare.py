"""Two sweep runs, or two load tests → what changed from A to B at each load point, with intervals; pure.

Two runs are not paired: what the machine did in one is not what it did in the other. So the spread of each
counts in full and the intervals are wider than inside a sweep, where arms share their rounds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import SerializerFunctionWrapHandler, model_serializer

from tritonsmith.builder.base.errors import UsageError, nearest
from tritonsmith.builder.base.text.tabular import Tabular
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.report.compare.sameness import (
    Difference,
    differences_of_records,
    differences_of_runs,
    load_of_records,
    load_of_run,
    not_comparable,
    notes_on_records,
    notes_on_runs,
)
from tritonsmith.perf.stats import Estimate, Interval, Summary, summarise
from tritonsmith.perf.stats.change import mover_change, share_change, welch_change
from tritonsmith.perf.stats.intervals import ends_of
from tritonsmith.perf.sweep.plan import Trial
from tritonsmith.perf.sweep.run_record import RunResult

Finding = Literal["regression", "improvement", "no difference", "unknown", "not comparable"]


@dataclass(frozen=True, slots=True)
class Metric:
    """better: +1 when more is better, -1 when less is. value: in ns, or inferences/s."""

    name: str
    better: int
    value: Callable[[Summary], float | None]


def _quantile(name: str) -> Metric:
    return Metric(name, -1, lambda s: s.latency_ns[name].value)


METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        Metric("throughput", +1, lambda s: s.throughput_per_s.value),
        *(_quantile(name) for name in ("p50", "p90", "p95", "p99", "p99.9")),
    )
}
FAILURES = "failures"
SHOWN = ("throughput", "p50", "p99")


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one load, from A to B.

    a, b:    the values, in ns, inferences/s or, for failures, the share of requests.
    change:  B / A - 1; for failures B - A, as shares. None when one of them has no value.
    interval: of the change, at a level that holds for all load points of the comparison together.
    resolution: A/A pairs inside the sweeps differed by this much at this metric and load; 0 without any.
    why:     what is missing, when something is.
    comparable: False where the runs did not measure the same; a and b then only stand beside each other.
    """

    metric: str
    a: float | None
    b: float | None
    change: float | None
    interval: Interval | None
    resolution: float = 0.0
    why: str | None = None
    comparable: bool = True

    @property
    def finding(self) -> Finding:
        """A difference is one when the interval excludes none by more than identical configs differed."""
        if not self.comparable:
            return "not comparable"
        if self.interval is None:
            return "unknown"
        low, high = 1 / (1 + self.resolution) - 1, self.resolution
        if self.interval.low <= high and self.interval.high >= low:
            return "no difference"
        more_is_better = self.metric != FAILURES and METRICS[self.metric].better > 0
        return "improvement" if (self.interval.low > high) == more_is_better else "regression"

    @model_serializer(mode="wrap")
    def _form(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data = plain(self)
        del data["interval"], data["comparable"]
        return {**data, **ends_of(self.interval, "level"), "finding": self.finding}


@dataclass(frozen=True, slots=True)
class Point:
    """All metrics of one config under one load; `arm` is empty for load tests."""

    arm: str
    load: str
    changes: tuple[Change, ...]

    @property
    def label(self) -> str:
        """`concurrency 8`, `count 2, concurrency 8`."""
        return f"{self.arm}, {self.load}" if self.arm else self.load


@dataclass(frozen=True, slots=True)
class Comparison(Tabular):
    """points: in order of arm and load. notes: what must be known to read it; weak measurements first.

    differences: what A and B do not have in common, of what makes a measurement the same; with any, no change is told.
    """

    model: str
    kind: Literal["sweeps", "load tests"]
    points: tuple[Point, ...]
    notes: tuple[str, ...]
    differences: tuple[Difference, ...] = ()

    def caption(self) -> str:
        """How often each finding was made; what could not be told is among them."""
        if self.differences:
            return not_comparable(self.differences)
        counts = Counter(change.finding for point in self.points for change in point.changes)
        return f"{self.model}, A → B: {', '.join(f'{n} × {finding}' for finding, n in counts.most_common())}"

    def rows(self) -> list[dict[str, Any]]:
        """One row a metric at each load point: A and B in the row's unit; change, low, high: fractions, 0.05 is 5 %."""
        return [
            {"arm": p.arm, "load": p.load, "metric": c.metric, **_in_unit(c)}
            for p in self.points
            for c in p.changes
        ]

    @property
    def findings(self) -> list[tuple[Point, Change]]:
        """Every regression, then every improvement."""
        all_ = [(p, c) for p in self.points for c in p.changes]
        return [pair for word in ("regression", "improvement") for pair in all_ if pair[1].finding == word]


def _in_unit(change: Change) -> dict[str, Any]:
    unit, scale = {FAILURES: ("share", 1.0), "throughput": ("inferences/s", 1.0)}.get(
        change.metric, ("ms", 1e-6)
    )
    return {
        "a": None if change.a is None else change.a * scale,
        "b": None if change.b is None else change.b * scale,
        "unit": unit,
        "change": change.change,
        "low": None if change.interval is None else change.interval.low,
        "high": None if change.interval is None else change.interval.high,
        "finding": change.finding,
        "why": change.why,
    }


# Load tests.


def compare_records(a: RequestRecords, b: RequestRecords, level: float = 0.95) -> Comparison:
    """Two load tests; without any change where they did not measure the same."""
    of_a, of_b = summarise(a, level), summarise(b, level)
    changes = [
        _record_change("throughput", of_a.throughput_per_s, of_b.throughput_per_s),
        *(_record_change(name, of_a.latency_ns[name], of_b.latency_ns[name]) for name in of_a.latency_ns),
        _failures([of_a], [of_b], level),
    ]
    weak = [
        f"{name} is {s.validity.verdict.value}: {'; '.join(s.validity.reasons)}"
        for name, s in (("A", of_a), ("B", of_b))
        if s.validity.verdict.value != "VALID"
    ]
    apart = (
        "A and B are one run each: the intervals hold the noise inside the runs, not what changed on the "
        "machine between them. Repeat A to see how much that is."
    )
    loads = dict.fromkeys(map(load_of_records, (a, b)))
    point = Point("", " / ".join(loads), tuple(changes))
    return _told(
        "load tests",
        b.header.model,
        [point],
        [*weak, *notes_on_records(a, b)],
        differences_of_records(a, b),
        apart,
    )


def _told(
    kind: Literal["sweeps", "load tests"],
    model: str,
    points: Sequence[Point],
    notes: Sequence[str],
    differences: tuple[Difference, ...],
    apart: str,
) -> Comparison:
    """The comparison. Where the runs did not measure the same, values stand beside each other and no change is told.

    apart: the note on what the intervals are of.
    """
    if not differences:
        return Comparison(model, kind, tuple(points), (*notes, apart))

    def bare(change: Change) -> Change:
        return Change(change.metric, change.a, change.b, None, None, why="not comparable", comparable=False)

    bared = tuple(replace(point, changes=tuple(map(bare, point.changes))) for point in points)
    return Comparison(model, kind, bared, tuple(notes), differences)


def _record_change(name: str, a: Estimate, b: Estimate) -> Change:
    change, interval = mover_change(a, b)
    why = f"A: {a.why}" if a.why else f"B: {b.why}" if b.why else None
    return Change(name, a.value, b.value, change, interval, why=why if interval is None else None)


# Sweeps.


def compare_runs(a: RunResult, b: RunResult, arm: str = "current", level: float = 0.95) -> Comparison:
    """Two sweeps at their common load points; without any change where they did not measure the same.

    arm: `current`, the current config of both, `all`, every config that both have, or one's label or id in A.
    """
    pairs = _arms(a, b, arm)
    points = [p for p in a.spec.concurrency if p in b.spec.concurrency]
    level_each = level ** (1 / (max(1, len(points)) * len(pairs)))
    compared = tuple(
        Point(
            label,
            load_of_run(a, point),
            _changes(a, b, ids_a, ids_b, point, level_each),
        )
        for label, ids_a, ids_b in pairs
        for point in points
    )
    apart = (
        "A and B were measured apart: no rounds are shared, so the spread of both counts in full and intervals "
        "are wider than inside a sweep. What changed on the machine between them is part of the difference."
    )
    if len(compared) > 1:
        apart += (
            f" Intervals of one metric hold for all {len(compared)} load points and configs together (Šidák)."
        )
    return _told(
        "sweeps", b.spec.model, compared, [*_run_notes(a, b, points)], differences_of_runs(a, b), apart
    )


Pair = tuple[str, tuple[str, ...], tuple[str, ...]]


def _arms(a: RunResult, b: RunResult, wanted: str) -> list[Pair]:
    """(label, ids in A, ids in B) of the arms to compare; the A/A pair counts as one."""
    baselines: list[Pair] = [
        (
            "current config",
            tuple(x.id for x in a.arms if x.baseline),
            tuple(x.id for x in b.arms if x.baseline),
        )
    ]
    if wanted == "current":
        return baselines
    there = {arm.label: arm.id for arm in b.arms if not arm.baseline}
    common: list[Pair] = [
        (arm.label, (arm.id,), (there[arm.label],))
        for arm in a.arms
        if not arm.baseline and arm.label in there
    ]
    if wanted == "all":
        return [*baselines, *common]
    found = [pair for pair in common if wanted in (pair[0], *pair[1])]
    if found:
        return found
    names = [name for pair in common for name in (pair[0], *pair[1])]
    close = nearest(wanted, names)
    raise UsageError(
        "no such arm in both runs",
        code="no_arm",
        seen=wanted,
        valid=["current", "all", *(pair[0] for pair in common)],
        fix=f"--arm '{close}'" if close else None,
    )


def _changes(
    a: RunResult, b: RunResult, ids_a: Sequence[str], ids_b: Sequence[str], point: int, level: float
) -> tuple[Change, ...]:
    changes = []
    for metric in METRICS.values():
        rounds_a, rounds_b = _rounds(a, ids_a, point, metric), _rounds(b, ids_b, point, metric)
        if not rounds_a or not rounds_b:
            name = "B" if rounds_a else "A"
            why = f"{name} has no measurement"
            changes.append(Change(metric.name, _mean(rounds_a), _mean(rounds_b), None, None, why=why))
            continue
        change, interval = welch_change(rounds_a, rounds_b, level)
        resolution = max(_resolution(run, point, metric) for run in (a, b))
        note = None if interval else "an interval needs two rounds in each run"
        changes.append(
            Change(metric.name, _mean(rounds_a), _mean(rounds_b), change, interval, resolution, note)
        )
    return (*changes, _failures(_summaries(a, ids_a, point), _summaries(b, ids_b, point), level))


def _mean(values: Sequence[float]) -> float | None:
    """Geometric."""
    return math.exp(float(np.log(values).mean())) if values else None


def _trials(run: RunResult, ids: Sequence[str], point: int) -> Iterator[tuple[Trial, Summary]]:
    for result in run.trials:
        is_one = result.trial.arm_id in ids and result.trial.concurrency == point
        if is_one and result.summary is not None and not result.interrupted:
            yield result.trial, result.summary


def _summaries(run: RunResult, ids: Sequence[str], point: int) -> list[Summary]:
    return [summary for _, summary in _trials(run, ids, point)]


def _rounds(run: RunResult, ids: Sequence[str], point: int, metric: Metric) -> list[float]:
    """One value a round: the geometric mean over the arms that are the same config."""
    by_round: dict[int, list[float]] = {}
    for trial, summary in _trials(run, ids, point):
        value = metric.value(summary)
        if value is not None and value > 0 and math.isfinite(value):
            by_round.setdefault(trial.round, []).append(value)
    return [mean for values in by_round.values() if (mean := _mean(values)) is not None]


def _resolution(run: RunResult, point: int, metric: Metric) -> float:
    """By how much the A/A pair differed, as a factor minus 1."""
    rounds = (_rounds(run, [arm.id], point, metric) for arm in run.arms if arm.baseline)
    means = [mean for one in rounds if (mean := _mean(one)) is not None]
    return max(means) / min(means) - 1 if len(means) > 1 else 0.0


def _failures(a: Sequence[Summary], b: Sequence[Summary], level: float) -> Change:
    counts = [(sum(sum(s.failures.values()) for s in side), sum(s.requests for s in side)) for side in (a, b)]
    if not all(n for _, n in counts):
        return Change(FAILURES, None, None, None, None, why="nothing was sent in one of them")
    change, interval = share_change(counts[0], counts[1], level)
    return Change(FAILURES, counts[0][0] / counts[0][1], counts[1][0] / counts[1][1], change, interval)


# Notes.


def _run_notes(a: RunResult, b: RunResult, points: Sequence[int]) -> Iterator[str]:
    for name, run in (("A", a), ("B", b)):
        if not run.complete:
            yield f"{name} did not come to its end: {run.stop_reason}"
        weak = sum(
            t.summary is not None
            and t.summary.validity.verdict.value != "VALID"
            and t.trial.concurrency in points
            for t in run.trials
        )
        if weak:
            yield f"{weak} of {len(run.trials)} trials of {name} are short of VALID; its report says why"
        left = [p for p in run.spec.concurrency if p not in points]
        if left:
            yield f"only {name} has concurrency {', '.join(map(str, left))}: not compared"
    yield from notes_on_runs(a, b)
