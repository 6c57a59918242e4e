"""RunResult → lines of the small tables on a terminal: every config at every load point, the best in numbers; pure."""

from __future__ import annotations

from collections.abc import Sequence

from tritonsmith.builder.base.text.text_layout import table
from tritonsmith.perf.report import numbers
from tritonsmith.perf.report.charts import by_merit
from tritonsmith.perf.report.columns import Column, Point, cells_of, measured_columns, verdict_point
from tritonsmith.perf.report.page.standing import MARKS
from tritonsmith.perf.report.view import state_of, why_no_cell
from tritonsmith.perf.sweep.judge.comparison import Outcome
from tritonsmith.perf.sweep.judge.objective import objective_words
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RunResult

MOST_POINTS = 8
"""More load points than these have no room side by side; the report has them all."""


def _first_arms(run: RunResult, most: int) -> Sequence[Arm]:
    """The A/A pair and the best others, in order; all of them when they fit."""
    others = by_merit(run, [arm for arm in run.arms if not arm.baseline])
    kept = {arm.id for arm in others[: most - 2]}
    return [arm for arm in run.arms if arm.baseline or arm.id in kept]


def text_table(run: RunResult, width: int | None = None, most: int = 12) -> list[str]:
    """The small tables on stdout. width: of the terminal; None where there is none."""
    arms = _first_arms(run, most)
    beside = _beside(run, [arm for arm in arms if not arm.baseline], width)
    return [*beside, *([""] if beside else []), *_numbers(run, arms, width)]


def _beside(run: RunResult, arms: Sequence[Arm], width: int | None) -> list[str]:
    """Each config's ratio to the current one at each load point, and what is to be made of it; nothing for one load point."""
    points = run.verdict.points[:MOST_POINTS]
    if len(points) < 2 or not arms:
        return []
    rows = [("", *(str(point.concurrency) for point in points))]
    seen: set[Outcome] = set()
    for arm in arms:
        cells = []
        for point in points:
            found = point.arms.get(arm.id)
            if found is None:
                cells.append("")
                continue
            seen.add(found.outcome)
            value = None if found.ratio is None else found.ratio.value
            cells.append(f"{MARKS[found.outcome]} {numbers.ratio_text(value)}".rstrip())
        rows.append((f"{'▶' if _wins(run, arm) else ' '} {arm.label}", *cells))
    meaning = "  ".join(f"{mark} {outcome}" for outcome, mark in MARKS.items() if outcome in seen)
    head = f"× the current config's {objective_words(run.spec)}, at concurrency:"
    return [head, *table(rows, width, names=(0,)), meaning]


def _wins(run: RunResult, arm: Arm) -> bool:
    return run.verdict.outcome == "winner" and arm.id == run.verdict.arm_id


def _numbers(run: RunResult, arms: Sequence[Arm], width: int | None) -> list[str]:
    """What was measured at the load point where the verdict begins."""
    cells, point = cells_of(run), verdict_point(run)
    shown = measured_columns(run, cells, "terminal")
    rows = [("", run.spec.where_words(point), *(column.heading_in("terminal") for column in shown))]
    for arm in arms:
        cell, state = cells.get((arm.id, point)), state_of(run, arm, point)
        mark = (
            "▶"
            if state == "winner"
            else MARKS[found.outcome]
            if (found := run.verdict.of(arm.id, point))
            else ""
        )
        if cell is None:
            rows.append((mark, arm.label, why_no_cell(run, arm)[:40], *[""] * (len(shown) - 1)))
        else:
            of = Point(run, arm, point, cell, state)
            rows.append((mark, arm.label, *(_cell(column, of) for column in shown)))
    if len(run.arms) > len(arms):
        rows.append(("", f"… {len(run.arms) - len(arms)} more in the report", *[""] * len(shown)))
    marks = max(len(row[0]) for row in rows)
    marked = [(f"{mark.ljust(marks)} {label}", *others) for mark, label, *others in rows]
    numbered = list(enumerate(shown, start=1))
    return table(
        marked,
        width,
        right=[i for i, column in numbered if not column.sentence and "terminal" not in column.spans],
        names=(0,),
        drop=[
            *(i for i, column in sorted(numbered, key=lambda item: item[1].drop) if column.drop),
            *(i for i, column in reversed(numbered) if not column.drop),  # on a terminal of 40 columns
        ],
    )


def _cell(column: Column, point: Point) -> str:
    return "" if column.of(point) is None else " ".join(column.shown(point, "terminal")).strip()
