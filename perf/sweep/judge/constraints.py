"""(what one arm showed at one load point, the spec's limits) → which limits it misses and by how much; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tritonsmith.perf.load.slo import beyond_words
from tritonsmith.perf.sweep.plan import SweepSpec


@dataclass(frozen=True, slots=True)
class CellFacts:
    """What constraints look at, for one arm at one load point over all its rounds.

    p99_ms:        the median over the rounds; None when no round had an answer.
    failure_share: failed requests of all.
    wrong_share:   wrong answers of those checked; None when none was checked.
    memory_mib:    the most of all rounds; None where it cannot be seen.
    failure:       the most frequent reason of failed requests.
    """

    p99_ms: float | None
    failure_share: float
    wrong_share: float | None = None
    memory_mib: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """A limit from above. text: a value of it for people. is_share: misses are told in points, not relative."""

    name: str
    limit: Callable[[SweepSpec], float | None]
    value: Callable[[CellFacts], float | None]
    text: str
    is_share: bool = False


CONSTRAINTS: Sequence[Constraint] = (
    Constraint("p99", lambda s: s.max_p99_ms, lambda f: f.p99_ms, "{:g} ms"),
    Constraint("memory", lambda s: s.max_memory_mib, lambda f: f.memory_mib, "{:.0f} MiB"),
    Constraint("failed requests", lambda s: s.max_failures, lambda f: f.failure_share, "{:.2%}", True),
    Constraint("wrong answers", lambda s: s.max_wrong, lambda f: f.wrong_share, "{:.2%}", True),
)


@dataclass(frozen=True, slots=True)
class Miss:
    """A limit that was not met. excess: 0.1 is 10 % above the limit, or 10 points of a share."""

    name: str
    limit_text: str
    value_text: str
    excess: float
    is_share: bool

    def __str__(self) -> str:
        above = f"{100 * self.excess:.1f} points above" if self.is_share else beyond_words(1 + self.excess)
        return f"{self.value_text}, {above}"


def misses(spec: SweepSpec, facts: CellFacts) -> tuple[Miss, ...]:
    """Every limit that the cell misses; a value that could not be seen misses nothing."""
    found = []
    for row in CONSTRAINTS:
        limit, value = row.limit(spec), row.value(facts)
        if limit is None or value is None or value <= limit:
            continue
        excess = value - limit if row.is_share else value / limit - 1
        shown = f"{value:.1f} ms" if row.name == "p99" else row.text.format(value)
        found.append(Miss(row.name, row.text.format(limit), shown, excess, row.is_share))
    return tuple(found)


def meets(spec: SweepSpec, facts: CellFacts | None) -> bool:
    """Whether the arm counts at this load point; without an answer it does not."""
    return facts is not None and why_out(spec, facts) is None


def why_out(spec: SweepSpec, facts: CellFacts) -> tuple[Literal["broken", "outside"], str] | None:
    """Why the arm does not count at this load point: it does not work there, or it misses a limit; None: it counts."""
    if facts.p99_ms is None:
        return (
            "broken",
            f"no request was answered: {facts.failure}" if facts.failure else "no request was answered",
        )
    missed = misses(spec, facts)
    wrong = next((miss for miss in missed if miss.is_share), None)
    if wrong is not None:
        reason = f": {facts.failure}" if facts.failure else ""
        return "broken", f"{wrong.value_text} {wrong.name}{reason}"
    return ("outside", " and ".join(f"{m.name} {m}" for m in missed)) if missed else None


def nearest_miss(
    spec: SweepSpec, facts: Mapping[tuple[str, int], CellFacts]
) -> tuple[str, int, tuple[Miss, ...]] | None:
    """(arm, load point, its misses) of the cell that misses the fewest limits, and of those by the least."""
    cells = [
        (len(missed), max(m.excess for m in missed), cell, missed)
        for cell, fact in facts.items()
        if cell[1] in spec.objective_points and fact.p99_ms is not None and (missed := misses(spec, fact))
    ]
    if not cells:
        return None
    _, _, (arm_id, point), missed = min(cells, key=lambda c: c[:3])
    return arm_id, point, missed
