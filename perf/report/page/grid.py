"""RunResult → the ratios of two settings that were swept together, one down and one across, at each load point; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritonsmith.perf.report.charts import by_merit, spread_points
from tritonsmith.perf.report.page.standing import MapCell, map_cell
from tritonsmith.perf.sweep.plan import CLIENT_BATCH, Arm, SweepSpec, axes_of, config_path
from tritonsmith.perf.sweep.plan.arms import VARIANT
from tritonsmith.perf.sweep.plan.config_path import model_and_path
from tritonsmith.perf.sweep.run_record import RunResult

CURRENT = MapCell("even", "•", "current", "1×", title="the current config")
MOST_CELLS = 800
MOST_VALUES = 24
"""A setting with more values has no room across a page."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells of every pair of values, at each load point.

    rows, columns: (the setting's name, its values as text). fixed: what the other settings are.
    tables:        (load point, rows of cells; None where no config of its own was measured), of as many load points as a
                   page has room for.
    """

    rows: tuple[str, tuple[str, ...]]
    columns: tuple[str, tuple[str, ...]]
    fixed: str
    tables: tuple[tuple[str, tuple[tuple[MapCell | None, ...], ...]], ...]

    @property
    def has_gaps(self) -> bool:
        """Whether a pair of values has no cell."""
        return any(cell is None for _, rows in self.tables for row in rows for cell in row)


def grid_of(run: RunResult) -> Grid | None:
    """The two settings with the most values; None when fewer than two have more than one.

    Where more were swept, the others are as in the verdict's config, else in the best one.
    """
    axes = {key: values for key, values in axes_of(run.spec).items() if 2 <= len(values) <= MOST_VALUES}
    if len(axes) < 2 or not run.verdict.points:
        return None
    down, across = sorted(axes, key=lambda key: -len(axes[key]))[:2]
    best = by_merit(run, [arm for arm in run.arms if not arm.baseline])
    others = [key for key in axes_of(run.spec) if key not in (down, across)]
    fixed = {key: value_of(best[0], key, run.spec) for key in others} if best else {}
    placed: dict[tuple[str, str], Arm] = {}
    for arm in run.arms:
        if all(value_of(arm, key, run.spec) == value for key, value in fixed.items()):
            placed.setdefault((str(value_of(arm, down, run.spec)), str(value_of(arm, across, run.spec))), arm)
    if len(placed) < 3:
        return None
    tables = []
    shown = spread_points(run, max(1, MOST_CELLS // (len(axes[down]) * len(axes[across]))))
    for point in run.verdict.points:
        if point.concurrency not in shown:
            continue
        rows = []
        for a in axes[down]:
            row: list[MapCell | None] = []
            for b in axes[across]:
                at = placed.get((str(a), str(b)))
                found = None if at is None else point.arms.get(at.id)
                if at is not None and at.baseline:
                    row.append(CURRENT)
                else:
                    row.append(
                        None
                        if at is None or found is None
                        else map_cell(run, at.label, point.concurrency, found)
                    )
            rows.append(tuple(row))
        tables.append((run.spec.where_words(point.concurrency), tuple(rows)))
    return Grid(
        (name_of(down), tuple(value_text(down, value) for value in axes[down])),
        (name_of(across), tuple(value_text(across, value) for value in axes[across])),
        ", ".join(f"{name_of(key)} {value_text(key, value)}" for key, value in fixed.items()),
        tuple(tables),
    )


def value_of(arm: Arm, key: str, spec: SweepSpec) -> Any:
    """The arm's value on an axis of the sweep; of the current config what it has there itself."""
    if key == VARIANT:
        return arm.variant
    if key == CLIENT_BATCH:
        return arm.batch_size or spec.batch_size
    model, path = model_and_path(key)
    other = model and model != spec.model
    settings: Mapping[str, Any] = arm.other_settings.get(model, {}) if other else arm.settings
    if path in settings:
        return settings[path]
    config = arm.others.get(model, {}) if other else arm.config
    value, parent = config_path.read(config, path), path.rpartition(".")[0]
    if value is None and parent and config_path.read(config, parent) is not None:
        return 0  # what proto leaves out
    return value[0] if isinstance(value, list) and len(set(map(str, value))) == 1 else value


def name_of(key: str) -> str:
    """`instance_group.count` → `count`; of another model with its name."""
    if key in (VARIANT, CLIENT_BATCH):
        return key.replace("_", " ").replace(".", " ")
    model, path = model_and_path(key)
    return f"{model} {config_path.short_name(path)}".strip()


def value_text(key: str, value: Any) -> str:
    """As its arm's label says it: `500 µs`."""
    if key in (VARIANT, CLIENT_BATCH):
        return str(value) or "itself"
    _, path = model_and_path(key)
    return config_path.label({path: value}).removeprefix(config_path.short_name(path)).strip()
