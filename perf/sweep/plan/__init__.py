"""SweepSpec + the model's current config → arms, rounds of trials and what they will cost; pure."""

from __future__ import annotations

from tritonsmith.perf.sweep.plan.arms import (
    Arm,
    ArmPlanner,
    Choice,
    axes_of,
    plan_arms,
)
from tritonsmith.perf.sweep.plan.cost import (
    END_S,
    check_budget,
    fitted_to_budget,
    round_cost_s,
    trial_cost_s,
)
from tritonsmith.perf.sweep.plan.default_space import check_has_settings, default_space
from tritonsmith.perf.sweep.plan.field_value import CLIENT_BATCH
from tritonsmith.perf.sweep.plan.setting import setting_from_text
from tritonsmith.perf.sweep.plan.spec import (
    DEFAULT_ROUNDS,
    MOST_ROUNDS,
    Placement,
    SweepSpec,
    spec_from_mapping,
    spec_from_yaml,
)
from tritonsmith.perf.sweep.plan.trials import Trial, trials_of_round

__all__ = [
    "CLIENT_BATCH",
    "DEFAULT_ROUNDS",
    "END_S",
    "MOST_ROUNDS",
    "Arm",
    "ArmPlanner",
    "Choice",
    "Placement",
    "SweepSpec",
    "Trial",
    "axes_of",
    "check_budget",
    "check_has_settings",
    "default_space",
    "fitted_to_budget",
    "plan_arms",
    "round_cost_s",
    "setting_from_text",
    "spec_from_mapping",
    "spec_from_yaml",
    "trial_cost_s",
    "trials_of_round",
]
