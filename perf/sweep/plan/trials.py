"""Arms → the trials of one round in the order to run them; pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tritonsmith.perf.sweep.plan.arms import Arm
from tritonsmith.perf.sweep.plan.spec import Placement, SweepSpec


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm at one load point in one round.

    confirms: of a round that was run to see a winner win again.
    settles:  of a round that was run because an arm was ahead and could not be told from the current config.
    """

    number: int
    round: int
    arm_id: str
    concurrency: int
    confirms: bool = False
    settles: bool = False


def trials_of_round(
    spec: SweepSpec, arms: Sequence[Arm], round_: int, first_number: int, placement: Placement
) -> list[Trial]:
    """The trials of one round, in the order to run them.

    Side by side, all arms follow each other at one load point, so that they share what the machine does just
    then; rounds come in pairs of a shuffled order and its reverse (A B C, C B A), which takes out a steady
    drift. In place, where every change of arm is a reload, an arm's load points stay together, and arms that
    differ in the number of instances alone follow each other: Triton changes that without a reload.
    """
    shuffle = random.Random(f"{spec.seed}/{round_ // 2}")
    points = list(spec.concurrency)
    order = _shuffled(arms, shuffle, placement)
    if round_ % 2:
        order.reverse()
        points.reverse()
    pairs = (
        [(arm, point) for point in points for arm in order]
        if placement != "in_place"
        else [(arm, point) for arm in order for point in points]
    )
    return [Trial(first_number + position, round_, arm, point) for position, (arm, point) in enumerate(pairs)]


def _shuffled(arms: Sequence[Arm], shuffle: random.Random, placement: Placement) -> list[str]:
    mixed = list(arms)
    shuffle.shuffle(mixed)
    if placement != "in_place":
        return [arm.id for arm in mixed]
    families: dict[str, list[str]] = {}
    for arm in mixed:
        groups = [{**group, "count": 1} for group in arm.config.get("instance_group", [])]
        family = repr((arm.variant, sorted({**arm.config, "instance_group": groups}.items()), arm.others))
        families.setdefault(family, []).append(arm.id)
    return [arm_id for family in families.values() for arm_id in family]
