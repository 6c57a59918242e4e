"""Arms on a real tritonserver whose answers are not the current config's, or not twice the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.onnx_models import add_model, model, tensor
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.actions.accuracy.laid_out import ServedAccuracy, write_accuracy
from tritonsmith.perf.server import control
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.run import SweepOptions, run_sweep
from tritonsmith.perf.sweep.run_record import JOURNAL, RunResult, load_run

pytestmark = pytest.mark.server

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""


def matmul(weights: np.ndarray[Any, Any], to: int = TensorProto.FLOAT) -> Any:
    """y = x · weights, computed in this type."""
    dtype = helper.tensor_dtype_to_np_dtype(to)
    return model(
        [
            helper.make_node("Cast", ["x"], ["in"], to=to),
            helper.make_node("MatMul", ["in", "w"], ["out"]),
            helper.make_node("Cast", ["out"], ["y"], to=TensorProto.FLOAT),
        ],
        [tensor("x", ["batch", 4])],
        [tensor("y", ["batch", 4])],
        {"w": weights.astype(dtype)},
    )


def swept(
    triton: LiveTriton, name: str, output: Path, *, in_place: bool = False, **changes: Any
) -> RunResult:
    quick = {"concurrency": [2], "rounds": 1, "duration_s": 0.1, "warmup_s": 0.03}
    spec = SweepSpec.model_validate({"model": name, **quick, **changes})
    scratch = None if in_place else triton.repository
    return run_sweep(spec, triton.server, SweepOptions((triton.repository,), scratch, output))


@pytest.fixture
def weights(triton: LiveTriton) -> Iterator[np.ndarray[Any, Any]]:
    made = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    triton.load("held", matmul(made), CONFIG)
    yield made
    control.unload_model(triton.http_url, "held")


@pytest.mark.parametrize(
    "names", [("changed",), pytest.param(("changed", "half"), marks=pytest.mark.nightly)]
)
@pytest.mark.nightly
def test_a_variant_with_one_weight_changed_is_out_and_one_of_another_precision_is_not(
    triton: LiveTriton, weights: np.ndarray[Any, Any], tmp_path: Path, names: tuple[str, ...]
) -> None:
    changed = weights.copy()
    changed[2, 1] += 0.31
    add_model(tmp_path, "changed", matmul(changed), CONFIG)
    add_model(tmp_path, "half", matmul(weights, TensorProto.FLOAT16), CONFIG)
    write_accuracy(tmp_path / "half", ServedAccuracy("fp16"))
    variants = {name: str(tmp_path / name) for name in names}
    run = swept(triton, "held", tmp_path / "run", variants=variants)
    assert [arm.variant for arm in run.arms] == ["", "", *names]
    (error,) = run.arm_errors.values()
    assert error.startswith("answers differ: output y, largest deviation 0."), error
    assert "at request" in error and "(allowed 0.0" in error
    assert {t.trial.arm_id for t in run.trials} == {"arm00", "arm01", "arm03"} & {arm.id for arm in run.arms}
    right = len(run.arms) - 1
    assert f"{right} of {right + 1} arms gave the current config's answers to 8 requests each." in run.notes
    assert load_run(tmp_path / "run").arm_errors == run.arm_errors
    lines = [json.loads(line) for line in (tmp_path / "run" / JOURNAL).read_text().splitlines()]
    (told,) = (line for line in lines if line["event"] == "answers")
    assert [arm for arm, differs in told["held"].items() if differs] == ["arm02"]


@pytest.mark.nightly
def test_arms_in_place_are_held_as_they_come_and_any_answers_may_be_asked_for(
    triton: LiveTriton, weights: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    add_model(tmp_path, "other", matmul(weights * 1.01), CONFIG)
    wanted: dict[str, Any] = {
        "variants": {"wrong": str(tmp_path / "other")},
        "space": {"instance_group.count": [1, 2]},
    }
    for answers, out in (("same", {"arm03", "arm04"}), ("any", set())):
        run = swept(triton, "held", tmp_path / answers, placement="in_place", answers=answers, **wanted)
        assert set(run.arm_errors) == out, run.arm_errors
        assert all(why.startswith("answers differ: output y") for why in run.arm_errors.values())
        assert {t.trial.arm_id for t in run.trials if t.error is None} == {f"arm0{i}" for i in range(5)} - out


@pytest.mark.nightly
def test_a_model_that_answers_at_random_is_swept_and_its_values_are_held_to_nothing(
    triton: LiveTriton, tmp_path: Path
) -> None:
    proto = model(
        [
            helper.make_node("RandomUniformLike", ["x"], ["noise"]),
            helper.make_node("Add", ["x", "noise"], ["y"]),
        ],
        [tensor("x", ["batch", 4])],
        [tensor("y", ["batch", 4])],
    )
    triton.load("random", proto, CONFIG)
    run = swept(triton, "random", tmp_path / "run", in_place=True, space={"instance_group.count": [1, 2]})
    control.unload_model(triton.http_url, "random")
    assert run.complete and not run.arm_errors
    assert any(n.startswith("Answers were compared by names, shapes and types alone") for n in run.notes)
