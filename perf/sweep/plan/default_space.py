"""A model's config as the server uses it → a small space worth a first sweep; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.sweep.plan.config_path import ENGINE

COUNT = "instance_group.count"
DELAY = "dynamic_batching.max_queue_delay_microseconds"
DELAYS_US = (0, 500)
SEQUENCES = (1, 8, 32)
"""One at a time, as static batching would have it, and more that join while others run."""


def default_space(config: Mapping[str, Any], cores: int) -> dict[str, list[Any]]:
    """What most often decides: how many instances, and how long the batcher waits.

    Of a language model, how many requests its engine runs at once.
    Instances beyond `cores` are left out; the delay where requests cannot be batched. UsageError for an ensemble,
    which has no settings of its own.
    """
    check_has_settings(config)
    if ENGINE in config:
        return {f"{ENGINE}.max_num_seqs": list(SEQUENCES)}
    space: dict[str, list[Any]] = {COUNT: [count for count in (1, 2, 4) if count <= max(2, cores)]}
    if int(config.get("max_batch_size", 0)) > 1 and "sequence_batching" not in config:
        space[DELAY] = list(DELAYS_US)
    return space


def check_has_settings(config: Mapping[str, Any]) -> None:
    """UsageError with the command that sweeps a composing model, when the model is an ensemble."""
    steps = [step["model_name"] for step in config.get("ensemble_scheduling", {}).get("step", [])]
    if steps:
        raise UsageError(
            f"'{config.get('name')}' is an ensemble: what can be tuned are the models that it is composed of",
            code="ensemble",
            valid=steps,
            fix=f"--model {steps[0]} --load-model {config.get('name')}",
        )
