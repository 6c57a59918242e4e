"""A sweep's result, and what is asked for → the arm to apply, and its ratio where it was chosen for; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tritonsmith.builder.base.errors import UsageError, nearest
from tritonsmith.perf.stats import Ratio
from tritonsmith.perf.sweep.judge.mix import Weights, best_of_mix, mixed_ratio
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RunResult


@dataclass(frozen=True, slots=True)
class Chosen:
    """The arm to apply. ratio: to the current config, `where` it was chosen for; is_better: what was measured says so."""

    arm: Arm
    ratio: Ratio | None
    where: str
    is_better: bool


def chosen_arm(run: RunResult, wanted: str | None, weights: Weights | None = None) -> Chosen | None:
    """The arm to apply: the winner, the best for a load or a mix of loads, or the one asked for by id or label.

    None: what was measured names none.
    """
    arms = {arm.id: arm for arm in run.arms}
    verdict = run.verdict
    if weights is not None:
        unknown = [load for load in weights if verdict.at(load) is None]
        if unknown:
            raise UsageError(
                "configs were not compared at that load",
                code="no_load_point",
                seen=unknown[0],
                valid=[point.concurrency for point in verdict.points],
            )
    arm = None if wanted is None else _arm_named(run, wanted)
    if weights is None:
        is_winner = verdict.outcome == "winner" and (arm is None or arm.id == verdict.arm_id)
        arm = arm or (arms[verdict.arm_id] if is_winner and verdict.arm_id else None)
        where = run.spec.where_words(verdict.concurrency or 0)
        ratio = None if arm is None else verdict.ratio_of(arm.id, verdict.concurrency)
        return None if arm is None else Chosen(arm, ratio, where, is_winner)
    mixed = best_of_mix(verdict, weights) if arm is None else mixed_ratio(verdict, arm.id, weights)
    if arm is None:
        return (
            Chosen(arms[mixed.arm_id], mixed.ratio, mix_words(run, weights), True)
            if mixed and mixed.is_better
            else None
        )
    return Chosen(
        arm,
        None if mixed is None else mixed.ratio,
        mix_words(run, weights),
        mixed is not None and mixed.is_better,
    )


def mix_words(run: RunResult, weights: Weights) -> str:
    """`at concurrency 8`, `over concurrency 1 (70 %) and 32 (30 %)`."""
    if len(weights) == 1:
        return run.spec.where_words(next(iter(weights)))
    total = sum(weights.values())
    return "over concurrency " + " and ".join(
        f"{load} ({share / total:.0%})" for load, share in weights.items()
    )


def weights_from_text(text: str) -> dict[int, float]:
    """`1:0.7,32:0.3` → load point → share; UsageError for what is not that."""
    weights: dict[int, float] = {}
    for part in text.split(","):
        load, _, share = part.partition(":")
        try:
            at, weight = int(load), float(share)
        except ValueError:
            at, weight = 0, 0.0
        if at < 1 or not 0 < weight < math.inf or at in weights:
            raise UsageError(
                "a mix of loads is LOAD:SHARE, each load once, shares above 0",
                code="bad_weights",
                seen=text,
                fix="--weights 1:0.7,32:0.3",
            )
        weights[at] = weight
    return weights


def _arm_named(run: RunResult, wanted: str) -> Arm:
    others = [arm for arm in run.arms if not arm.baseline]
    for arm in run.arms:
        if wanted in (arm.id, arm.label):
            if not arm.baseline:
                return arm
            raise UsageError(
                "that arm is the current config: there is nothing to apply", code="no_arm", seen=wanted
            )
    close = nearest(wanted, [name for arm in others for name in (arm.id, arm.label)])
    raise UsageError(
        "the run has no such arm",
        code="no_arm",
        seen=wanted,
        valid=[f"{arm.id} ({arm.label})" for arm in others],
        fix=f"--arm '{close}'" if close else None,
    )
