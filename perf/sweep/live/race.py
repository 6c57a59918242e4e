"""A run so far → how its race stands: each config at each load point, what is measured, the time; pure but for its pace."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tritonsmith.perf.sweep.judge.comparison import Outcome
from tritonsmith.perf.sweep.judge.objective import objective_words
from tritonsmith.perf.sweep.judge.verdict import Verdict
from tritonsmith.perf.sweep.live.follow import Follower, Step
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RunResult, verdict_of

State = Literal[
    "current", "racing", "ahead", "settling", "confirming", "dropped", "broken", "measured", "winner"
]
"""Of a config. ahead: the sentence is about it, and it is above the current config so far. settling, confirming: it is
measured alone beside the current config, as perf.sweep.judge.confirmation says. At the end: winner, or measured."""

SHARE = 0.01
"""Of the time that may go into judging what there is so far: with 200 configs it takes a second."""


@dataclass(frozen=True, slots=True)
class RaceCell:
    """One config at one load point.

    ratio, low, high: to the current config, and its interval; None where there is none yet.
    resolution:       of the current config alone: by what share two of it differed here.
    """

    outcome: Outcome | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    resolution: float | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class RaceRow:
    """One config. rounds: in which it gave numbers at one load point or more; why: of a dropped or broken one."""

    label: str
    rounds: int
    state: State
    cells: tuple[RaceCell, ...]
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Race:
    """How a sweep stands.

    objective:  after `× the current config's`. points: the load points of the cells; wheres: in words.
    sentence:   the verdict, if the sweep ended now; empty while nothing was measured.
    rows:       the current config, then the others, the best first and those out of the race last.
    notes, news: of the run; the last that was told since its start, or nothing.
    doing:      what is being measured. done, expected: trials.
    used_s:     of the sweep's time. left_s: of its budget, else as estimated; None while that is not known.
    """

    model: str
    objective: str
    points: tuple[int, ...]
    wheres: tuple[str, ...]
    sentence: str
    rows: tuple[RaceRow, ...]
    notes: tuple[str, ...]
    news: str
    doing: str
    done: int
    expected: int
    used_s: float
    left_s: float | None
    has_budget: bool
    is_over: bool = False
    stop_reason: str = ""


class RaceWatch:
    """A run that is followed, and judged no more often than SHARE of the time allows."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self._verdict: Verdict | None = None
        self._judged_trials = -1
        self._next_s = 0.0

    def look(self) -> Race | None:
        """How it stands now; None before the run begins. UsageError for what is no journal."""
        self.follower.read()
        run = self.follower.run
        if run is None:
            self._verdict = None
            return None
        is_due = time.monotonic() >= self._next_s or self.follower.is_over
        if self._verdict is None or (len(run.trials) != self._judged_trials and is_due):
            begun_s = time.thread_time()
            self._verdict = verdict_of(run.spec, run.arms, run.trials, run.arm_errors)
            self._judged_trials = len(run.trials)
            self._next_s = time.monotonic() + (time.thread_time() - begun_s) / SHARE
        return race_of(run, self._verdict, self.follower, time.time())


def race_of(run: RunResult, verdict: Verdict, follower: Follower, now_s: float) -> Race:
    """verdict: over the trials so far, or a few less; now_s: of the clock."""
    step, is_over = follower.step, follower.is_over
    spec, points = run.spec, verdict.points
    seen = {(t.trial.arm_id, t.trial.round) for t in run.trials if t.summary is not None}
    rounds = Counter(arm_id for arm_id, _ in seen)
    current = RaceRow(
        "current config",
        max((rounds[arm.id] for arm in run.arms if arm.baseline), default=0),
        "current",
        tuple(RaceCell(resolution=point.resolution) for point in points),
    )
    rows = [_row(run, verdict, arm, rounds[arm.id], step, is_over) for arm in _in_order(run, verdict)]
    done = len(run.trials)
    used_s = run.wall_s if is_over else 0.0 if step is None else step.used_s + max(0.0, now_s - step.unix_s)
    return Race(
        spec.model,
        objective_words(spec),
        tuple(point.concurrency for point in points),
        tuple(spec.where_words(point.concurrency) for point in points),
        verdict.sentence if run.trials else "",
        (current, *rows),
        run.notes,
        follower.news,
        "" if step is None or is_over else step.text,
        done,
        done if is_over else max(done, 0 if step is None else step.expected),
        used_s,
        None if is_over else _left_s(run, step, used_s),
        spec.budget_s is not None,
        is_over,
        run.stop_reason if is_over else "",
    )


def _in_order(run: RunResult, verdict: Verdict) -> Sequence[Arm]:
    def height(arm: Arm) -> float:
        ratios = [point.arms[arm.id].ratio for point in verdict.points if arm.id in point.arms]
        logs = [math.log(ratio.value) for ratio in ratios if ratio is not None and ratio.value]
        return sum(logs) / len(logs) if logs else -math.inf

    def key(arm: Arm) -> tuple[bool, bool, float]:
        is_out = arm.id in run.dropped or arm.id in run.arm_errors or arm.id in verdict.broken
        return is_out, arm.id != verdict.arm_id, -height(arm)

    return sorted((arm for arm in run.arms if not arm.baseline), key=key)


def _row(
    run: RunResult, verdict: Verdict, arm: Arm, rounds: int, step: Step | None, is_over: bool
) -> RaceRow:
    cells = []
    for point in verdict.points:
        found = point.arms.get(arm.id)
        if found is None or (found.outcome == "undecided" and found.ratio is None):
            cells.append(RaceCell())  # not measured yet
            continue
        ratio = found.ratio
        interval = None if ratio is None else ratio.interval
        low, high = (None, None) if interval is None else (_finite(interval.low), _finite(interval.high))
        cells.append(
            RaceCell(found.outcome, None if ratio is None else ratio.value, low, high, why=found.why)
        )
    why = run.arm_errors.get(arm.id) or verdict.broken.get(arm.id) or run.dropped.get(arm.id)
    return RaceRow(arm.label, rounds, _state(run, verdict, arm, step, is_over), tuple(cells), why)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _state(run: RunResult, verdict: Verdict, arm: Arm, step: Step | None, is_over: bool) -> State:
    if arm.id in run.arm_errors or arm.id in verdict.broken:
        return "broken"
    if arm.id in run.dropped:
        return "dropped"
    is_told = arm.id == verdict.arm_id
    if is_over:
        return "winner" if is_told and verdict.outcome == "winner" else "measured"
    if step is not None and (step.confirms or step.settles) and arm.id == _in_finals(run, step):
        return "confirming" if step.confirms else "settling"
    value = None if verdict.ratio is None else verdict.ratio.value
    return "ahead" if is_told and value is not None and value > 1 else "racing"


def _in_finals(run: RunResult, step: Step) -> str | None:
    """The arm that the finals now under way are about."""
    pair = {arm.id for arm in run.arms if arm.baseline}
    trials = [(t.trial.arm_id, t.trial.confirms) for t in run.trials if t.trial.confirms or t.trial.settles]
    ids = [*trials, (step.arm_id, step.confirms)]
    return next(
        (arm_id for arm_id, confirms in reversed(ids) if arm_id not in pair and confirms == step.confirms),
        None,
    )


def _left_s(run: RunResult, step: Step | None, used_s: float) -> float | None:
    if run.spec.budget_s is not None:
        return max(0.0, run.spec.budget_s - used_s)
    took_s = [trial.took_s for trial in run.trials if trial.error is None]
    if step is None or not took_s:
        return None
    return max(0, step.expected - len(run.trials)) * sum(took_s) / len(took_s)
