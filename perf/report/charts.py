"""RunResult + cells → the report's charts as SVG; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tritonsmith.perf.report import numbers
from tritonsmith.perf.report.cells import Cell
from tritonsmith.perf.report.columns import Column, Point
from tritonsmith.perf.report.svg import elements as svg
from tritonsmith.perf.report.svg import rows as svg_rows
from tritonsmith.perf.report.svg.pareto import front_of
from tritonsmith.perf.stats import Estimate, Ratio
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RunResult

Cells = Mapping[tuple[str, int], Cell]
MOST_ARMS = 7
STYLES = 7
LINEAR_SPAN = 12
TALLEST = 420
WORTH_A_CHART = 1.03
"""The largest value over the least: bars that are alike say nothing."""
_LONG_WORD = re.compile(r"\b[a-z]+_[a-z_]+\b")
SERVER_PARTS = (
    ("queue", "queue_ns"),
    ("compute input", "input_ns"),
    ("compute infer", "infer_ns"),
    ("compute output", "output_ns"),
)


def shown_arms(run: RunResult) -> list[Arm]:
    """The A/A pair and the best others, as many as a chart can hold apart; the table has them all."""
    measured = {t.trial.arm_id for t in run.trials if t.summary is not None}
    baselines = [arm for arm in run.arms if arm.baseline and arm.id in measured]
    others = [arm for arm in run.arms if not arm.baseline and arm.id in measured]
    kept = by_merit(run, others)[:MOST_ARMS]
    return [*baselines, *(arm for arm in others if arm in kept)]


def by_merit(run: RunResult, arms: Sequence[Arm]) -> list[Arm]:
    """The verdict's arm first, then those that are better somewhere, broken ones last; each by the highest ratio anywhere."""

    def merit(arm: Arm) -> tuple[bool, int, float]:
        found = [p.arms[arm.id] for p in run.verdict.points if arm.id in p.arms]
        outcomes = {one.outcome for one in found}
        group = (
            2 if "broken" in outcomes or arm.id in run.verdict.broken else 0 if "better" in outcomes else 1
        )
        height = max((one.ratio.value or 0.0 for one in found if one.ratio is not None), default=0.0)
        return arm.id != run.verdict.arm_id, group, -height

    return sorted(arms, key=merit)


def faded_arms(run: RunResult, arms: Sequence[Arm]) -> frozenset[str]:
    """Ids of those that stand back in a chart, so that the current config and the verdict's arm stand out."""
    told = run.verdict.arm_id
    return frozenset(arm.id for arm in arms if told is not None and not arm.baseline and arm.id != told)


def spread_points(run: RunResult, most: int) -> list[int]:
    """The load points, or as many, spread over them, the verdict's among them."""
    points, at = list(run.spec.concurrency), run.verdict.concurrency
    if len(points) <= most:
        return points
    kept = {round(i * (len(points) - 1) / max(1, most - 1)) for i in range(most)}
    if at in points and points.index(at) not in kept:
        kept.remove(min(kept, key=lambda place: abs(place - points.index(at))))
        kept.add(points.index(at))
    return [points[place] for place in sorted(kept)]


def ratios_at(run: RunResult, concurrency: int) -> dict[str, Ratio]:
    """Arm → its ratio to the current config at a load point, where there is one."""
    point = run.verdict.at(concurrency)
    found = {} if point is None else point.arms
    return {arm: one.ratio for arm, one in found.items() if one.ratio is not None}


def styles_of(arms: Sequence[Arm]) -> dict[str, int]:
    """Arm → number of its colour and marker; both arms of the A/A pair are 0, grey."""
    others = [arm.id for arm in arms if not arm.baseline]
    return {arm.id: 0 for arm in arms if arm.baseline} | {a: 1 + i % STYLES for i, a in enumerate(others)}


def row_labels(arms: Sequence[Arm]) -> dict[str, str]:
    """Arm → its label as a row has room for: `max_queue_delay 500 µs` → `delay 500 µs`, while all stay apart."""
    labels = {arm.id: arm.label for arm in arms}
    if max(map(len, labels.values()), default=0) <= svg_rows.ROW_CHARACTERS:
        return labels
    short = {
        id_: _LONG_WORD.sub(lambda m: m.group().rpartition("_")[2], text) for id_, text in labels.items()
    }
    return short if len(set(short.values())) == len(set(labels.values())) else labels


