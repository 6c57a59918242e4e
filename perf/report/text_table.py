"""RunResult → rows of the small table on a terminal: the A/A pair and the best arms; pure."""

from __future__ import annotations

from collections.abc import Sequence

from tritonsmith.perf.report import numbers
from tritonsmith.perf.report.cells import cells_of
from tritonsmith.perf.report.view import state_of, why_no_cell
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RunResult


def _first_arms(run: RunResult, most: int) -> Sequence[Arm]:
    """The A/A pair and the best others, in order; all of them when they fit."""
    ratios = run.verdict.ratios

    def merit(arm: Arm) -> float:
        ratio = ratios.get(arm.id)
        return -(ratio.value or 0.0) if ratio else 0.0

    others = sorted((arm for arm in run.arms if not arm.baseline), key=merit)
    kept = {arm.id for arm in others[: most - 2]}
    return [arm for arm in run.arms if arm.baseline or arm.id in kept]


def text_table(run: RunResult, most: int = 12) -> Sequence[tuple[str, ...]]:
    """Header and rows of the small table on stdout, at the load point of the verdict."""
    cells = cells_of(run)
    point = run.verdict.concurrency or max(run.spec.concurrency)
    rows = [("", run.spec.where_words(point), "inferences/s", "vs current", "p50 ms", "p99 ms", "batch")]
    for arm in _first_arms(run, most):
        cell = cells.get((arm.id, point))
        mark = {"winner": "▶", "like": "≈", "highest": "≈"}.get(state_of(run, arm, point), "")
        if cell is None:
            rows.append((mark, arm.label, why_no_cell(run, arm)[:40], "", "", "", ""))
            continue
        ratio = run.verdict.ratios.get(arm.id)
        mean = cell.server.mean_batch if cell.server else None
        rows.append(
            (
                mark,
                arm.label,
                numbers.rate(cell.estimates["throughput_per_s"].value),
                f"{numbers.times(ratio)} {numbers.times_span(ratio)}".strip() if ratio else "",
                numbers.milliseconds(cell.estimates["p50_ns"].value),
                numbers.milliseconds(cell.estimates["p99_ns"].value),
                "" if mean is None else f"{mean:.1f}",
            )
        )
    if len(run.arms) > most:
        rows.append(("", f"… {len(run.arms) - most} more in the report", "", "", "", "", ""))
    return rows
