"""Rows of labels and numbers → charts of intervals, bars or histograms lying below one another; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tritonsmith.perf.report.svg.elements import BOTTOM, WIDTH, Axis, Point, marker, svg_of


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a chart of rows: a label above, marks below, a text at the right."""

    label: str
    note: str
    emphasis: bool = False


ROW_HEIGHT = 34
ROW_CHARACTERS = 38  # what stands beside a note, bold and on a phone too


def forest_height(rows: int) -> float:
    """Of forest_chart, in units."""
    return 14 + rows * ROW_HEIGHT + BOTTOM


def forest_chart(title: str, rows: Sequence[tuple[Row, Point | None, int]], band: float, x: Axis) -> str:
    """Ratios with intervals, a line at 1 and the band within which two identical configs differed."""
    height = forest_height(len(rows))
    plot_w = WIDTH - 2 * 14

    def px(value: float) -> float:
        return 14 + min(max(x.at(value), 0.0), 1.0) * plot_w

    bottom = height - BOTTOM
    left, right = px(1 / (1 + band)), px(1 + band)
    parts = [
        f'<rect class="band" x="{left:.1f}" y="6" width="{max(1.5, right - left):.1f}" height="{bottom - 6}"/>',
        f'<line class="one" x1="{px(1):.1f}" x2="{px(1):.1f}" y1="6" y2="{bottom}"/>',
    ]
    for value, text in x.ticks:
        parts.append(
            f'<text class="tick" x="{px(value):.1f}" y="{bottom + 15}" text-anchor="middle">{escape(text)}</text>'
        )
    parts.append(f'<line class="axis" x1="14" x2="{WIDTH - 14}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(
        f'<text class="label" x="{WIDTH / 2}" y="{height - 5}" text-anchor="middle">{escape(x.label)}</text>'
    )
    for position, (row, point, style) in enumerate(rows):
        top = 14 + position * ROW_HEIGHT
        parts.append(_row_text(row, top + 9))
        if point is not None:
            level = top + 20
            if point.low is not None and point.high is not None:
                a, b = px(point.low), px(point.high)
                ends = [  # an interval that goes on beyond the axis ends in an arrow, not in a cap
                    f"M{a:.1f} {level - 4}v8"
                    if x.at(point.low) >= 0
                    else f"M{a + 5:.1f} {level - 4}l-5 4l5 4",
                    f"M{b:.1f} {level - 4}v8"
                    if x.at(point.high) <= 1
                    else f"M{b - 5:.1f} {level - 4}l5 4l-5 4",
                ]
                parts.append(
                    f'<path class="whisker wide c{style}" d="M{a:.1f} {level}H{b:.1f}{"".join(ends)}"/>'
                )
            parts.append(marker(px(point.x), level, style, point.tip))
    return svg_of(title, height, parts)


def bar_rows(title: str, rows: Sequence[tuple[Row, Sequence[tuple[str, float]]]], x: Axis) -> str:
    """Stacked bars lying down; each part is (CSS class, value)."""
    height = 6 + len(rows) * ROW_HEIGHT + BOTTOM
    plot_w = WIDTH - 2 * 14
    bottom = height - BOTTOM
    parts = []
    for value, text in x.ticks:
        place = 14 + x.at(value) * plot_w
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="6" y2="{bottom}"/>')
        anchor = "start" if x.at(value) < 0.02 else "end" if x.at(value) > 0.98 else "middle"
        parts.append(
            f'<text class="tick" x="{place:.1f}" y="{bottom + 15}" text-anchor="{anchor}">{escape(text)}</text>'
        )
    for position, (row, segments) in enumerate(rows):
        top = 6 + position * ROW_HEIGHT
        parts.append(_row_text(row, top + 9))
        start = 14.0
        for name, value in segments:
            width = x.at(value) * plot_w
            parts.append(
                f'<rect class="{name}" x="{start:.1f}" y="{top + 14}" width="{max(0.0, width):.1f}" height="12"/>'
            )
            start += width
    parts.append(f'<line class="axis" x1="14" x2="{WIDTH - 14}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(
        f'<text class="label" x="{WIDTH / 2}" y="{height - 5}" text-anchor="middle">{escape(x.label)}</text>'
    )
    return svg_of(title, height, parts)


def histogram_rows(
    title: str, rows: Sequence[tuple[Row, Sequence[tuple[int, float]], int]], sizes: Sequence[int], label: str
) -> str:
    """A row of bars over common sizes for each arm; shares are 0..1, a row's tallest bar fills it."""
    row_height = 40
    height = 4 + len(rows) * row_height + BOTTOM
    bottom = height - BOTTOM
    slot = (WIDTH - 2 * 14) / max(1, len(sizes))
    place = {size: 14 + position * slot for position, size in enumerate(sizes)}
    parts = []
    for position, (row, bars, style) in enumerate(rows):
        top = 4 + position * row_height
        base = top + row_height - 4
        parts.append(_row_text(row, top + 9))
        parts.append(f'<line class="grid" x1="14" x2="{WIDTH - 14}" y1="{base}" y2="{base}"/>')
        tallest = max((share for _, share in bars), default=1.0)
        for size, share in bars:
            tall = share / tallest * (row_height - 20)
            width = min(slot - 2, 26) if slot > 4 else slot
            parts.append(
                f'<rect class="fill c{style}" x="{place[size] + (slot - width) / 2:.1f}" y="{base - tall:.1f}" '
                f'width="{width:.1f}" height="{tall:.1f}"><title>batch {size}: {share:.0%}</title></rect>'
            )
    every = max(1, math.ceil(len(sizes) / 16))
    for position, size in enumerate(sizes):
        if position % every == 0:
            middle = place[size] + slot / 2
            parts.append(
                f'<text class="tick" x="{middle:.1f}" y="{bottom + 14}" text-anchor="middle">{size}</text>'
            )
    parts.append(
        f'<text class="label" x="{WIDTH / 2}" y="{height - 5}" text-anchor="middle">{escape(label)}</text>'
    )
    return svg_of(title, height, parts)


def _row_text(row: Row, y: float) -> str:
    weight = ' font-weight="600"' if row.emphasis else ""
    return (
        f'<text class="row" x="14" y="{y:.1f}"{weight}>{escape(_cut(row.label, ROW_CHARACTERS))}</text>'
        f'<text class="row note" x="{WIDTH - 14}" y="{y:.1f}" text-anchor="end"{weight}>{escape(row.note)}</text>'
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
