"""Instance count × queue delay × precision on the embedded server → the sweep's own verdict, with its intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.doctor.gpu_check.step import UnexpectedError
from tritonsmith.perf.doctor.gpu_check.steps import models
from tritonsmith.perf.doctor.gpu_check.steps.serving import MODEL, require_onnxruntime_gpu
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.run.session import sweep_target
from tritonsmith.perf.sweep.target import SweepTarget

BATCHING = "dynamic_batching { max_queue_delay_microseconds: 0 }\n"
_BUDGET_S = {"gpu": 90.0, "cpu": 75.0}
_PRECISION = {"gpu": "fp16", "cpu": "int8"}


def sweep(device: str, work: Path, argument: str) -> dict[str, Any]:
    """Every arm must have been measured, and the verdict must be one; which it is, is a fact."""
    if device == "gpu":
        require_onnxruntime_gpu()
    kind, precision = ("KIND_GPU" if device == "gpu" else "KIND_CPU"), _PRECISION[device]
    onnx = models.perceptron(work / "perceptron.onnx")
    repository = models.repository(work / "repository", MODEL, onnx, kind, BATCHING)
    converted = models.converted(onnx, precision, work / "converted")
    variant = models.repository(work / "variants", f"{MODEL}_{precision}", converted, kind, BATCHING)
    spec = SweepSpec(
        model=MODEL,
        space={"instance_group.count": [1, 2], "dynamic_batching.max_queue_delay_microseconds": [0, 500]},
        variants={precision: str(variant / f"{MODEL}_{precision}")},
        concurrency=(8,),
        duration_s=0.3,
        warmup_s=0.1,
        budget_s=_BUDGET_S[device],
    )
    result = sweep_target(
        spec,
        SweepTarget("embedded", repository),
        DataOptions(),
        work / "sweep",
        command="tritonsmith doctor --gpu",
    )
    facts = {
        "arms": len(result.arms),
        "trials": len(result.trials),
        "verdict": json_of(result.verdict),
        "stop_reason": result.stop_reason,
        "wall_s": result.wall_s,
        "notes": list(result.notes),
    }
    if result.arm_errors:
        raise UnexpectedError(f"arms that could not be served: {dict(result.arm_errors)}", **facts)
    measured = {done.trial.arm_id for done in result.trials if done.summary is not None}
    if unmeasured := [arm.id for arm in result.arms if arm.id not in measured]:
        why = f"{len(unmeasured)} of {len(result.arms)} arms were not measured within {_BUDGET_S[device]:g} s"
        raise UnexpectedError(why, **facts)
    if not result.complete or result.verdict.outcome == "undecided":
        raise UnexpectedError(f"no verdict: {result.verdict.sentence} ({result.stop_reason})", **facts)
    return facts