def legend(run: RunResult) -> list[tuple[str, str, int, bool]]:
    """(key as SVG, label, number of its style, whether it is faded) of each shown arm."""
    arms = shown_arms(run)
    styles, faded = styles_of(arms), faded_arms(run, arms)
    again = [arm.id for arm in arms if arm.baseline][1:]
    return [
        (
            svg.key(styles[arm.id], arm.id in again, arm.id in faded),
            arm.label,
            styles[arm.id],
            arm.id in faded,
        )
        for arm in arms
    ]


def forest(run: RunResult, concurrency: int) -> str | None:
    """Every arm's ratio to the current config at a load point."""
    verdict, known_ratios = run.verdict.at(concurrency), ratios_at(run, concurrency)
    ratios = [(arm, known_ratios[arm.id]) for arm in run.arms if arm.id in known_ratios]
    known = [(arm, r) for arm, r in ratios if r.value is not None]
    if not known or verdict is None:
        return None
    styles = styles_of(shown_arms(run))
    band = verdict.resolution or 0.0
    ends = [1 + band, 1 / (1 + band)]
    for _, ratio in known:
        assert ratio.value is not None
        ends += [ratio.value] if ratio.interval is None else [ratio.interval.low, ratio.interval.high]
    # One wild interval must not squeeze all others into a line.
    low, high = max(0.2, min([0.9, *ends])), min(5.0, max([1.1, *ends]))
    axis = svg.log_axis("times the current config", low, high, lambda v: f"{v:g}×")
    axis = svg.Axis(axis.label, axis.at, tuple((v, f"{v:g}×") for v in _ratio_ticks(axis, low, high)))
    labels = row_labels(run.arms)
    rows = []
    for arm, ratio in sorted(ratios, key=lambda pair: -(pair[1].value or 0.0)):
        between = numbers.times_span(ratio)
        note = f"{numbers.times(ratio)}  [{between}]" if between else numbers.times(ratio)
        point = None
        if ratio.value is not None:
            interval = ratio.interval
            point = svg.Point(
                ratio.value, 0, interval.low if interval else None, interval.high if interval else None, note
            )
        rows.append(
            (
                svg_rows.Row(labels[arm.id], note, _is_told(run, arm), numbers.times(ratio)),
                point,
                styles.get(arm.id, 0),
            )
        )
    return svg_rows.forest_chart("Each arm compared with the current config", rows, band, axis)


# In order of worth: a tick is drawn when it has room beside those before it.
_RATIO_TICKS = (1, 2, 0.5, 1.5, 0.75, 3, 0.25, 5, 1.2, 0.9, 1.1, 0.8, 1.3, 4, 0.6, 1.05, 0.95)


def _ratio_ticks(axis: svg.Axis, low: float, high: float) -> list[float]:
    kept: list[float] = []
    for value in _RATIO_TICKS:
        apart = all(abs(axis.at(value) - axis.at(other)) > 0.11 for other in kept)
        if low * 0.99 <= value <= high * 1.01 and apart:
            kept.append(value)
    return kept


def _series(
    run: RunResult, points_of: Callable[[Arm], Iterable[svg.Point]], joined: bool = True
) -> list[svg.Series]:
    """The shown arms' points; the second of the A/A pair is dashed."""
    arms = shown_arms(run)
    styles = styles_of(arms)
    again, faded = [arm.id for arm in arms if arm.baseline][1:], faded_arms(run, arms)
    return [
        svg.Series(
            arm.label,
            styles[arm.id],
            tuple(points_of(arm)),
            dashed=arm.id in again,
            joined=joined,
            faded=arm.id in faded,
        )
        for arm in arms
    ]


def _by_point(run: RunResult, cells: Cells, metric: str, unit: str, scale: float = 1.0) -> list[svg.Series]:
    """A metric of each arm over the load points."""

    def points_of(arm: Arm) -> Iterator[svg.Point]:
        for point in run.spec.concurrency:
            cell = cells.get((arm.id, point))
            estimate = cell.estimates[metric] if cell else None
            if estimate is not None and estimate.value is not None:
                yield _point(point, estimate, f"{arm.label} {run.spec.where_words(point)}", unit, scale)

    return _series(run, points_of)


