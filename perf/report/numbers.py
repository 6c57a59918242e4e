"""Numbers → text with a unit and as many digits as are worth reading; pure."""

from __future__ import annotations

from tritonsmith.perf.stats import Estimate, Ratio, times_end


def rate(value: float | None) -> str:
    """Inferences a second: `12,400`, `843`, `9.62`."""
    if value is None:
        return "–"
    if value >= 10_000:
        return f"{round(value, -2):,.0f}"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def milliseconds(value_ns: float | None) -> str:
    """A duration in ns as ms: `0.412`, `3.61`, `128`."""
    if value_ns is None:
        return "–"
    value = value_ns / 1e6
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def span(estimate: Estimate, text: object) -> str:
    """`low–high` of an estimate, or an empty text when it has no interval."""
    assert callable(text)
    if estimate.interval is None:
        return ""
    return f"{text(estimate.interval.low)}–{text(estimate.interval.high)}"


def times(ratio: Ratio | None) -> str:
    """`1.34×`."""
    return "–" if ratio is None or ratio.value is None else f"{ratio.value:.2f}×"


def ratio_text(value: float | None) -> str:
    """`1.34`; nothing where there is none."""
    return "" if value is None else f"{value:.2f}"


def times_span(ratio: Ratio | None) -> str:
    """`1.22–1.47`; an end that only says that nothing is known is `>99`."""
    if ratio is None or ratio.interval is None:
        return ""
    return f"{times_end(ratio.interval.low)}–{times_end(ratio.interval.high)}"


def percent(share: float) -> str:
    """`0.3 %`; two digits below ten."""
    return f"{share * 100:.2g} %" if 0 < share < 0.1 else f"{share * 100:.0f} %"


def mebibytes(value_bytes: float | None) -> str:
    """`1,240`; without the unit."""
    return "–" if value_bytes is None else f"{value_bytes / 2**20:,.0f}"


def dollars(value: float | None) -> str:
    """`$0.213`, `$1.20`."""
    if value is None:
        return "–"
    return f"${value:,.0f}" if value >= 100 else f"${value:#.3g}"


def joules(value: float | None) -> str:
    """`0.0123 J`, `12.3 mJ`."""
    if value is None:
        return "–"
    return f"{value:.3g} J" if value >= 0.1 else f"{value * 1000:.3g} mJ"


def short_count(value: float) -> str:
    """An axis tick: `12k`, `1.5k`, `800`."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
