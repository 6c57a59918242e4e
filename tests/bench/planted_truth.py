"""A Python model whose cost a + b·batch is known, on a live server → how often sweeps find the best arm, and cover it.

    python -m tests.bench.planted_truth [--sweeps 20] [--rounds 4] [--seconds 0.3]

The model sleeps a + b·batch ms for each execution, so one instance at a full batch of n answers n / (a + b·n)
inferences a millisecond, and the throughput of each arm is known. The load is closed, of as many requests as
two instances hold in full batches: the arms differ in max_batch_size and in the instance count.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

from tests.bench.live_arms import live_arms, measure_sweep
from tritonsmith.builder.base.text.console import emit_text
from tritonsmith.perf.sweep.plan import Arm, SweepSpec
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array

MODEL = "planted"
A_MS, B_MS = 8.0, 1.0
BATCHES, COUNTS = (2, 4), (1, 2)

_CODE = f"""
import time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        rows = sum(pb_utils.get_input_tensor_by_name(r, "x").as_numpy().shape[0] for r in requests)
        time.sleep(({A_MS} + {B_MS} * rows) / 1000)
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(r, "x").as_numpy())]
            )
            for r in requests
        ]
"""
_CONFIG = """
backend: "python"
max_batch_size: 2
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 2000 }
"""


def write_planted(repository: Path) -> None:
    """The model in a repository."""
    directory = repository / MODEL / "1"
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(_CODE)
    (repository / MODEL / "config.pbtxt").write_text(_CONFIG)


def true_rate_per_s(arm: Arm) -> float:
    """Inferences a second with full batches, from the planted cost alone."""
    batch = int(arm.config["max_batch_size"])
    count = int(arm.config["instance_group"][0]["count"])
    return count * batch / (A_MS + B_MS * batch) * 1000


def main() -> None:
    """Print one line a sweep, then how often the truth was found and covered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.3)
    given = parser.parse_args()
    spec = SweepSpec.model_validate(
        {
            "model": MODEL,
            "space": {"max_batch_size": list(BATCHES), "instance_group.count": list(COUNTS)},
            "concurrency": [2 * max(BATCHES) * max(COUNTS)],
            "rounds": given.rounds,
            "duration_s": given.seconds,
            "warmup_s": 0.1,
        }
    )
    payload = InferPayload(MODEL, (tensor_from_array("x", np.zeros((1, 4), np.float32)),))
    found = covered = intervals = 0
    began_s = time.monotonic()
    with live_arms(spec, write_planted) as (arm_server, arms):
        truth = {arm.id: true_rate_per_s(arm) for arm in arms}
        best = max(truth, key=lambda arm: truth[arm])
        emit_text(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
        emit_text("; ".join(f"{arm.label}: {truth[arm.id]:.0f}/s" for arm in arms if not arm.baseline))
        for number in range(given.sweeps):
            one = spec.model_copy(update={"seed": number})
            verdict, _ = measure_sweep(one, arm_server, arms, lambda arm, trial: [payload])
            equal = verdict.arm_id == best and verdict.outcome == "winner"
            found += equal
            for arm_id, judged in verdict.points[0].arms.items():
                if judged.ratio is not None and judged.ratio.interval is not None:
                    intervals += 1
                    covered += judged.ratio.interval.contains(truth[arm_id] / truth["arm00"])
            emit_text(f"{number + 1:3d}  {verdict.sentence}")
    emit_text(
        f"{given.sweeps} sweeps in {time.monotonic() - began_s:.0f} s: the true best was named in {found}; "
        f"{covered} of {intervals} intervals ({covered / max(1, intervals):.0%}) hold the planted ratio"
    )


if __name__ == "__main__":
    main()
