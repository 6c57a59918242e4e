"""SweepSpec + arms → seconds that a trial, a round and a whole sweep take, held against the budget; pure."""

from __future__ import annotations

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.sweep.plan.spec import Placement, SweepSpec

TRIAL_OVERHEAD_S = 0.08
PROBES_A_SEARCH = 10
LOAD_ARM_S = 2.0
LEAST_DURATION_S = 0.3
FITTED_ROUNDS = 4
END_S = 2.0  # kept back from the budget: unloading or stopping, and the report


def trial_cost_s(spec: SweepSpec) -> float:
    """What one trial takes, before any was measured."""
    one_s = spec.warmup_s + spec.duration_s + TRIAL_OVERHEAD_S
    return one_s if spec.slo_p99_ms is None else PROBES_A_SEARCH * one_s


def round_cost_s(spec: SweepSpec, arms: int, placement: Placement, trial_s: float | None = None) -> float:
    """What one round takes; in place, one reload an arm is part of it."""
    trial_s = trial_cost_s(spec) if trial_s is None else trial_s
    reloads_s = arms * LOAD_ARM_S if placement == "in_place" else 0.0
    return arms * len(spec.concurrency) * trial_s + reloads_s


def fitted_to_budget(spec: SweepSpec, arms: int, placement: Placement) -> SweepSpec:
    """Shorter measurements, down to LEAST_DURATION_S, where the budget would end before FITTED_ROUNDS rounds.

    Rounds tell how noisy the machine is, so four short ones say more than two long ones. A duration or a number
    of rounds that was asked for stays.
    """
    if (
        spec.budget_s is None
        or spec.slo_p99_ms is not None
        or spec.model_fields_set & {"duration_s", "rounds"}
    ):
        return spec
    fixed_s = END_S + (0.0 if placement == "in_place" else arms * LOAD_ARM_S / 2)
    reloads_s = arms * LOAD_ARM_S if placement == "in_place" else 0.0
    round_s = 0.8 * (spec.budget_s - fixed_s) / FITTED_ROUNDS - reloads_s
    trial_s = round_s / (arms * len(spec.concurrency))
    duration_s = trial_s - spec.warmup_s - TRIAL_OVERHEAD_S
    if duration_s >= spec.duration_s:
        return spec
    return spec.model_copy(update={"duration_s": round(max(LEAST_DURATION_S, duration_s), 2)})


def check_budget(spec: SweepSpec, arms: int, placement: Placement) -> None:
    """UsageError when not even one round fits into the budget; it says what would."""
    if spec.budget_s is None:
        return
    load_s = END_S + (0.0 if placement == "in_place" else arms * LOAD_ARM_S / 2)
    needed = load_s + round_cost_s(spec, arms, placement)
    if needed <= spec.budget_s:
        return
    points = len(spec.concurrency)
    left = (spec.budget_s - load_s - (arms * LOAD_ARM_S if placement == "in_place" else 0)) / (arms * points)
    duration = left - spec.warmup_s - TRIAL_OVERHEAD_S
    fits = []
    if duration >= 0.1:
        fits.append(f"--duration {int(duration * 10) / 10:g}s")
    per_arm_s = needed / arms
    if spec.budget_s / per_arm_s >= 3:
        fits.append(f"{int(spec.budget_s / per_arm_s) - 2} combinations instead of {arms - 2}")
    trials = f"{arms} arms × {points} load points × {trial_cost_s(spec):.1f} s"
    raise UsageError(
        f"one round of {trials} needs about {needed:.0f} s",
        code="budget_too_small",
        seen=f"a budget of {spec.budget_s:g} s",
        valid=fits,
        fix=f"--budget {needed * 1.1:.0f}s",
    )
