"""RunResult → how each config stands to the current one at each load point, as rows and columns that people read; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tritonsmith.perf.report import numbers
from tritonsmith.perf.report.cells import Cell
from tritonsmith.perf.report.charts import by_merit, row_labels
from tritonsmith.perf.report.columns import rate_of
from tritonsmith.perf.stats import Estimate, Ratio
from tritonsmith.perf.sweep.judge.comparison import ArmVerdict, Outcome
from tritonsmith.perf.sweep.judge.objective import objective_words
from tritonsmith.perf.sweep.judge.words import listed, what_decides
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RunResult

MARKS: Mapping[Outcome, str] = {
    "better": "▲",
    "worse": "▼",
    "equivalent": "=",
    "undecided": "?",
    "outside": "–",
    "broken": "✕",
}
MOST_ROWS = 15
"""More configs than these are folded away below the best of them."""
MOST_REASONS, MOST_NAMES = 12, 6
TAGS: Mapping[str, str] = {
    "baseline": "current",
    "outside": "outside the limits",
    "dropped": "dropped early",
    "": "not compared",
}
"""Of view.state_of: what is not its own word."""
_STEPS = (1.1, 1.35)
"""A ratio, or one over it, beyond which a colour is one step deeper."""


@dataclass(frozen=True, slots=True)
class MapCell:
    """One config at one load point. tone: its CSS class. note: beside the ratio. title: where and why, if there is a reason."""

    tone: str
    mark: str
    word: str
    ratio: str = ""
    span: str = ""
    note: str = ""
    title: str = ""

    @property
    def text(self) -> str:
        """In one line: `▲ 1.34× better (1.22–1.47)`."""
        between = f" ({self.span})" if self.span else ""
        known = f"{self.mark} {f'{self.ratio} {self.word}'.strip()}{between}"
        return f"{known}, {self.note}" if self.note else known


@dataclass(frozen=True, slots=True)
class MapRow:
    """One config. cells: by load point, None where it is not compared."""

    arm: Arm
    label: str
    tag: str
    cells: tuple[MapCell | None, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why configs do not count, or cannot be told, at some load points. configs: their labels, with the loads if not at all."""

    mark: str
    outcome: Outcome
    text: str
    configs: tuple[str, ...]

    @property
    def who(self) -> str:
        """The configs, as many as a line has room for."""
        more = len(self.configs) - MOST_NAMES
        return "; ".join(self.configs[:MOST_NAMES]) + (f"; and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Standing:
    """The map of a run.

    what:    what the ratios are of. columns: the load points' headings, under `over`.
    current: of the current config, what it gave at each load point, and what its second measuring differed by.
    rows, folded: the configs, best first; those that are shown at once, and the rest.
    meaning: (mark, tone, word, what it means) of the outcomes that occur.
    reasons: of cells that are broken, outside or lack something; more: how many others.
    """

    what: str
    over: str
    columns: tuple[str, ...]
    current: tuple[tuple[str, str], ...]
    rows: tuple[MapRow, ...]
    folded: tuple[MapRow, ...] = ()
    meaning: tuple[tuple[str, str, str, str], ...] = ()
    reasons: tuple[Reason, ...] = ()
    more: int = field(default=0)


def standing_of(run: RunResult, cells: Mapping[tuple[str, int], Cell]) -> Standing | None:
    """The map; None where no config is compared at any load point."""
    points = run.verdict.points
    arms = by_merit(run, [arm for arm in run.arms if any(arm.id in point.arms for point in points)])
    if not arms:
        return None
    labels = row_labels(run.arms)
    rows = [
        MapRow(
            arm,
            labels[arm.id],
            "winner" if run.verdict.outcome == "winner" and arm.id == run.verdict.arm_id else "",
            tuple(
                map_cell(run, arm.label, point.concurrency, point.arms[arm.id])
                if arm.id in point.arms
                else None
                for point in points
            ),
        )
        for arm in arms
    ]
    shown = len(rows) if len(rows) <= MOST_ROWS else MOST_ROWS - 3
    seen = {found.outcome for point in points for found in point.arms.values()}
    reasons = _reasons(run, arms)
    is_rate = run.spec.slo_p99_ms is not None
    return Standing(
        what=objective_words(run.spec),
        over="" if is_rate else "concurrency",
        columns=tuple(
            run.spec.where_words(p.concurrency).removeprefix("at ") if is_rate else str(p.concurrency)
            for p in points
        ),
        current=tuple(_current(run, cells, point.concurrency, point.resolution) for point in points),
        rows=tuple(rows[:shown]),
        folded=tuple(rows[shown:]),
        meaning=tuple((MARKS[o], _PLAIN_TONES[o], o, text) for o, text in meanings(run).items() if o in seen),
        reasons=tuple(reasons[:MOST_REASONS]),
        more=max(0, len(reasons) - MOST_REASONS),
    )


def meanings(run: RunResult) -> dict[Outcome, str]:
    """What each outcome says, in this run."""
    return {
        "better": "the interval lies above 1 by more than two identical configs differed",
        "worse": "the interval lies below 1 by more than that",
        "equivalent": f"whatever the difference is, it is below {run.spec.margin:.0%}",
        "undecided": "the interval leaves both open",
        "outside": "misses a limit that was set",
        "broken": "refused, died, failed requests or gave wrong answers; not ranked",
    }


_PLAIN_TONES: Mapping[Outcome, str] = {
    "better": "up2",
    "worse": "down2",
    "equivalent": "even",
    "undecided": "open",
    "outside": "out",
    "broken": "broken",
}


def tone_of(outcome: Outcome, ratio: Ratio | None) -> str:
    """The CSS class: deeper the further from 1, and coloured only where the outcome is decided."""
    if outcome not in ("better", "worse"):
        return _PLAIN_TONES[outcome]
    away = math.exp(abs(math.log(ratio.value))) if ratio is not None and ratio.value else 1.0
    return f"{'up' if outcome == 'better' else 'down'}{1 + sum(away >= step for step in _STEPS)}"


def map_cell(run: RunResult, label: str, concurrency: int, found: ArmVerdict) -> MapCell:
    """One config at one load point, ready to print."""
    ratio = None if found.ratio is None or found.ratio.value is None else found.ratio
    times, span = ("", "") if ratio is None else (numbers.times(ratio), numbers.times_span(ratio))
    title = f"{label} {run.spec.where_words(concurrency)}: {found.outcome}"
    why = one_line_of(what_decides(found)) if found.outcome == "undecided" else one_line_of(found.why or "")
    note = ""
    if found.outcome == "undecided" and found.more_rounds is not None:
        note = f"about {found.more_rounds:,} more round{'s' if found.more_rounds > 1 else ''}"
    return MapCell(
        tone_of(found.outcome, ratio),
        MARKS[found.outcome],
        found.outcome,
        times,
        span,
        note,
        f"{title}: {why}" if why else "",
    )


def one_line_of(why: str) -> str:
    """A server's reason without the traceback of its model, in one line."""
    return " ".join(why.partition("\nAt:\n")[0].split()).rstrip(";. ")


def _reasons(run: RunResult, arms: Sequence[Arm]) -> list[Reason]:
    """One a reason, with the configs and the load points where it holds."""
    found: dict[tuple[Outcome, str], dict[str, list[int]]] = {}
    for arm in arms:
        for point in run.verdict.points:
            one = point.arms.get(arm.id)
            if one is not None and one.why and one.outcome != "better":
                of = found.setdefault((one.outcome, one_line_of(one.why)), {})
                of.setdefault(arm.label, []).append(point.concurrency)
    everywhere = len(run.verdict.points)
    return [
        Reason(
            MARKS[outcome],
            outcome,
            text,
            tuple(
                label if len(loads) == everywhere else f"{label} at {listed(loads)}"
                for label, loads in configs.items()
            ),
        )
        for (outcome, text), configs in found.items()
    ]


def _rate(estimate: Estimate) -> str:
    return f"{numbers.rate(estimate.value)}/s"


def _speed(estimate: Estimate) -> str:
    return f"{numbers.milliseconds(estimate.value)} ms"


_SHOWN: Mapping[str, tuple[str, Callable[[Estimate], str]]] = {
    "p50": ("p50_ns", _speed),
    "p90": ("p90_ns", _speed),
    "p99": ("p99_ns", _speed),
    "ttft": ("ttft_p50_ns", _speed),
    "itl": ("itl_p50_ns", _speed),
}
"""Objective → the estimate that says how much the current config gave, and its text; of all others the rate."""


def _shown(run: RunResult) -> tuple[str, Callable[[Estimate], str]]:
    return _SHOWN.get(run.spec.objective, (rate_of(run), _rate))


def _current(
    run: RunResult, cells: Mapping[tuple[str, int], Cell], concurrency: int, resolution: float | None
) -> tuple[str, str]:
    """(what the current config gave, by how much its second measuring differed)."""
    name, text = _shown(run)
    found = [cells.get((arm.id, concurrency)) for arm in run.arms if arm.baseline]
    cell = next((one for one in found if one is not None and one.estimates[name].value is not None), None)
    again = "" if resolution is None else f"again: {resolution:.1%} apart"
    return ("–" if cell is None else text(cell.estimates[name])), again
