"""Configs whose truth differs by load point, or is that there is no difference → how often sweeps tell it as such.

    python -m tests.bench.planted_by_load [--sweeps 20] [--rounds 4] [--seconds 0.3] [--truth by_load]

The model sleeps a + b·batch ms for each execution; a and b stand in a parameter of its config, so each config's rate is known
at concurrency 1, where batches are of one, and where twice as many requests as a batch holds are in flight, where they are
full. `by_load`: one config is better alone and worse in batches. `equivalent`: configs that differ by 2 % at most.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.bench.live_arms import live_arms, measure_sweep
from tritonsmith.builder.base.text.console import emit_text
from tritonsmith.perf.sweep.judge.verdict import Verdict
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array

MODEL = "planted"
BATCH = 8
CURRENT = "8,1"
TRUTHS: Mapping[str, tuple[str, ...]] = {"by_load": ("3,3",), "equivalent": ("8.1,1", "7.9,1.01")}
PARAMETER = "parameters.cost.string_value"

_CODE = """
import json, time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        cost = json.loads(args["model_config"])["parameters"]["cost"]["string_value"]
        self.a, self.b = map(float, cost.split(","))

    def execute(self, requests):
        rows = sum(pb_utils.get_input_tensor_by_name(r, "x").as_numpy().shape[0] for r in requests)
        time.sleep((self.a + self.b * rows) / 1000)
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(r, "x").as_numpy())]
            )
            for r in requests
        ]
"""
_CONFIG = f"""
backend: "python"
max_batch_size: {BATCH}
input [{{ name: "x" data_type: TYPE_FP32 dims: [4] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [4] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
parameters {{ key: "cost" value {{ string_value: "{CURRENT}" }} }}
"""


def write_planted(repository: Path) -> None:
    """The model in a repository."""
    directory = repository / MODEL / "1"
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(_CODE)
    (repository / MODEL / "config.pbtxt").write_text(_CONFIG)


def true_ratio(cost: str, concurrency: int) -> float:
    """Of the rate with this cost to the current config's, from the planted costs alone."""
    batch = min(BATCH, concurrency)

    def execution_ms(text: str) -> float:
        a, b = map(float, text.split(","))
        return a + b * batch

    return execution_ms(CURRENT) / execution_ms(cost)


def told_right(truth: str, verdict: Verdict) -> bool:
    """by_load: better alone and worse in batches, in so many words. equivalent: no config better or worse anywhere."""
    outcomes = [found.outcome for point in verdict.points for found in point.arms.values()]
    if truth == "by_load":
        return verdict.outcome == "depends" and outcomes == ["better", "worse"]
    return not {"better", "worse"} & set(outcomes) and verdict.outcome in ("equivalent", "undecided")


def main() -> None:
    """Print one line a sweep, then how often the truth was told and covered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--truth", choices=tuple(TRUTHS), default="by_load")
    given = parser.parse_args()
    costs = TRUTHS[given.truth]
    spec = SweepSpec.model_validate(
        {
            "model": MODEL,
            "space": {PARAMETER: [CURRENT, *costs]},
            "concurrency": [1, 2 * BATCH],
            "rounds": given.rounds,
            "duration_s": given.seconds,
            "warmup_s": 0.1,
        }
    )
    payload = InferPayload(MODEL, (tensor_from_array("x", np.zeros((1, 4), np.float32)),))
    right = covered = intervals = 0
    outcomes: Counter[str] = Counter()
    began_s = time.monotonic()
    with live_arms(spec, write_planted) as (arm_server, arms):
        cost_of = {arm.id: str(arm.settings.get(PARAMETER, CURRENT)) for arm in arms}
        emit_text(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
        for arm in arms:
            told = ", ".join(f"{true_ratio(cost_of[arm.id], c):.3f}× at {c}" for c in spec.concurrency)
            emit_text(f"{arm.label}: {told}")
        for number in range(given.sweeps):
            one = spec.model_copy(update={"seed": number})
            verdict, _ = measure_sweep(one, arm_server, arms, lambda arm, trial: [payload])
            outcomes[verdict.outcome] += 1
            is_right = told_right(given.truth, verdict)
            right += is_right
            for point in verdict.points:
                for arm_id, found in point.arms.items():
                    if found.ratio is not None and found.ratio.interval is not None:
                        intervals += 1
                        covered += found.ratio.interval.contains(
                            true_ratio(cost_of[arm_id], point.concurrency)
                        )
            emit_text(f"{number + 1:3d}  {'right' if is_right else 'WRONG'}  {verdict.sentence}")
    emit_text(
        f"{given.truth}: {given.sweeps} sweeps in {time.monotonic() - began_s:.0f} s: told right in {right}; "
        f"{', '.join(f'{n} {name}' for name, n in outcomes.most_common())}; "
        f"{covered} of {intervals} intervals ({covered / max(1, intervals):.0%}) hold the planted ratio"
    )


if __name__ == "__main__":
    main()
