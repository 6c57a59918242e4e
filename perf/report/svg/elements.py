"""Numbers → small inline SVG charts whose colours are the page's CSS variables; pure.

Each chart is drawn twice, and the page shows the one that fits: 420 units across for a screen, 340 for a phone, where text
would be too small to read if the wide one were shrunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, NARROW = 420, 340
CHARACTER = 6.4
"""Units across that a character of a tick takes."""
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 38

Format = Callable[[float], str]
Place = Callable[[float], float]
"""A value → units across or down."""


@dataclass(frozen=True, slots=True)
class Point:
    """One mark; low and high are its interval, tip its tooltip."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points under one label; `style` is the number of its colour and marker, 0 the current config's grey.

    marked, joined: whether points get their marker, and the line between them.
    faded: drawn thin and pale, so that others stand out; whole again under the pointer.
    """

    label: str
    style: int
    points: tuple[Point, ...]
    dashed: bool = False
    marked: bool = True
    joined: bool = True
    faded: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """Data → units. `at` maps a value to 0..1; ticks are values with their text."""

    label: str
    at: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]


def linear_axis(label: str, top: float, text: Format, bottom: float = 0.0) -> Axis:
    """An axis from bottom to a round number above `top`."""
    step = _nice_step((top - bottom) / 4.5 or 1.0)
    end = bottom + step * max(1, math.ceil((top - bottom) / step - 1e-9))
    count = round((end - bottom) / step)
    ticks = tuple((bottom + i * step, text(bottom + i * step)) for i in range(count + 1))
    return Axis(label, lambda v: (v - bottom) / (end - bottom), ticks)


def log_axis(label: str, low: float, high: float, text: Format) -> Axis:
    """A logarithmic axis with as fine ticks as its span leaves room for."""
    low, high = math.log10(low) - 0.03, math.log10(high) + 0.03
    span = max(high - low, 1e-9)
    if span < 0.5:  # a factor of three: round steps of equal size have more ticks than 1, 2, 5
        step = _nice_step((10**high - 10**low) / 4)
        first, last = math.ceil(10**low / step - 1e-9), math.floor(10**high / step + 1e-9)
        even = tuple((i * step, text(round(i * step, 12))) for i in range(first, last + 1) if i > 0)
        return Axis(label, lambda v: (math.log10(v) - low) / span, even)
    steps = (1,) if span > 3 else (1, 2, 5) if span > 1 else (1, 1.5, 2, 3, 5, 7)
    decades = range(math.floor(low), math.ceil(high) + 1)
    values = [m * 10.0**d for d in decades for m in steps]
    ticks = tuple((v, text(v)) for v in values if low <= math.log10(v) <= high)
    return Axis(label, lambda v: (math.log10(v) - low) / span, ticks)


def ordinal_axis(label: str, values: Sequence[float]) -> Axis:
    """Equal steps from value to value, whatever their distance."""
    order = {value: position for position, value in enumerate(values)}
    count = max(1, len(values))
    return Axis(label, lambda v: (order[v] + 0.5) / count, tuple((v, f"{v:g}") for v in values))


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999), 10 * power)


def xy_chart(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    height: int = 270,
    dodge: float = 5.0,
    front: Sequence[tuple[float, float]] = (),
    limit: float | None = None,
) -> str:
    """Lines with markers and interval whiskers; points at one x stand beside each other by `dodge` units.

    front: points to ring, x ascending, joined by the steps of a Pareto front behind the lines.
    limit: a level of y to draw a line at.
    """

    def drawn(width: int) -> str:
        return _drawn_xy(title, series, x, y, height, dodge, front, limit, width)

    return in_both(drawn)


def in_both(draw: Callable[[int], str]) -> str:
    """A drawing for each width; the style shows one of them. draw: width in units → an SVG."""
    return draw(WIDTH) + draw(NARROW)


def _drawn_xy(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    height: int,
    dodge: float,
    front: Sequence[tuple[float, float]],
    limit: float | None,
    width: int,
) -> str:
    plot_w, plot_h = width - LEFT - RIGHT, height - TOP - BOTTOM

    def px(value: float) -> float:
        return LEFT + x.at(value) * plot_w

    def py(value: float) -> float:
        return TOP + (1 - min(max(y.at(value), -0.02), 1.02)) * plot_h

    parts = [level("grid", py(value), width) for value, _ in y.ticks]
    parts += [text_at("tick", LEFT - 6, py(value) + 3.5, words, "end") for value, words in y.ticks]
    parts += [x_axis(x, px, height - BOTTOM, width), _front([(px(a), py(b)) for a, b in front])]
    if limit is not None:
        parts.append(level("limit", py(limit), width))
    for position, line in sorted(enumerate(series), key=lambda item: not item[1].faded):
        parts.append(_drawn_series(line, px, py, (position - (len(series) - 1) / 2) * dodge))
    parts += [f'<circle class="ring" cx="{px(a):.1f}" cy="{py(b):.1f}" r="6.5"/>' for a, b in front]
    return svg_of(title, height, parts, width)


def _drawn_series(line: Series, px: Place, py: Place, shift: float) -> str:
    """Line, whiskers and markers; a faded one has a broad unseen line, too, so that a pointer finds it."""
    places = [(px(p.x) + shift, py(p.y), p) for p in line.points]
    path = " ".join(f"{'M' if i == 0 else 'L'}{a:.1f} {b:.1f}" for i, (a, b, _) in enumerate(places))
    dash = ' stroke-dasharray="4 3"' if line.dashed else ""
    parts = []
    if line.joined and places:
        parts += [f'<path class="reach" d="{path}"/>'] if line.faded else []
        parts.append(f'<path class="line c{line.style}" d="{path}"{dash}/>')
    for a, b, point in places if line.marked else ():
        if point.low is not None and point.high is not None:
            parts.append(_whisker(a, py(point.low), py(point.high), line.style))
        parts.append(marker(a, b, line.style, point.tip))
    faded = " faded" if line.faded else ""
    return f'<g class="series s{line.style}{faded}"><title>{escape(line.label)}</title>{"".join(parts)}</g>'


def _front(places: Sequence[tuple[float, float]]) -> str:
    """The least y that reaches at least x: up or down at a point, then on to the next."""
    if not places:
        return ""
    steps = "".join(f"V{b:.1f}H{a:.1f}" for a, b in places[1:])
    return f'<path class="front" d="M{places[0][0]:.1f} {places[0][1]:.1f}{steps or "h0"}"/>'


def text_at(kind: str, x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
    """A text of a CSS class; more: further attributes."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def level(kind: str, y: float, width: int, left: float = LEFT, right: float = RIGHT) -> str:
    """A line across a plot with these margins."""
    return f'<line class="{kind}" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>'


