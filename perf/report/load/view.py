"""RequestRecords + Summary of one load test → everything that its report prints; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np

from tritonsmith.perf.load.result import result_from_records
from tritonsmith.perf.load.text import observed_of
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.schedule import load_from_dict, load_label
from tritonsmith.perf.report import numbers
from tritonsmith.perf.report.columns import Column, columns_in
from tritonsmith.perf.report.svg import elements as svg
from tritonsmith.perf.stats import Estimate, Summary
from tritonsmith.perf.tokens.metrics import TokenSummary, is_by_tokens, summarise_tokens

MOST_BINS = 40
REQUESTS_A_BIN = 20
TAIL = (0.5, 0.9, 0.99, 0.999, 0.9999)


def load_view(records: RequestRecords, summary: Summary) -> dict[str, Any]:
    """The variables of load_report.html.j2 and load_report.md.j2."""
    header = records.header
    verdict = summary.validity.verdict.value
    kept = _kept(records, summary)
    return {
        "title": f"Load test of {header.model}",
        "load": load_label(load_from_dict(header.load)),
        "headline": verdict,
        "sentence": _sentence(summary),
        "reasons": list(summary.validity.reasons),
        "recommendation": summary.validity.recommendation,
        "notes": list(summary.validity.notes),
        "facts": _facts(records, summary),
        "alarms": _alarms(records),
        "rows": rows_of(summary, records),
        "failures": records.failures(),
        "charts": {
            "latency": latency_over_time(kept),
            "throughput": throughput_over_time(kept),
            "quantiles": quantile_chart(kept, summary),
        },
        "environment": _environment(records, summary),
        "number": numbers,
    }


def rows_of(summary: Summary, records: RequestRecords | None = None) -> list[dict[str, Any]]:
    """metric, text, value, low, high, unit, why: every estimate of the summary, ready to print and as numbers.

    records: of a load by tokens tell these, too.
    """
    rows = [_row("throughput", summary.throughput_per_s, "inferences/s", numbers.rate)]
    rows += [_row(f"latency {n}", e, "ns", numbers.milliseconds) for n, e in summary.latency_ns.items()]
    rows.append(_row("latency mean", summary.mean_latency_ns, "ns", numbers.milliseconds))
    if summary.max_latency_ns is not None:
        rows.append(_row("latency max", Estimate(summary.max_latency_ns), "ns", numbers.milliseconds))
    for name, per_s in (("sent", summary.sent_bytes_per_s), ("received", summary.received_bytes_per_s)):
        if per_s is not None:
            rows.append(_row(name, Estimate(per_s / 1e6), "MB/s", numbers.rate))
    if summary.goodput is not None:
        rows.insert(1, _row("goodput", summary.goodput.per_s, "inferences/s", numbers.rate))
    for step in summary.steps:
        rows.append(
            _row(f"at {step.load:g}: throughput", step.throughput_per_s, "inferences/s", numbers.rate)
        )
        rows += [
            _row(f"at {step.load:g}: latency {n}", step.latency_ns[n], "ns", numbers.milliseconds)
            for n in ("p50", "p99")
        ]
    rows += [
        _row(f"first response {n}", e, "ns", numbers.milliseconds) for n, e in summary.first_byte_ns.items()
    ]
    if summary.streaming is not None:
        rows.append(_row("responses", summary.streaming.responses_per_s, "responses/s", numbers.rate))
        rows += [
            _row(f"{name} {n}", series[n], "ns", numbers.milliseconds)
            for name, series in (
                ("between responses", summary.streaming.inter_response_ns),
                ("longest gap", summary.streaming.longest_gap_ns),
            )
            for n in ("p50", "p99")
        ]
    if records is not None and is_by_tokens(records):
        rows[:0] = _token_rows(summarise_tokens(records, summary))
    for column in columns_in("load"):
        if column.metric is not None:
            alone = Estimate(column.metric(summary), why="of the whole test at once, without an interval")
            rows.append(_row(column.heading, alone, _unit(column), column.text))
    return rows


def _token_rows(tokens: TokenSummary) -> list[dict[str, Any]]:
    rows = [
        _row("output tokens", tokens.output_tokens_per_s, "tokens/s", numbers.rate),
        _row("output tokens a user p50", tokens.per_user_per_s["p50"], "tokens/s", numbers.rate),
    ]
    for name, series in (
        ("TTFT", tokens.ttft_ns),
        ("ITL", tokens.itl_ns),
        ("between chunks", tokens.chunk_gap_ns),
        ("end-to-end", tokens.e2e_ns),
    ):
        rows += [_row(f"{name} {n}", e, "ns", numbers.milliseconds) for n, e in series.items()]
    return rows


def _unit(column: Column) -> str:
    return "ns" if column.name.endswith("_ns") else column.unit


def _row(name: str, e: Estimate, unit: str, text: Callable[[float | None], str]) -> dict[str, Any]:
    low, high = (e.interval.low, e.interval.high) if e.interval else (None, None)
    shown = "ms" if unit == "ns" else unit
    between = f"{text(low)}–{text(high)}" if e.interval else ""
    return {
        "metric": name, "text": text(e.value), "between": between, "shown": shown,
        "value": e.value, "low": low, "high": high, "unit": unit, "why": e.why,
    }  # fmt: skip


def _sentence(summary: Summary) -> str:
    rate, p50, p99 = summary.throughput_per_s, summary.latency_ns["p50"], summary.latency_ns["p99"]
    if rate.value is None or p50.value is None:
        return "Nothing was answered: there is no number to give."
    text = f"{numbers.rate(rate.value)} inferences/s"
    if rate.interval is not None:
        text += f" (95 % interval {numbers.span(rate, numbers.rate)})"
    text += f", p50 {numbers.milliseconds(p50.value)} ms, p99 {numbers.milliseconds(p99.value)} ms"
    return f"{text} ({numbers.span(p99, numbers.milliseconds)})." if p99.interval else f"{text}."


def _facts(records: RequestRecords, summary: Summary) -> list[str]:
    header = records.header
    started = datetime.fromtimestamp(header.started_unix_ns / 1e9, timezone.utc)
    return [
        load_label(load_from_dict(header.load)),
        header.protocol,
        f"{summary.requests:,} requests in {summary.duration_s:.1f} s",
        *([f"{started:%Y-%m-%d %H:%M} UTC"] if header.started_unix_ns else []),
    ]


def _alarms(records: RequestRecords) -> list[str]:
    found = []
    failures = records.failures()
    if failures:
        total, worst = sum(failures.values()), next(iter(failures))
        found.append(
            f"{total:,} of {len(records):,} requests failed; most often: {worst} ({failures[worst]:,})."
        )
    found += [f"{text}: the numbers are not the model's." for text in result_from_records(records).died]
    if records.header.interrupted:
        found.append("Interrupted before its time; the numbers are of what was done.")
    return found


def _environment(records: RequestRecords, summary: Summary) -> list[tuple[str, str]]:
    header, e = records.header, records.header.environment
    lag = summary.send_lag_ns
    cpu = "?" if summary.client_cpu_share is None else numbers.percent(summary.client_cpu_share)
    batch = "/".join(str(size) for size in sorted(set(header.batch_sizes)))
    software = f"tritonsmith {e.get('tritonsmith', '?')}, Python {e.get('python', '?')}"
    machine = f"{e.get('platform', '?')}, {e.get('cpus', '?')} CPUs"
    busy = e.get("load_average_1min")
    rows = [
        ("Model", header.model),
        ("Server", f"{e.get('server', '?')} at {header.url}"),
        ("Client", f"{software}, {header.processes} process{'es' if header.processes > 1 else ''}"),
        ("Client CPU", f"{cpu} of a core each"),
        ("Client machine", machine if busy is None else f"{machine}, load average {busy:.2f} at the start"),
        ("Requests", f"{len(header.batch_sizes)} different ones, batch size {batch}"),
    ]
    if header.load.get("kind") != "closed":
        rows.append(("Sent", f"{summary.sent_per_s:,.1f}/s of {summary.scheduled_per_s:,.1f}/s due"))
        lags = [numbers.milliseconds(lag[name]) for name in ("p50", "p99", "max")]
        rows.append(("Send lag", f"p50 {lags[0]} ms, p99 {lags[1]} ms, largest {lags[2]} ms"))
    if summary.warmup_requests:
        rows.append(("Warm-up found", f"{summary.warmup_requests:,} requests, {summary.warmup_s:.2f} s"))
    if header.checked:
        rows.append(("Answers checked", f"{header.checked:,}"))
    if header.observed:
        seen = observed_of(result_from_records(records))
        rows += [(_OBSERVED[name], text) for name, text in seen.items()]
    return [*rows, ("Seed", str(header.seed))]


_OBSERVED = {"server": "The server itself", "members": "The ensemble's members", "used": "The server used"}


# Charts.


def _kept(records: RequestRecords, summary: Summary) -> RequestRecords:
    """The rows of the measurement: what the summary is of."""
    measured = records.measured()
    return measured.select(slice(max(0, len(measured) - summary.requests), None))


def _bins(records: RequestRecords) -> tuple[Any, Any, float] | None:
    """(bin of each answered row by its end, seconds of each bin's middle, seconds of a bin); None: too few."""
    answered = records.select(records.ok)
    count = min(MOST_BINS, len(answered) // REQUESTS_A_BIN)
    if count < 4:
        return None
    begin_ns, end_ns = int(answered.end_ns.min()), int(answered.end_ns.max())
    width_s = max(1, end_ns - begin_ns) / 1e9 / count
    place = np.minimum(((answered.end_ns - begin_ns) / 1e9 / width_s).astype(np.int64), count - 1)
    return place, (np.arange(count) + 0.5) * width_s, width_s


def latency_over_time(records: RequestRecords) -> str | None:
    """p50 and p99 of the requests that ended in each stretch."""
    bins = _bins(records)
    if bins is None:
        return None
    place, middles, _ = bins
    latency_ms = records.latency_ns[records.ok] / 1e6
    lines = []
    for style, (name, share) in enumerate((("p50", 0.5), ("p99", 0.99)), start=1):
        points = []
        for position, middle_s in enumerate(middles):
            inside = latency_ms[place == position]
            if inside.size:
                value = float(np.quantile(inside, share))
                points.append(
                    svg.Point(float(middle_s), value, tip=f"{middle_s:.2f} s: {name} {value:.3g} ms")
                )
        lines.append(svg.Series(name, style, tuple(points)))
    return _time_chart("Latency over time", lines, middles)


def throughput_over_time(records: RequestRecords) -> str | None:
    """Inferences answered a second in each stretch."""
    bins = _bins(records)
    if bins is None:
        return None
    place, middles, width_s = bins
    rates = np.bincount(place, records.inferences[records.ok], minlength=len(middles)) / width_s
    points = tuple(
        svg.Point(float(t), float(r), tip=f"{t:.2f} s: {r:,.0f}/s")
        for t, r in zip(middles, rates, strict=True)
    )
    return _time_chart("Throughput over time", [svg.Series("answered", 1, points)], middles)


def _time_chart(title: str, lines: list[svg.Series], middles: Any) -> str:
    x = svg.linear_axis("seconds of the measurement", float(middles[-1]), lambda v: f"{v:g}")
    y = svg.linear_axis("", max(p.y for line in lines for p in line.points), numbers.short_count)
    return svg.xy_chart(title, lines, x, y, dodge=0)


def quantile_chart(records: RequestRecords, summary: Summary) -> str | None:
    """Latency by share of requests, the tail stretched: each tick has a tenth of the requests of the one before."""
    latency_ms = np.sort(records.latency_ns[records.ok] / 1e6)
    if latency_ms.size < 10:
        return None
    last = 1 - 1 / latency_ms.size
    shares = [1 - 10**-d for d in np.linspace(0.0, -np.log10(1 - last), 60)]
    curve = tuple(svg.Point(s, float(np.quantile(latency_ms, s))) for s in shares)
    marks = tuple(
        _mark(share, name, summary.latency_ns[name])
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
        if share <= last and summary.latency_ns[name].value is not None
    )
    ticks = [s for s in TAIL if s <= last]
    x = svg.Axis(
        "share of the requests answered within",
        lambda s: min(1.0, -np.log10(max(1e-12, 1 - s)) / -np.log10(1 - last)),
        tuple((s, f"{s * 100:.4g} %") for s in ticks),
    )
    top = max([p.y for p in curve], default=1.0)
    y = svg.log_axis("", max(curve[0].y, 1e-6), top, lambda v: f"{v:g}")
    lines = [svg.Series("all", 0, curve, marked=False), svg.Series("estimates", 1, marks, joined=False)]
    return svg.xy_chart("Latency by share of requests", lines, x, y, dodge=0)


def _mark(share: float, name: str, estimate: Estimate) -> svg.Point:
    assert estimate.value is not None
    interval = estimate.interval
    low, high = (interval.low / 1e6, interval.high / 1e6) if interval else (None, None)
    return svg.Point(
        share, estimate.value / 1e6, low, high, f"{name} {numbers.milliseconds(estimate.value)} ms"
    )


def csv_rows(records: RequestRecords, summary: Summary) -> list[Mapping[str, Any]]:
    """metric, value, low, high, unit."""
    names = ("metric", "value", "low", "high", "unit")
    return [{name: row[name] for name in names} for row in rows_of(summary, records)]