def _point(x: float, estimate: Estimate, who: str, unit: str, scale: float) -> svg.Point:
    assert estimate.value is not None
    low, high = (None, None)
    if estimate.interval is not None:
        low, high = estimate.interval.low * scale, estimate.interval.high * scale
    value = estimate.value * scale
    between = "" if low is None or high is None else f" ({low:.4g} to {high:.4g})"
    return svg.Point(x, value, low, high, f"{who}: {value:.4g}{between} {unit}")


def _top(series: Sequence[svg.Series]) -> float:
    """The highest mark, with whiskers as far as they are not absurdly long."""
    marks = [p.y for s in series for p in s.points]
    ends = [min(p.high or p.y, 1.5 * max(marks)) for s in series for p in s.points] if marks else []
    return max([*marks, *ends], default=1.0)


def throughput(run: RunResult, cells: Cells) -> str | None:
    """Throughput by concurrency; of a language model output tokens by users."""
    by_tokens = run.spec.osl is not None
    name, unit = ("output_tokens_per_s", "tokens/s") if by_tokens else ("throughput_per_s", "inferences/s")
    series = _by_point(run, cells, name, unit)
    if not any(s.points for s in series):
        return None
    x = svg.ordinal_axis("users" if by_tokens else "concurrency", [float(c) for c in run.spec.concurrency])
    y = svg.linear_axis("", _top(series), numbers.short_count)
    ratios = ratios_at(run, run.verdict.concurrency or 0).values()
    beside = svg_rows.forest_height(sum(ratio.value is not None for ratio in ratios))
    return svg.xy_chart(
        "Output tokens a second by users" if by_tokens else "Throughput by concurrency",
        series,
        x,
        y,
        height=round(min(TALLEST, max(270, beside))),
    )


def latency(run: RunResult, cells: Cells, quantile: str) -> str | None:
    """A latency quantile by concurrency; also of a language model's times, `ttft_p50`."""
    series = _by_point(run, cells, f"{quantile}_ns", "ms", 1e-6)
    if not any(s.points for s in series):
        return None
    x = svg.ordinal_axis("concurrency", [float(c) for c in run.spec.concurrency])
    lowest, top = min(p.y for s in series for p in s.points), _top(series)
    if top > LINEAR_SPAN * lowest:  # the low load points would lie on the axis, all on top of each other
        ends = [p.low for s in series for p in s.points if p.low]
        y = svg.log_axis("", max(min([lowest, *ends]), lowest / 3), top, lambda v: f"{v:g}")
    else:
        y = svg.linear_axis("", top, lambda v: f"{v:g}")
    measure, _, of_tokens = quantile.partition("_")
    what = f"{measure.upper()} {of_tokens}" if of_tokens else f"{quantile} latency"
    return svg.xy_chart(f"{what} by concurrency", series, x, y)


def trade_off(run: RunResult, cells: Cells) -> str | None:
    """p99 latency over throughput: right and down is better."""
    shown = {arm.id for arm in shown_arms(run)}
    places: dict[tuple[str, int], tuple[float, float]] = {}
    for key, cell in cells.items():
        rate, p99_ns = cell.estimates["throughput_per_s"].value, cell.estimates["p99_ns"].value
        if key[0] in shown and rate is not None and p99_ns is not None:
            places[key] = (rate, p99_ns / 1e6)
    if not places:
        return None

    def points_of(arm: Arm) -> Iterator[svg.Point]:
        for concurrency in run.spec.concurrency:
            if (arm.id, concurrency) in places:
                rate, p99_ms = places[arm.id, concurrency]
                where = f"{arm.label} {run.spec.where_words(concurrency)}"
                yield svg.Point(rate, p99_ms, tip=f"{where}: {rate:,.0f}/s, p99 {p99_ms:.3g} ms")

    rates, latencies = zip(*places.values(), strict=True)
    x = svg.linear_axis("inferences per second", max(rates), numbers.short_count)
    y = svg.log_axis("", min(latencies), max(latencies), lambda v: f"{v:g}")
    front = [places[key] for key in front_of({key: cells[key] for key in places})]
    series = _series(run, points_of)
    return svg.xy_chart("p99 latency over throughput", series, x, y, dodge=0, front=front)