def upright(kind: str, x: float, top: float, bottom: float) -> str:
    """A line from the top of a plot to its bottom."""
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'


def x_axis(
    x: Axis,
    px: Place,
    bottom: float,
    width: int,
    left: float = LEFT,
    right: float = RIGHT,
    inside: bool = False,
) -> str:
    """The line below a plot that ends at `bottom`, its label and the ticks that have room beside the one before.

    inside: no tick's text goes beyond the ends.
    """

    def anchor(at: float) -> str:
        return "middle" if not inside or 0.02 <= at <= 0.98 else "start" if at < 0.02 else "end"

    ticks, free = [], -math.inf
    for value, words in sorted(x.ticks):
        half = len(words) * CHARACTER / 2
        if px(value) - half >= free:
            ticks.append(text_at("tick", px(value), bottom + 15, words, anchor(x.at(value))))
            free = px(value) + half + CHARACTER
    label = text_at("label", (left + width - right) / 2, bottom + BOTTOM - 5, x.label)
    return "".join([*ticks, level("axis", bottom, width, left, right), label])


def _whisker(x: float, low: float, high: float, style: int) -> str:
    return (
        f'<path class="whisker c{style}" d="M{x:.1f} {low:.1f}V{high:.1f}'
        f'M{x - 2.5:.1f} {low:.1f}h5M{x - 2.5:.1f} {high:.1f}h5"/>'
    )


def marker(x: float, y: float, style: int, tip: str = "") -> str:
    """A shape of its own for each colour, so that the chart reads without colour too."""
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4"/>',
        f'<rect x="{x - 3.2:.1f}" y="{y - 3.2:.1f}" width="6.4" height="6.4"/>',
        f'<path d="M{x:.1f} {y - 4.2:.1f}l4 7h-8z"/>',
        f'<path d="M{x:.1f} {y - 4.4:.1f}l4.4 4.4l-4.4 4.4l-4.4 -4.4z"/>',
        f'<path d="M{x:.1f} {y + 4.2:.1f}l4 -7h-8z"/>',
    )
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<g class="mark c{style}">{shapes[style % len(shapes)]}{title}</g>'


def key(style: int, dashed: bool = False, faded: bool = False) -> str:
    """The little line with marker that a legend shows."""
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    line = f'<path class="line c{style}" d="M1 7H25"{dash}/>'
    drawn = f'<g class="series s{style}{" faded" if faded else ""}">{line}{marker(13, 7, style)}</g>'
    return f'<svg class="key" viewBox="0 0 26 14" aria-hidden="true">{drawn}</svg>'


def svg_of(title: str, height: float, parts: Iterable[str], width: int) -> str:
    """Parts in a coordinate system of this width → an SVG that scales with the page."""
    kind = "wide" if width == WIDTH else "narrow"
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {width} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
