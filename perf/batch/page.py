"""BatchResult → one self-contained page: progress over time, failures by reason, batch sizes, what sorting saved."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.files.disk import write_atomically
from tritonsmith.perf.batch.result import BatchResult, share_of
from tritonsmith.perf.batch.text import all_failures, cost_text, rate_text, requests_text, saved_text
from tritonsmith.perf.report import numbers, render
from tritonsmith.perf.report.svg import elements as svg
from tritonsmith.perf.report.svg import rows as svg_rows

TEMPLATE = "batch_report.html.j2"
MOST_BARS = 24


def write_page(result: BatchResult, path: Path, templates: Path | None = None) -> None:
    """The file, whole or not at all."""
    write_atomically(path, batch_html(result, templates))


def batch_html(result: BatchResult, templates: Path | None = None) -> str:
    """The page's text."""
    from markupsafe import Markup

    view = batch_view(result)
    drawn = {name: chart or "" for name, chart in view["charts"].items()}
    view["charts"] = {name: Markup(chart) for name, chart in drawn.items()}  # noqa: S704
    return render(TEMPLATE, view, templates)


def batch_view(result: BatchResult) -> dict[str, Any]:
    """The variables of batch_report.html.j2."""
    whole = result.is_whole and not result.failed
    return {
        "title": f"Batch job of {result.model}",
        "headline": "DONE" if whole else "FAILED ROWS" if result.is_whole else "INTERRUPTED",
        "is_whole": whole,
        "sentence": f"{result.answered:,} of {result.rows:,} rows answered, {result.failed:,} failed.",
        "facts": [result.asks, result.executor, f"{result.run_s:,.1f} s", str(result.input.name)],
        "numbers": _numbers(result),
        "failures": dict(sorted(all_failures(result).items(), key=lambda one: -one[1])),
        "retries": dict(result.retries),
        "charts": {
            "progress": progress_chart(result),
            "rate": rate_chart(result),
            "sizes": sizes_chart(result),
            "padding": padding_chart(result),
            "levels": levels_chart(result),
        },
        "environment": [(str(k), str(v)) for k, v in result.environment.items()],
    }


def _numbers(result: BatchResult) -> list[tuple[str, str]]:
    rows = [("rate", rate_text(result)), ("requests", requests_text(result))]
    if result.before:
        rows.append(("done by earlier runs", f"{result.before:,} rows"))
    rows.append(("checking the input", f"{result.check_s:.1f} s"))
    rows += [
        (name, text)
        for name, text in (("by length", saved_text(result)), ("cost", cost_text(result)))
        if text
    ]
    if result.bad:
        rows.append(("lines left out", f"{result.bad:,}"))
    return rows


def progress_chart(result: BatchResult) -> str | None:
    """Rows done over time, and those that failed."""
    if len(result.samples) < 2:
        return None
    done = tuple(svg.Point(t, float(rows), tip=f"{t:.1f} s: {rows:,} rows") for t, rows, _ in result.samples)
    lines = [svg.Series("done", 1, done, marked=False)]
    if result.failed:
        failed = tuple(svg.Point(t, float(n), tip=f"{t:.1f} s: {n:,} failed") for t, _, n in result.samples)
        lines.append(svg.Series("failed", 2, failed, marked=False))
    return _over_time("Rows done over time", lines, result)


def rate_chart(result: BatchResult) -> str | None:
    """Rows a second between samples."""
    points = tuple(
        svg.Point((a[0] + b[0]) / 2, rate, tip=f"{b[0]:.1f} s: {rate:,.0f} rows/s")
        for a, b in pairwise(result.samples)
        if b[0] > a[0]
        for rate in [(b[1] - a[1]) / (b[0] - a[0])]
    )
    if len(points) < 2:
        return None
    return _over_time("Rows a second", [svg.Series("rows/s", 1, points, marked=False)], result)


def _over_time(title: str, lines: list[svg.Series], result: BatchResult) -> str:
    x = svg.linear_axis("seconds of this run", max(result.samples[-1][0], 1e-3), lambda v: f"{v:g}")
    top = max((p.y for line in lines for p in line.points), default=1.0)
    return svg.xy_chart(title, lines, x, svg.linear_axis("", top or 1.0, numbers.short_count), dodge=0)


def sizes_chart(result: BatchResult) -> str | None:
    """Requests by how many rows they had; beyond MOST_BARS sizes the most frequent ones."""
    common = sorted(result.sizes.items(), key=lambda one: -one[1])[:MOST_BARS]
    if not common or result.most_rows <= 1:
        return None
    total = sum(result.sizes.values())
    rows = [
        (svg_rows.Row(f"{size} rows", f"{count:,} requests", short=f"{count:,}"), [("part0", count / total)])
        for size, count in sorted(common)
    ]
    top = max(count / total for _, count in common)
    return svg_rows.bar_rows(
        "Batch sizes realised", rows, svg.linear_axis("share of requests", top, numbers.percent)
    )


def padding_chart(result: BatchResult) -> str | None:
    """The padded share as it was sent, and as the input's order would have had it; and the requests."""
    arrival, sent = share_of(result.arrival), share_of(result.sent)
    if not result.by_length or not saved_text(result):
        return None
    most = max(result.arrival.requests, result.sent.requests, 1)
    rows = []
    for label, padding, share in (
        ("in the order of the input", result.arrival, arrival),
        ("sorted by length", result.sent, sent),
    ):
        note = f"{padding.requests:,} requests, {numbers.percent(share or 0.0)} padding"
        rows.append(
            (svg_rows.Row(label, note, short=f"{padding.requests:,}"), [("part0", padding.requests / most)])
        )
    return svg_rows.bar_rows(
        "What sorting saved", rows, svg.linear_axis("requests, relative", 1.0, numbers.percent)
    )


def levels_chart(result: BatchResult) -> str | None:
    """Rows a second at each number of requests in flight."""
    if len(result.levels) < 2:
        return None
    points = tuple(
        svg.Point(float(n), rate, tip=f"{n} in flight: {rate:,.0f} rows/s") for n, rate in result.levels
    )
    x = svg.ordinal_axis("requests in flight", sorted(float(n) for n, _ in result.levels))
    y = svg.linear_axis("", max(p.y for p in points), numbers.short_count)
    ordered = tuple(sorted(points, key=lambda point: point.x))
    return svg.xy_chart("Finding how many are in flight", [svg.Series("rows/s", 1, ordered)], x, y, dodge=0)
