"""RunResult and the request records in its directory → each shown config's trials over time and its latencies, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.records.record import RequestRecords, load_records
from tritonsmith.perf.report import numbers
from tritonsmith.perf.report.cells import OfTrial
from tritonsmith.perf.report.charts import LINEAR_SPAN, STYLES, shown_arms, spread_points
from tritonsmith.perf.report.svg import elements as svg
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RECORDS, RunResult
from tritonsmith.perf.sweep.trial import TrialResult
from tritonsmith.perf.tokens.metrics import chunk_gaps_ns, times_to_first_ns

MOST_FILES = 8
"""Record files that are read for one config at one load point, spread over its rounds."""
MOST_MARKS = 150
"""A chart with more trials has lines alone: each mark has its text, and the page would grow by megabytes."""
CURVE_POINTS = 60
_SHARES = np.concatenate([np.linspace(0.0, 0.9, 37), 1 - np.geomspace(0.09, 0.0005, CURVE_POINTS - 37)])

Milliseconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ConfigDetails:
    """One config. legend: (key as SVG, load point). charts: (heading, SVG)."""

    label: str
    legend: tuple[tuple[str, str], ...]
    charts: tuple[tuple[str, str], ...]


def details_of(run: RunResult) -> list[ConfigDetails]:
    """A colour a load point. Of the configs that the page's charts have; 200 of them would be a page that no browser likes."""
    started_s = _started_s(run)
    points = {point: style for style, point in enumerate(spread_points(run, STYLES), start=1)}
    base = next((arm for arm in run.arms if arm.baseline), None)
    at = run.verdict.concurrency
    at = at if base is not None and at in points else None
    rate = _RATE if run.spec.osl is None else _TOKEN_RATE
    details = []
    for arm in shown_arms(run):
        drawn = [
            (heading, chart)
            for heading, value_of, text in (rate, *_LATENCIES)
            if (chart := _over_time(run, arm, points, started_s, heading, value_of, text))
        ]
        of_language = _TOKEN_TIMES if run.spec.osl is not None else ()
        curves = [
            (heading, _cdf(run, arm, points, times, base, at)) for heading, times in (_ANSWERED, *of_language)
        ]
        drawn += [(heading, cdf) for heading, cdf in curves if cdf is not None]
        cdf = curves[0][1]
        legend = [
            (svg.key(style), run.spec.where_words(point).removeprefix("at "))
            for point, style in points.items()
        ]
        if cdf is not None and at is not None and arm is not base:
            legend.append((svg.key(0, dashed=True), f"current config {run.spec.where_words(at or 0)}"))
        if drawn:
            details.append(ConfigDetails(arm.label, tuple(legend), tuple(drawn)))
    return details


def _rate(trial: TrialResult) -> float | None:
    return None if trial.summary is None else trial.summary.throughput_per_s.value


def _token_rate(trial: TrialResult) -> float | None:
    return None if trial.tokens is None else trial.tokens.output_tokens_per_s.value


def _milliseconds(quantile: str) -> OfTrial:
    def value_ms(trial: TrialResult) -> float | None:
        value_ns = None if trial.summary is None else trial.summary.latency_ns[quantile].value
        return None if value_ns is None else value_ns / 1e6

    return value_ms


_RATE = ("Inferences/s of each trial", _rate, numbers.short_count)
_TOKEN_RATE = ("Output tokens/s of each trial", _token_rate, numbers.short_count)
_LATENCIES: Sequence[tuple[str, OfTrial, Callable[[float], str]]] = (
    ("p50 of each trial, ms", _milliseconds("p50"), lambda v: f"{v:g}"),
    ("p99 of each trial, ms", _milliseconds("p99"), lambda v: f"{v:g}"),
)


def _started_s(run: RunResult) -> dict[int, float]:
    """Trial number → seconds of measuring before it, all configs' trials one after another."""
    started, passed_s = {}, 0.0
    for result in run.trials:
        started[result.trial.number] = passed_s
        passed_s += result.took_s
    return started


def _trials(run: RunResult, arm: Arm, point: int) -> list[TrialResult]:
    return [
        t
        for t in run.trials
        if t.trial.arm_id == arm.id and t.trial.concurrency == point and t.summary and not t.interrupted
    ]


