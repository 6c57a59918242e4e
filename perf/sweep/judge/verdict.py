"""Values of all arms at all load points → the winner or a tie, with intervals; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tritonsmith.perf.load.slo import beyond_words
from tritonsmith.perf.stats import Ratio, fit_rounds, times_end
from tritonsmith.perf.sweep.judge.comparison import ArmComparison, Outcome, load_point
from tritonsmith.perf.sweep.judge.constraints import CellFacts, meets, nearest_miss
from tritonsmith.perf.sweep.judge.objective import MILLION, OBJECTIVES
from tritonsmith.perf.sweep.judge.search import Values, values_table
from tritonsmith.perf.sweep.plan import Arm, SweepSpec

SETTLING_ROUNDS = 3
"""After so many added rounds the values are looked at again."""

__all__ = ["CellFacts", "Outcome", "Verdict", "decide"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the sweep found.

    outcome:     winner (the arm beats the current config), tie (none can be told from it), keep (all others
                 are clearly worse), nothing_fits (no arm meets the constraints), undecided (no interval).
    arm_id:      the winner, or for a tie the arm with the highest value; None when there is none.
    concurrency: the load point of the comparison.
    ratio:       that arm to the current config, in the objective; above 1 is better.
    resolution:  what the A/A pair showed: two identical configs differed by this factor minus 1.
    ratios:      every arm to the current config at that load point, at a level that holds for all of them.
    like_best:   arms that cannot be told from the best one.
    sentence:    the finding for people. notes: what else must be known to read it.
    """

    outcome: Outcome
    sentence: str
    arm_id: str | None = None
    concurrency: int | None = None
    ratio: Ratio | None = None
    resolution: float | None = None
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    like_best: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def decide(
    spec: SweepSpec,
    arms: Sequence[Arm],
    values: Values,
    facts: Mapping[tuple[str, int], CellFacts],
    confirming: frozenset[int] = frozenset(),
    settling: frozenset[int] = frozenset(),
) -> Verdict:
    """The verdict.

    confirming: rounds that were run after the others to see a winner win again; it must beat both of the A/A
    pair in each of them. An arm that was picked because it came out highest owes some of that to luck, and
    these rounds had no part in the picking.
    settling: rounds that were added because an arm was ahead; whoever adds rounds until something shows looks
    more than once, so the intervals are widened for each look.

    The load point is the one where the best arm that meets the constraints has the highest value, and every
    arm is compared with the current config there and nowhere else. Looking for the best of so many arms at so
    many load points finds luck as well as merit, so the intervals hold for all of these comparisons together
    (Šidák). A winner's interval must lie above 1 by more than the A/A pair differed.
    """
    fits = {
        (arm.id, point): meets(spec, facts.get((arm.id, point))) for arm in arms for point in spec.concurrency
    }
    if not values:
        if spec.slo_p99_ms is not None and facts:
            return _no_rate(spec, arms, facts)
        return _undecided("nothing was measured")
    # Rounds at one load point only would move that one's average among the others.
    picking = {cell: value for cell, value in values.items() if cell[2] not in confirming | settling}
    point = load_point(spec.objective_points, arms, picking, fits)
    if point is None:
        return _nothing_fits(spec, arms, facts)
    looks = 1 + -(-len(settling) // SETTLING_ROUNDS)
    others = sum(not arm.baseline for arm in arms)
    comparison = ArmComparison(
        arms,
        fit_rounds(values_table(arms, values, point)),
        frozenset(i for i, arm in enumerate(arms) if fits[arm.id, point]),
        max(1, others * len(spec.objective_points)) * looks,
    )
    if not comparison.baselines:
        return _undecided("the current config could not be measured", point)
    chosen = _chosen(comparison, values, confirming)
    outcome = comparison.outcome(chosen)
    notes = _notes(spec, comparison, values, point, frozenset(a for a, at in facts if at == point))
    if outcome == "winner" and confirming and chosen is not None:
        outcome, told = _confirmed(comparison, chosen, values, point, confirming)
        notes = (*notes, told)
    arm = None if chosen is None else arms[chosen]
    ratio = None if chosen is None else comparison.ratio(chosen)
    return Verdict(
        outcome=outcome,
        arm_id=None if arm is None else arm.id,
        concurrency=point,
        ratio=ratio,
        resolution=comparison.resolution,
        sentence=_sentence(spec, outcome, arm, point, ratio, comparison.resolution),
        ratios={arms[i].id: comparison.ratio(i) for i in comparison.others},
        like_best=tuple(arms[i].id for i in comparison.like_best),
        notes=notes,
    )


def _undecided(why: str, point: int | None = None) -> Verdict:
    return Verdict("undecided", f"Undecided: {why}.", concurrency=point)


def _chosen(comparison: ArmComparison, values: Values, confirming: frozenset[int]) -> int | None:
    """The arm that looks like the winner.

    Only it was measured again in the rounds of confirmation. Another may come out a hair higher afterwards, from fewer
    rounds and so with a wider interval: that takes nothing from the one that was seen to win again.
    """
    candidates = [i for i in comparison.fitting if not comparison.arms[i].baseline]
    again = {arm_id for arm_id, _, round_ in values if round_ in confirming}
    return comparison.highest([i for i in candidates if comparison.arms[i].id in again] or candidates)


def _confirmed(
    comparison: ArmComparison, chosen: int, values: Values, point: int, confirming: frozenset[int]
) -> tuple[Outcome, str]:
    """Whether it won again in each of the rounds of confirmation, and what to say of it."""
    arm, pair = comparison.arms[chosen], [comparison.arms[i].id for i in comparison.baselines]
    rounds = f"{len(confirming)} rounds of confirmation"
    if all(
        values.get((arm.id, point, r), 0.0) > max(values.get((b, point, r), 0.0) for b in pair)
        for r in confirming
    ):
        return "winner", f"It won again in each of {rounds}."
    return "tie", f"{arm.label} looked better and did not win again in {rounds}."


def _sentence(
    spec: SweepSpec,
    outcome: Outcome,
    arm: Arm | None,
    point: int,
    ratio: Ratio | None,
    resolution: float | None,
) -> str:
    what = OBJECTIVES[spec.objective].words
    where = spec.where_words(point)
    if arm is None or ratio is None or ratio.value is None:
        return f"Keep the current config: no other arm meets the constraints {where}."
    numbers = f"{ratio.value:.2f}× the current config's {what} {where}"
    if ratio.interval is None:
        return f"Undecided: {arm.label} shows {numbers}, but {ratio.why}."
    numbers += f" (95 % interval {times_end(ratio.interval.low)} to {times_end(ratio.interval.high)}"
    numbers += ")" if resolution is None else f"; identical configs differed by {resolution:.1%})"
    if outcome == "winner":
        return f"Winner: {arm.label} gives {numbers}."
    if outcome == "keep":
        return f"Keep the current config: every other arm is slower; the closest, {arm.label}, has {numbers}."
    return f"Tie: no arm can be told from the current config; the highest, {arm.label}, has {numbers}."


def _nothing_fits(
    spec: SweepSpec, arms: Sequence[Arm], facts: Mapping[tuple[str, int], CellFacts]
) -> Verdict:
    labels = {arm.id: arm.label for arm in arms}
    nearest = nearest_miss(spec, facts)
    if nearest is None:
        text = "Nothing meets the constraints: no request was answered."
        return Verdict("nothing_fits", text)
    arm_id, point, missed = nearest
    limits = " and ".join(f"{miss.name} ≤ {miss.limit_text}" for miss in missed)
    by = " and ".join(map(str, missed))
    text = f"Nothing meets {limits}: the nearest is {labels[arm_id]} {spec.where_words(point)} with {by}."
    return Verdict("nothing_fits", text, arm_id, point)


def _cost_notes(spec: SweepSpec, arms: Sequence[Arm], values: Values, point: int) -> list[str]:
    """Dollars for a million inferences of the current config and of the cheapest arm at the load point."""
    if spec.objective != "cost":
        return []
    effect = fit_rounds(values_table(arms, values, point)).effect
    dollars = {
        arm.label: MILLION / math.exp(value)
        for arm, value in zip(arms, effect, strict=True)
        if not math.isnan(value) and arm.id != "arm01"
    }
    told = sorted(dollars.items(), key=lambda item: item[1])[:3]
    texts = [f"{label} ${cost:.4g}" for label, cost in told]
    return [f"A million inferences at ${spec.dollars_per_hour:g} an hour cost: {'; '.join(texts)}."]


def _no_rate(spec: SweepSpec, arms: Sequence[Arm], facts: Mapping[tuple[str, int], CellFacts]) -> Verdict:
    """Not one arm kept the limit at any request rate."""
    assert spec.slo_p99_ms is not None
    labels = {arm.id: arm.label for arm in arms}
    known = {cell[0]: fact.p99_ms for cell, fact in facts.items() if fact.p99_ms is not None}
    if not known:
        return Verdict("nothing_fits", "Nothing answered at any request rate.")
    arm_id = min(known, key=lambda arm: known[arm])
    above = beyond_words(known[arm_id] / spec.slo_p99_ms)
    text = (
        f"Nothing keeps p99 ≤ {spec.slo_p99_ms:g} ms at any request rate: the nearest is {labels[arm_id]} "
        f"with {known[arm_id]:.1f} ms, {above}."
    )
    return Verdict("nothing_fits", text, arm_id)


def _notes(
    spec: SweepSpec, comparison: ArmComparison, values: Values, point: int, measured: frozenset[str]
) -> tuple[str, ...]:
    """measured: arms that were put under load there; what became of the others is told elsewhere."""
    arms, resolution = comparison.arms, comparison.resolution
    notes = []
    if comparison.fits.isdisjoint(comparison.baselines):
        notes.append(f"The current config itself misses the constraints {spec.where_words(point)}.")
    out = [arms[i].label for i in comparison.others if i not in comparison.fits and arms[i].id in measured]
    if out:
        notes.append(f"Outside the constraints {spec.where_words(point)}: {'; '.join(out)}.")
    if resolution is not None and resolution > 0.1:
        notes.append(
            f"Two identical configs differed by {resolution:.0%}: the machine is too noisy for more. "
            "More rounds or a quiet machine help."
        )
    notes += _cost_notes(spec, arms, values, point)
    rounds = {key[2] for key in values}
    if len(rounds) < 3:
        notes.append(
            f"{len(rounds)} round{'s' if len(rounds) > 1 else ''}: intervals are wide; 3 or more settle it."
        )
    return tuple(notes)
