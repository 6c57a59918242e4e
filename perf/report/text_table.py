"""RunResult → lines of the small table on a terminal: the A/A pair and the best arms; pure."""

from __future__ import annotations

from collections.abc import Sequence

from tritonsmith.builder.base.text.text_layout import table
from tritonsmith.perf.report.charts import by_merit
from tritonsmith.perf.report.columns import Column, Point, cells_of, columns_in, verdict_point
from tritonsmith.perf.report.view import state_of, why_no_cell
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RunResult


def _first_arms(run: RunResult, most: int) -> Sequence[Arm]:
    """The A/A pair and the best others, in order; all of them when they fit."""
    others = by_merit(run, [arm for arm in run.arms if not arm.baseline])
    kept = {arm.id for arm in others[: most - 2]}
    return [arm for arm in run.arms if arm.baseline or arm.id in kept]


def text_table(run: RunResult, width: int | None = None, most: int = 12) -> list[str]:
    """The small table on stdout, at the load point of the verdict. width: of the terminal; None where there is none."""
    cells, point, shown = cells_of(run), verdict_point(run), columns_in("terminal")
    rows = [("", run.spec.where_words(point), *(column.heading_in("terminal") for column in shown))]
    for arm in _first_arms(run, most):
        cell, state = cells.get((arm.id, point)), state_of(run, arm, point)
        mark = {"winner": "▶", "like": "≈", "highest": "≈"}.get(state, "")
        if cell is None:
            rows.append((mark, arm.label, why_no_cell(run, arm)[:40], *[""] * (len(shown) - 1)))
        else:
            of = Point(run, arm, point, cell, state)
            rows.append((mark, arm.label, *(_cell(column, of) for column in shown)))
    if len(run.arms) > most:
        rows.append(("", f"… {len(run.arms) - most} more in the report", *[""] * len(shown)))
    marks = max(len(row[0]) for row in rows)
    marked = [(f"{mark.ljust(marks)} {label}", *others) for mark, label, *others in rows]
    numbered = list(enumerate(shown, start=1))
    return table(
        marked,
        width,
        right=[i for i, column in numbered if not column.sentence and "terminal" not in column.spans],
        names=(0,),
        drop=[i for i, column in sorted(numbered, key=lambda item: item[1].drop) if column.drop],
    )


def _cell(column: Column, point: Point) -> str:
    return "" if column.of(point) is None else " ".join(column.shown(point, "terminal")).strip()