def probes(run: RunResult) -> str | None:
    """Of a search for the highest rate: p99 of every probe over its rate, and the limit."""
    limit_ms = run.spec.slo_p99_ms
    if limit_ms is None:
        return None

    def points_of(arm: Arm) -> Iterator[svg.Point]:
        for trial in run.trials:
            for probe in trial.slo.probes if trial.slo and trial.trial.arm_id == arm.id else ():
                if probe.p99_ms:
                    tip = f"{arm.label}, {probe.rate_per_s:,.0f}/s: {probe.why}"
                    yield svg.Point(probe.rate_per_s, probe.p99_ms, tip=tip)

    series = _series(run, points_of, joined=False)
    rates = [p.x for one in series for p in one.points]
    if not rates:
        return None
    latencies = [p.y for one in series for p in one.points]
    x = svg.log_axis("requests per second", min(rates), max(rates), numbers.short_count)
    most = max(limit_ms, *(min(value, 50 * limit_ms) for value in latencies))
    y = svg.log_axis("", min(limit_ms, *latencies), most, lambda v: f"{v:g}")
    return svg.xy_chart("p99 latency of every probe by request rate", series, x, y, dodge=0, limit=limit_ms)


def server_time(run: RunResult, cells: Cells, concurrency: int) -> str | None:
    """Where a request spends its time inside the server, by arm."""
    labels = row_labels(run.arms)
    rows = []
    for arm in shown_arms(run):
        cell = cells.get((arm.id, concurrency))
        if cell is None or cell.server is None:
            continue
        server = cell.server
        segments = [(f"part{i}", getattr(server, name) / 1e6) for i, (_, name) in enumerate(SERVER_PARTS)]
        note = f"{numbers.milliseconds(server.total_ns)} ms"
        rows.append((svg_rows.Row(labels[arm.id], note, _is_told(run, arm)), segments))
    if not rows:
        return None
    top = max(sum(value for _, value in segments) for _, segments in rows)
    axis = svg.linear_axis("mean ms a request inside the server", top, lambda v: f"{v:g}")
    return svg_rows.bar_rows("Time inside the server by arm", rows, axis)


def batch_sizes(run: RunResult, cells: Cells, concurrency: int) -> str | None:
    """Batch sizes that the server really ran, as shares of its executions."""
    arms = shown_arms(run)
    styles, labels = styles_of(arms), row_labels(run.arms)
    rows = []
    for arm in arms:
        cell = cells.get((arm.id, concurrency))
        if cell is None or cell.server is None or not cell.server.batches:
            continue
        total = sum(cell.server.batches.values())
        bars = [(size, count / total) for size, count in cell.server.batches.items()]
        mean = cell.server.mean_batch
        note = "" if mean is None else f"mean {mean:.1f}"
        rows.append((svg_rows.Row(labels[arm.id], note, _is_told(run, arm)), bars, styles[arm.id]))
    if not rows:
        return None
    largest = max(size for _, bars, _ in rows for size, _ in bars)
    sizes = list(range(1, largest + 1)) if largest <= 64 else sorted({s for _, b, _ in rows for s, _ in b})
    return svg_rows.histogram_rows("Realised batch sizes by arm", rows, sizes, "batch size")


def _is_told(run: RunResult, arm: Arm) -> bool:
    """Whether the verdict's sentence is about it."""
    return arm.id == run.verdict.arm_id


def cost_chart(run: RunResult, cells: Cells, concurrency: int, column: Column) -> str | None:
    """A bar a config at the load point; None when they are all alike, or fewer than two were measured."""
    chart = column.chart
    assert chart is not None
    labels, shown = row_labels(run.arms), shown_arms(run)
    values = [
        (arm, value)
        for arm in shown
        if (cell := cells.get((arm.id, concurrency)))
        and (value := column.of(Point(run, arm, concurrency, cell)))
    ]
    most, least = max((v for _, v in values), default=0.0), min((v for _, v in values), default=0.0)
    if len(values) < 2 or most < WORTH_A_CHART * least:
        return None
    styles = styles_of(shown)
    rows = [
        (
            svg_rows.Row(labels[arm.id], column.text(value), _is_told(run, arm)),
            [(f"fill c{styles[arm.id]}", value * chart.scale)],
        )
        for arm, value in values
    ]
    axis = svg.linear_axis(chart.axis, most * chart.scale, lambda v: f"{v:g}")
    return svg_rows.bar_rows(chart.heading, rows, axis)
