"""A sweep's verdict so far → rounds of a few arms that settle a lead, or see a winner win again; pure."""

from __future__ import annotations

from collections.abc import Sequence

from tritonsmith.perf.sweep.judge.verdict import AHEAD, CONFIRMING_ROUNDS, SETTLING_ROUNDS, Verdict
from tritonsmith.perf.sweep.plan import Arm, Trial

__all__ = [
    "CONFIRMING_ROUNDS",
    "SETTLING_LOOKS",
    "SETTLING_ROUNDS",
    "final_trials",
    "is_worth_settling",
]

SETTLING_LOOKS = 2
"""How often SETTLING_ROUNDS are added and looked at; the intervals allow for it, see perf.sweep.judge.verdict.decide."""
FEWEST_ROUNDS = 3


def is_worth_settling(verdict: Verdict, rounds: int) -> bool:
    """Undecided, and the highest arm is ahead by 5 % and by more than the A/A pair differs: the interval is what is wide.

    rounds: measured so far; whoever asked for fewer than three did not ask for an answer that holds.
    """
    ratio = None if verdict.ratio is None else verdict.ratio.value
    ahead = ratio is not None and ratio > max(AHEAD, 1 + (verdict.resolution or 0.0))
    return rounds >= FEWEST_ROUNDS and verdict.outcome == "undecided" and ahead


def final_trials(
    arms: Sequence[Arm],
    verdict: Verdict,
    first_round: int,
    first_number: int,
    *,
    confirms: bool,
) -> list[Trial]:
    """The verdict's arm beside the A/A pair at the load point where its sentence begins, in rounds of alternating order."""
    assert verdict.arm_id is not None and verdict.concurrency is not None
    ids = [arm.id for arm in arms if arm.baseline]
    ids.insert(1, verdict.arm_id)
    trials: list[Trial] = []
    rounds = CONFIRMING_ROUNDS if confirms else SETTLING_ROUNDS
    for round_ in range(first_round, first_round + rounds):
        turn = round_ % len(ids)
        for one in (*ids[turn:], *ids[:turn]):
            number = first_number + len(trials)
            trials.append(Trial(number, round_, one, verdict.concurrency, confirms, settles=not confirms))
    return trials
