"""Values of all arms at all load points → how each arm stands at each, and the finding over all of them; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tritonsmith.perf.load.slo import beyond_words
from tritonsmith.perf.stats import Ratio, fit_rounds
from tritonsmith.perf.sweep.judge import words
from tritonsmith.perf.sweep.judge.comparison import ArmVerdict, Outcome, PointComparison, PointVerdict
from tritonsmith.perf.sweep.judge.constraints import CellFacts, nearest_miss, why_out
from tritonsmith.perf.sweep.judge.objective import MILLION
from tritonsmith.perf.sweep.judge.search import Values, values_table
from tritonsmith.perf.sweep.plan import Arm, SweepSpec

SETTLING_ROUNDS = 3
"""After so many added rounds the values are looked at again."""
CONFIRMING_ROUNDS = 3
"""An arm that is no better is the best of three in all of them in 1 of 27 cases."""
AHEAD = 1.05
"""A ratio above this may yet turn out better."""

Finding = Literal["winner", "depends", "keep", "equivalent", "undecided", "nothing_fits", "failed"]
"""Over all load points.

winner:       an arm is better at one load point or more, and worse at none.
depends:      whoever is better somewhere is worse somewhere else.
equivalent:   nothing is better, all is decided, and an arm is equivalent at every load point.
keep:         nothing is better; what is not decided is not ahead, and its arm is worse at another load point.
undecided:    nothing is better yet, and something may be.
nothing_fits: no arm, the current config neither, meets the constraints anywhere.
failed:       there is nothing to compare: the current config, or everything beside it, does not work.
"""

__all__ = ["ArmVerdict", "CellFacts", "Finding", "Outcome", "PointVerdict", "Verdict", "decide"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the sweep found.

    sentence:    the finding for people. notes: what else must be known to read it.
    arm_id:      the arm that the sentence is about: the winner, or the one that comes nearest to it.
    concurrency: the load point where the sentence begins. ratio: of that arm there; resolution: of the A/A pair there.
    points:      every load point at which arms are compared.
    broken:      arm id → why it does not work, at one load point at least.
    """

    outcome: Finding
    sentence: str
    arm_id: str | None = None
    concurrency: int | None = None
    ratio: Ratio | None = None
    resolution: float | None = None
    points: tuple[PointVerdict, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def at(self, concurrency: int | None) -> PointVerdict | None:
        """The load point; None when arms are not compared there."""
        return next((point for point in self.points if point.concurrency == concurrency), None)

    def of(self, arm_id: str, concurrency: int | None) -> ArmVerdict | None:
        """One arm at one load point."""
        point = self.at(concurrency)
        return None if point is None else point.arms.get(arm_id)

    def ratio_of(self, arm_id: str, concurrency: int | None) -> Ratio | None:
        """To the current config."""
        found = self.of(arm_id, concurrency)
        return None if found is None else found.ratio


def decide(
    spec: SweepSpec,
    arms: Sequence[Arm],
    values: Values,
    facts: Mapping[tuple[str, int], CellFacts],
    confirming: frozenset[int] = frozenset(),
    settling: frozenset[int] = frozenset(),
    errors: Mapping[str, str] | None = None,
) -> Verdict:
    """The verdict.

    confirming: rounds that were run after the others to see an arm win again; it must beat both of the A/A pair in each of
    them. An arm that was picked because it came out highest owes some of that to luck, and these rounds had no part in the
    picking.
    settling: rounds that were added because an arm was ahead; whoever adds rounds until something shows looks more than
    once, so the intervals are widened for each look.
    errors: arm id → why it is out of the race.

    Every arm is compared with the current config at every load point. Looking at so many finds luck as well as merit, so
    the intervals hold for all of these comparisons together (Šidák). To be better, an interval must lie above 1 by more
    than the A/A pair differed there.
    """
    errors = errors or {}
    if not values and spec.slo_p99_ms is not None and facts:
        return _no_rate(spec, arms, facts)
    looks = 1 + -(-len(settling) // SETTLING_ROUNDS)
    others = sum(not arm.baseline for arm in arms)
    comparisons = max(1, others * len(spec.objective_points)) * looks
    refuted = _refuted(arms, values, confirming)
    points = []
    for point in spec.objective_points:
        out: dict[int, tuple[Outcome, str]] = {}
        for place, arm in enumerate(arms):
            fact = facts.get((arm.id, point))
            reason = None if fact is None else why_out(spec, fact)
            if arm.id in errors and not arm.baseline:
                out[place] = ("broken", errors[arm.id])
            elif reason is not None:
                out[place] = reason
        again = frozenset(i for i, arm in enumerate(arms) if arm.id in refuted)
        table = fit_rounds(values_table(arms, values, point))
        points.append(PointComparison(point, arms, table, out, again, comparisons, spec.margin).verdict())
    return _found(spec, arms, values, facts, tuple(points), confirming, errors)


def _found(
    spec: SweepSpec,
    arms: Sequence[Arm],
    values: Values,
    facts: Mapping[tuple[str, int], CellFacts],
    points: tuple[PointVerdict, ...],
    confirming: frozenset[int],
    errors: Mapping[str, str],
) -> Verdict:
    labels = {arm.id: arm.label for arm in arms}
    broken = {arm.id: errors[arm.id] for arm in arms if arm.id in errors and not arm.baseline}
    for point in points:
        for failing in point.having("broken"):
            broken.setdefault(failing, point.arms[failing].why or "")
    if not values and not broken and not facts:
        return Verdict("undecided", "Undecided: nothing was measured.", points=points)
    if facts and all(point.best is None for point in points):
        return _nothing_fits(spec, labels, facts, points, broken)
    told = [p for p in points if p.current_fits or p.best is not None]
    measured = {(a, p) for a, p, _ in values}
    if not any((arm.id, p.concurrency) in measured for arm in arms if arm.baseline for p in points):
        return Verdict("failed", words.no_current(spec), points=points, broken=broken)
    if all(found.outcome == "broken" for point in told for found in point.arms.values()):
        return Verdict("failed", words.all_broken(labels, broken), points=points, broken=broken)
    outcome = _outcome(points)
    arm_id, at = _headline(outcome, points, {a for a, _, round_ in values if round_ in confirming})
    here = next((p for p in points if p.concurrency == at), None)
    verdict = Verdict(
        outcome,
        "",
        arm_id,
        at,
        here.arms[arm_id].ratio if here and arm_id else None,
        here.resolution if here else None,
        points,
        broken,
    )
    sentence = words.sentence(spec, labels, outcome, points, arm_id, here)
    notes = [*words.notes(spec, labels, points, broken, arm_id if outcome in ("winner", "depends") else None)]
    notes += _confirmation(labels, points, verdict, values, confirming)
    notes += _cost_notes(spec, arms, values, at)
    rounds = {key[2] for key in values}
    if len(rounds) < 3:
        many = "s" if len(rounds) > 1 else ""
        notes.append(f"{len(rounds)} round{many}: intervals are wide; 3 or more settle it.")
    return Verdict(
        outcome, sentence, arm_id, at, verdict.ratio, verdict.resolution, points, broken, tuple(notes)
    )


# The finding over all load points.


def _by_arm(points: Sequence[PointVerdict]) -> dict[str, list[tuple[PointVerdict, ArmVerdict]]]:
    """Arm → how it stands wherever it works; a broken one is not ranked anywhere."""
    found: dict[str, list[tuple[PointVerdict, ArmVerdict]]] = {}
    for point in points:
        for arm_id, one in point.arms.items():
            found.setdefault(arm_id, []).append((point, one))
    return {arm: cells for arm, cells in found.items() if all(one.outcome != "broken" for _, one in cells)}


def is_clean(cells: Sequence[tuple[PointVerdict, ArmVerdict]]) -> bool:
    """Better somewhere, and nowhere worse or outside a limit that the current config meets."""
    outcomes = [one.outcome for _, one in cells]
    loses = any(
        o == "worse" or (o == "outside" and p.current_fits) for (p, _), o in zip(cells, outcomes, strict=True)
    )
    return "better" in outcomes and not loses


def _outcome(points: Sequence[PointVerdict]) -> Finding:
    arms = _by_arm(points).values()
    if any(is_clean(cells) for cells in arms):
        return "winner"
    outcomes = [{one.outcome for _, one in cells} for cells in arms]
    if any("better" in found for found in outcomes):
        return "depends"
    if any(_may_be_better(cells) for cells in arms):
        return "undecided"
    return "equivalent" if {"equivalent"} in outcomes else "keep"


def _may_be_better(cells: Sequence[tuple[PointVerdict, ArmVerdict]]) -> bool:
    """What is worse at one load point has to be ahead at another for that to matter."""
    open_ = [one for _, one in cells if one.outcome == "undecided"]
    loses = any(one.outcome == "worse" for _, one in cells)
    return any(not loses or one.ratio is None or (one.ratio.value or AHEAD) >= AHEAD for one in open_)


def _height(ratio: Ratio | None, *, low: bool = False) -> float:
    if ratio is None or ratio.value is None:
        return -math.inf
    return math.log(ratio.interval.low if low and ratio.interval else ratio.value)


def _headline(
    outcome: Finding, points: Sequence[PointVerdict], confirmed: set[str]
) -> tuple[str | None, int | None]:
    """(the arm that the sentence is about, the load point where it begins).

    Of several winners it is the one with the highest ratio on average over the load points. Only it was measured again in
    the rounds of confirmation: another that comes out a hair higher afterwards, from fewer rounds, takes nothing from it.
    """
    arms = _by_arm(points)
    if outcome == "winner":
        clean = {arm: cells for arm, cells in arms.items() if is_clean(cells)}
        clean = {arm: cells for arm, cells in clean.items() if arm in confirmed} or clean

        def mean(arm: str) -> float:
            heights = [
                _height(one.ratio) for _, one in clean[arm] if one.ratio is not None and one.ratio.value
            ]
            return sum(heights) / len(heights) if heights else 0.0

        arm_id = max(clean, key=mean)
        better = [(p, one) for p, one in clean[arm_id] if one.outcome == "better"]
        return arm_id, max(better, key=lambda cell: _height(cell[1].ratio, low=True))[0].concurrency
    wanted = {"depends": "better", "undecided": "undecided"}.get(outcome)
    cells = [(arm, p, one) for arm, found in arms.items() for p, one in found]
    cells = [cell for cell in cells if wanted in (None, cell[2].outcome)] or cells
    ranked = [cell for cell in cells if cell[2].ratio is not None and cell[2].ratio.value]
    if not ranked:
        return (cells[0][0], cells[0][1].concurrency) if cells else (None, None)
    arm_id, point, _ = max(ranked, key=lambda cell: _height(cell[2].ratio, low=outcome == "depends"))
    return arm_id, point.concurrency


def _refuted(arms: Sequence[Arm], values: Values, confirming: frozenset[int]) -> set[str]:
    """Arms that were measured again in rounds of confirmation and did not win in each of them.

    A round of theirs that has no value was not won.
    """
    pair = [arm.id for arm in arms if arm.baseline]
    again: dict[tuple[str, int], list[bool]] = {}
    for (arm, point, round_), value in values.items():
        if round_ in confirming and arm not in pair:
            best = max((values.get((one, point, round_), 0.0) for one in pair), default=0.0)
            again.setdefault((arm, point), []).append(value > best)
    return {arm for (arm, _), won in again.items() if len(won) < CONFIRMING_ROUNDS or not all(won)}


def _confirmation(
    labels: Mapping[str, str],
    points: Sequence[PointVerdict],
    verdict: Verdict,
    values: Values,
    confirming: frozenset[int],
) -> Iterator[str]:
    """What came of seeing it win again."""
    rounds = f"{CONFIRMING_ROUNDS} rounds of confirmation"
    for arm_id, point in sorted({(a, p) for a, p, r in values if r in confirming}):
        found = next((p.arms.get(arm_id) for p in points if p.concurrency == point), None)
        if found is None:
            continue
        if found.outcome == "better" and arm_id == verdict.arm_id:
            yield f"It won again in each of {rounds}."
        elif found.outcome != "better":
            yield f"{labels[arm_id]} looked better and did not win again in {rounds}."


# Where nothing can be ranked.


def _nothing_fits(
    spec: SweepSpec,
    labels: Mapping[str, str],
    facts: Mapping[tuple[str, int], CellFacts],
    points: tuple[PointVerdict, ...],
    broken: Mapping[str, str],
) -> Verdict:
    nearest = nearest_miss(spec, facts)
    if nearest is None:
        return Verdict("failed", "Failed: no request was answered.", points=points, broken=broken)
    arm_id, point, missed = nearest
    limits = " and ".join(f"{miss.name} ≤ {miss.limit_text}" for miss in missed)
    by = " and ".join(map(str, missed))
    text = f"Nothing meets {limits}: the nearest is {labels[arm_id]} {spec.where_words(point)} with {by}."
    return Verdict("nothing_fits", text, arm_id, point, points=points, broken=broken)


def _no_rate(spec: SweepSpec, arms: Sequence[Arm], facts: Mapping[tuple[str, int], CellFacts]) -> Verdict:
    """Not one arm kept the limit at any request rate."""
    assert spec.slo_p99_ms is not None
    labels = {arm.id: arm.label for arm in arms}
    known = {cell[0]: fact.p99_ms for cell, fact in facts.items() if fact.p99_ms is not None}
    if not known:
        return Verdict("failed", "Failed: nothing answered at any request rate.")
    arm_id = min(known, key=lambda arm: known[arm])
    above = beyond_words(known[arm_id] / spec.slo_p99_ms)
    text = (
        f"Nothing keeps p99 ≤ {spec.slo_p99_ms:g} ms at any request rate: the nearest is {labels[arm_id]} "
        f"with {known[arm_id]:.1f} ms, {above}."
    )
    return Verdict("nothing_fits", text, arm_id)


def _cost_notes(spec: SweepSpec, arms: Sequence[Arm], values: Values, point: int | None) -> list[str]:
    """Dollars for a million inferences of the current config and of the cheapest arms at the load point."""
    if spec.objective != "cost" or point is None:
        return []
    effect = fit_rounds(values_table(arms, values, point)).effect
    dollars = {
        arm.label: MILLION / math.exp(value)
        for arm, value in zip(arms, effect, strict=True)
        if not math.isnan(value) and arm.id != "arm01"
    }
    told = sorted(dollars.items(), key=lambda item: item[1])[:3]
    texts = [f"{label} ${cost:.4g}" for label, cost in told]
    what = "output tokens" if spec.osl else "inferences"
    return [f"A million {what} at ${spec.dollars_per_hour:g} an hour cost: {'; '.join(texts)}."]
