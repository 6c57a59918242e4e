"""RunResult + cells → what configs cost beside time: memory, dollars and joules, where they were measured; a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tritonsmith.perf.report import charts, numbers
from tritonsmith.perf.report.cells import Cell, dollars_per_million
from tritonsmith.perf.report.svg import elements as svg
from tritonsmith.perf.report.svg import rows as svg_rows
from tritonsmith.perf.sweep.run_record import RunResult

WORTH_A_CHART = 1.03
"""The largest value over the least: bars that are alike say nothing."""


@dataclass(frozen=True, slots=True)
class Cost:
    """name: of the column in the CSV, with its unit. value: None where it was not measured. text: for people."""

    name: str
    column: str
    heading: str
    sub: str
    value: Callable[[RunResult, Cell], float | None]
    text: Callable[[float | None], str]
    axis: str
    scale: float


COSTS: Sequence[Cost] = (
    Cost(
        "memory_bytes",
        "MiB",
        "Memory",
        "Most that the server's process and the config's instances held",
        lambda run, cell: cell.memory_bytes,
        numbers.mebibytes,
        "MiB, proportional set size",
        1 / 2**20,
    ),
    Cost(
        "dollars_per_million_inferences",
        "$ / million",
        "Cost of a million inferences",
        "At this throughput and the price that was given",
        dollars_per_million,
        numbers.dollars,
        "dollars",
        1.0,
    ),
    Cost(
        "joules_per_inference",
        "J / inference",
        "Energy of an inference",
        "Of the server's GPUs, by Triton's own counter",
        lambda run, cell: cell.energy_j,
        numbers.joules,
        "joules",
        1.0,
    ),
)


def measured_costs(run: RunResult, cells: Mapping[tuple[str, int], Cell]) -> list[Cost]:
    """Those that at least one cell has."""
    return [cost for cost in COSTS if any(cost.value(run, cell) is not None for cell in cells.values())]


def cost_chart(run: RunResult, cells: Mapping[tuple[str, int], Cell], point: int, cost: Cost) -> str | None:
    """A bar a config at the load point; None when they are all alike, or fewer than two were measured."""
    labels = charts.row_labels(run.arms)
    shown = charts.shown_arms(run)
    values = [
        (arm, value)
        for arm in shown
        if (cell := cells.get((arm.id, point))) and (value := cost.value(run, cell))
    ]
    most, least = max((v for _, v in values), default=0.0), min((v for _, v in values), default=0.0)
    if len(values) < 2 or most < WORTH_A_CHART * least:
        return None
    best = run.verdict.arm_id if run.verdict.outcome == "winner" else None
    styles = charts.styles_of(shown)
    rows = [
        (
            svg_rows.Row(labels[arm.id], cost.text(value), arm.id == best),
            [(f"fill c{styles[arm.id]}", value * cost.scale)],
        )
        for arm, value in values
    ]
    axis = svg.linear_axis(cost.axis, most * cost.scale, lambda v: f"{v:g}")
    return svg_rows.bar_rows(cost.heading, rows, axis)
