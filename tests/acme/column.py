"""A report's column: how much longer than usual the slowest requests take."""

from __future__ import annotations

from tritonsmith.perf.report.columns import Column
from tritonsmith.perf.stats import Summary


def _tail(summary: Summary) -> float | None:
    usual, slowest = summary.latency_ns["p50"].value, summary.latency_ns["p99"].value
    return slowest / usual if usual and slowest is not None else None


ROW = Column(
    "p99_over_p50",
    ("csv", "page", "terminal", "load"),
    "tail ratio",
    metric=_tail,
    text=lambda value: "–" if value is None else f"{value:.1f} to 1",
)
