"""`p99<=5%` + a comparison → passed, violated, or not to be told, at each load point; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tritonsmith.builder.base.errors import UsageError, nearest
from tritonsmith.perf.report.compare.compare import FAILURES, METRICS, Change, Comparison

Status = Literal["passed", "violated", "open"]
_PATTERN = re.compile(r"\s*([A-Za-z][\w.]*)\s*(<=|>=|≤|≥)\s*([+-]?\d+(?:\.\d+)?)\s*(%?)\s*")
NAMES = (*METRICS, FAILURES)
EXAMPLE = "--gate 'p99<=5%' --gate 'throughput>=-3%'"


@dataclass(frozen=True, slots=True)
class Gate:
    """The change of a metric from A to B must be at most (or at least) a fraction; 0.05 is 5 %.

    Of failures the change is in percentage points of the requests.
    """

    text: str
    metric: str
    at_most: bool
    limit: float

    def judge(self, change: Change) -> Status:
        """Violated when the whole interval lies beyond the limit, passed when none of it does, else open.

        A metric that A has and B has not (every request failed) is violated; one without an interval is open, as all
        are of runs that did not measure the same.
        """
        if not change.comparable:
            return "open"
        if change.a and not change.b and change.metric != FAILURES:
            return "violated"
        if change.interval is None:
            return "open"
        low, high = change.interval.low, change.interval.high
        if self.at_most:
            return "violated" if low > self.limit else "passed" if high <= self.limit else "open"
        return "violated" if high < self.limit else "passed" if low >= self.limit else "open"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One gate at one load point."""

    gate: Gate
    point: str
    change: Change
    status: Status


def gate_from_text(text: str) -> Gate:
    """UsageError bad_gate, which says what is wrong: the metric, the sign, the unit."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise UsageError(
            "a gate is METRIC<=N% or METRIC>=-N%, the change from A to B",
            code="bad_gate",
            seen=text,
            fix=EXAMPLE,
        )
    name, sign, number, percent = match.groups()
    if name not in NAMES:
        close = nearest(name, NAMES)
        raise UsageError(
            f"no metric '{name}'",
            code="bad_gate",
            seen=text,
            valid=NAMES,
            fix=f"did you mean {close}?" if close else None,
        )
    at_most = sign in ("<=", "≤")
    if not percent:
        raise UsageError(
            "a gate is about a change, in percent",
            code="bad_gate",
            seen=text,
            fix=f"'{name}{sign}{number}%'; for a limit in ms: tritonsmith sweep --max-p99",
        )
    if at_most != (name == FAILURES or METRICS[name].better < 0):
        other = ">=" if at_most else "<="
        raise UsageError(
            f"more {name} is {'better' if at_most else 'worse'}, so its gate has {other}",
            code="bad_gate",
            seen=text,
            fix=f"'{name}{other}{'-' if at_most else ''}{number.lstrip('+-')}%'",
        )
    return Gate(text.strip(), name, at_most, float(number) / 100)


def judge(comparison: Comparison, gates: Sequence[Gate]) -> list[Judgement]:
    """Every gate at every load point that was compared; once where the runs have none in common."""
    return list(_judge(comparison, gates))


def _judge(comparison: Comparison, gates: Sequence[Gate]) -> Iterator[Judgement]:
    for gate in gates:
        for point in comparison.points:
            for change in point.changes:
                if change.metric == gate.metric:
                    yield Judgement(gate, point.label, change, gate.judge(change))
        if not comparison.points:
            nothing = Change(gate.metric, None, None, None, None, why="not comparable", comparable=False)
            yield Judgement(gate, "no load in common", nothing, gate.judge(nothing))


def says_no(judgements: Sequence[Judgement], strict: bool) -> bool:
    """Whether the gate closes: a violation, runs that are not comparable, or with `strict` anything short of a pass."""
    return any(
        j.status == "violated" or (j.status == "open" and (strict or not j.change.comparable))
        for j in judgements
    )