def _over_time(
    run: RunResult,
    arm: Arm,
    points: dict[int, int],
    started_s: dict[int, float],
    heading: str,
    value_of: OfTrial,
    text: Callable[[float], str],
) -> str | None:
    """A line a load point: a drift shows as a slope, a stall as one mark away from the others."""

    def marks(point: int) -> Iterator[svg.Point]:
        for t in _trials(run, arm, point):
            value = value_of(t)
            if value is not None and value > 0:
                x = started_s[t.trial.number]
                where = run.spec.where_words(point)
                yield svg.Point(x, value, tip=f"{x:.0f} s, {where}, round {t.trial.round + 1}: {value:.4g}")

    found = {point: tuple(marks(point)) for point in points}
    values = [p.y for line in found.values() for p in line]
    if len(values) < 2:
        return None
    marked = len(values) <= MOST_MARKS
    lines = [
        svg.Series(run.spec.where_words(point), points[point], line, marked=marked)
        for point, line in found.items()
    ]
    x = svg.linear_axis("seconds of measuring", max(started_s.values()) or 1.0, lambda v: f"{v:g}")
    if max(values) > LINEAR_SPAN * min(values):
        y = svg.log_axis("", min(values), max(values), text)
    else:
        y = svg.linear_axis("", max(values), text)
    return svg.xy_chart(heading, lines, x, y, height=200, dodge=0)


Times = Callable[[RequestRecords], npt.NDArray[Any]]
"""Records of answered requests → nanoseconds."""

_ANSWERED: tuple[str, Times] = (
    "Share of the requests answered within (ms)",
    lambda records: records.latency_ns,
)
_TOKEN_TIMES: Sequence[tuple[str, Times]] = (
    ("Share of the requests whose first token came within (ms)", times_to_first_ns),
    ("Share of the chunks that came so long after the one before (ms)", chunk_gaps_ns),
)


def latencies_ms(
    run: RunResult, arm: Arm, point: int | None, times: Times = _ANSWERED[1]
) -> Milliseconds | None:
    """Times of the measurements' answered requests, from the records that can be read; None where there are none."""
    if run.directory is None or point is None:
        return None
    trials = _trials(run, arm, point)
    kept = {round(i) for i in np.linspace(0, len(trials) - 1, min(MOST_FILES, len(trials)))}
    files = [run.directory / RECORDS / f"{trials[i].trial.number:04d}.npz" for i in sorted(kept)]
    parts = [part for file in files if file.is_file() for part in _read(file, times)]
    return np.concatenate(parts) if parts else None


def _read(file: Path, times: Times) -> Iterator[Milliseconds]:
    """Nothing for a file that is not whole: a report is made of what there is."""
    try:
        measured = load_records(file).measured()
    except TritonsmithError:
        return
    if measured.ok.any() and (found := times(measured.select(measured.ok))).size:
        yield found / 1e6


def _cdf(
    run: RunResult, arm: Arm, points: dict[int, int], times: Times, base: Arm | None, at: int | None
) -> str | None:
    """A curve a load point, and of another than `base` also that one's, dashed, at one load point."""
    curves = [
        (run.spec.where_words(point), style, found)
        for point, style in points.items()
        if (found := latencies_ms(run, arm, point, times)) is not None
    ]
    if not curves:
        return None
    beside = latencies_ms(run, base, at, times) if base is not None and arm is not base else None
    if beside is not None:
        curves.append(("current config", 0, beside))
    lines = []
    for label, style, values_ms in curves:
        shares = _SHARES[1 - 1 / len(values_ms) >= _SHARES]
        at_ms = np.quantile(values_ms, shares)
        curve = tuple(svg.Point(float(a), float(s)) for a, s in zip(at_ms, shares, strict=True) if a > 0)
        lines.append(svg.Series(label, style, curve, dashed=style == 0, marked=False))
    ends = [p.x for line in lines for p in line.points]
    if not ends:
        return None
    x = svg.log_axis("ms", min(ends), max(ends), lambda v: f"{v:g}")
    y = svg.linear_axis("", 1.0, lambda v: f"{v:.0%}")
    return svg.xy_chart("Distribution of times", lines, x, y, height=200, dodge=0)
