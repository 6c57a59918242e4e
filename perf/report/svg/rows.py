"""Rows of labels and numbers → charts of intervals, bars or histograms lying below one another; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tritonsmith.perf.report.svg.elements import (
    BOTTOM,
    WIDTH,
    Axis,
    Place,
    Point,
    in_both,
    level,
    marker,
    svg_of,
    text_at,
    upright,
    x_axis,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a chart of rows: a label above, marks below, a text at the right. short: that text where it is narrow."""

    label: str
    note: str
    emphasis: bool = False
    short: str = ""


ROW_HEIGHT = 34
SIDE = 14
ROW_CHARACTERS = 38  # what stands beside a note, bold too
_CHARACTER = 7.0


def forest_height(rows: int) -> float:
    """Of forest_chart, in units."""
    return 14 + rows * ROW_HEIGHT + BOTTOM


def _across(x: Axis, width: int) -> Place:
    return lambda value: SIDE + min(max(x.at(value), 0.0), 1.0) * (width - 2 * SIDE)


def forest_chart(title: str, rows: Sequence[tuple[Row, Point | None, int]], band: float, x: Axis) -> str:
    """Ratios with intervals, a line at 1 and the band within which two identical configs differed."""
    return in_both(lambda width: _drawn_forest(title, rows, band, x, width))


def _drawn_forest(
    title: str, rows: Sequence[tuple[Row, Point | None, int]], band: float, x: Axis, width: int
) -> str:
    height, px = forest_height(len(rows)), _across(x, width)
    bottom = height - BOTTOM
    left, right = px(1 / (1 + band)), px(1 + band)
    parts = [
        f'<rect class="band" x="{left:.1f}" y="6" width="{max(1.5, right - left):.1f}" height="{bottom - 6}"/>',
        upright("one", px(1), 6, bottom),
        x_axis(x, px, bottom, width, SIDE, SIDE),
    ]
    for position, (row, point, style) in enumerate(rows):
        top = 14 + position * ROW_HEIGHT
        parts.append(_row_text(row, top + 9, width))
        if point is not None:
            parts += [
                _interval(point, x, px, top + 20, style),
                marker(px(point.x), top + 20, style, point.tip),
            ]
    return svg_of(title, height, parts, width)


def _interval(point: Point, x: Axis, px: Place, y: float, style: int) -> str:
    """A whisker lying down; an interval that goes on beyond the axis ends in an arrow, not in a cap."""
    if point.low is None or point.high is None:
        return ""
    a, b = px(point.low), px(point.high)
    left = f"M{a:.1f} {y - 4}v8" if x.at(point.low) >= 0 else f"M{a + 5:.1f} {y - 4}l-5 4l5 4"
    right = f"M{b:.1f} {y - 4}v8" if x.at(point.high) <= 1 else f"M{b - 5:.1f} {y - 4}l5 4l-5 4"
    return f'<path class="whisker wide c{style}" d="M{a:.1f} {y}H{b:.1f}{left}{right}"/>'


def bar_rows(title: str, rows: Sequence[tuple[Row, Sequence[tuple[str, float]]]], x: Axis) -> str:
    """Stacked bars lying down; each part is (CSS class, value)."""
    return in_both(lambda width: _drawn_bars(title, rows, x, width))


def _drawn_bars(
    title: str, rows: Sequence[tuple[Row, Sequence[tuple[str, float]]]], x: Axis, width: int
) -> str:
    height, px = 6 + len(rows) * ROW_HEIGHT + BOTTOM, _across(x, width)
    bottom = height - BOTTOM
    parts = [upright("grid", px(value), 6, bottom) for value, _ in x.ticks]
    for position, (row, segments) in enumerate(rows):
        top = 6 + position * ROW_HEIGHT
        parts.append(_row_text(row, top + 9, width))
        start = float(SIDE)
        for name, value in segments:
            wide = max(0.0, px(value) - SIDE)
            parts.append(
                f'<rect class="{name}" x="{start:.1f}" y="{top + 14}" width="{wide:.1f}" height="12"/>'
            )
            start += wide
    return svg_of(title, height, [*parts, x_axis(x, px, bottom, width, SIDE, SIDE, inside=True)], width)


def histogram_rows(
    title: str, rows: Sequence[tuple[Row, Sequence[tuple[int, float]], int]], sizes: Sequence[int], label: str
) -> str:
    """A row of bars over common sizes for each arm; shares are 0..1, a row's tallest bar fills it."""
    return in_both(lambda width: _drawn_histograms(title, rows, sizes, label, width))


def _drawn_histograms(
    title: str,
    rows: Sequence[tuple[Row, Sequence[tuple[int, float]], int]],
    sizes: Sequence[int],
    label: str,
    width: int,
) -> str:
    row_height = 40
    height = 4 + len(rows) * row_height + BOTTOM
    slot = (width - 2 * SIDE) / max(1, len(sizes))
    middle = {size: SIDE + (position + 0.5) * slot for position, size in enumerate(sizes)}
    wide = min(slot - 2, 26) if slot > 4 else slot
    parts = []
    for position, (row, bars, style) in enumerate(rows):
        top = 4 + position * row_height
        base = top + row_height - 4
        parts += [_row_text(row, top + 9, width), level("grid", base, width, SIDE, SIDE)]
        tallest = max((share for _, share in bars), default=1.0)
        for size, share in bars:
            tall = share / tallest * (row_height - 20)
            parts.append(
                f'<rect class="fill c{style}" x="{middle[size] - wide / 2:.1f}" y="{base - tall:.1f}" '
                f'width="{wide:.1f}" height="{tall:.1f}"><title>batch {size}: {share:.0%}</title></rect>'
            )
    shown = sizes[:: max(1, math.ceil(len(sizes) * 25 / width))]
    parts += [text_at("tick", middle[size], height - BOTTOM + 14, str(size)) for size in shown]
    return svg_of(title, height, [*parts, text_at("label", width / 2, height - 5, label)], width)


def _row_text(row: Row, y: float, width: int) -> str:
    """The label is cut to what stands beside the note; the whole of it is its tooltip."""
    weight = ' font-weight="600"' if row.emphasis else ""
    note = row.note if width == WIDTH or not row.short else row.short
    room = ROW_CHARACTERS
    if width < WIDTH:
        room = max(12, int((width - 2 * SIDE) / _CHARACTER) - len(note) - 2)
    label = text_at("row", SIDE, y, _cut(row.label, room), "start", weight)
    whole = f"<g><title>{escape(row.label)}</title>{label}</g>" if len(row.label) > room else label
    return whole + text_at("row note", width - SIDE, y, note, "end", weight)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
