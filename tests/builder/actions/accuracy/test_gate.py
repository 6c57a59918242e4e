"""When the gate says no, what it finds, and which layer it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.builder.actions.convert.models import Array, mlp, network, outlier_mlp, rows, save_model, save_rows
from tritonsmith.builder.actions.accuracy.accuracy import Bounds, compare, variant_bounds
from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
from tritonsmith.builder.actions.accuracy.gate import judge_variant
from tritonsmith.builder.actions.accuracy.layers import LayerLoss, layer_losses, suggested_exclude
from tritonsmith.builder.actions.accuracy.request import GateRequest, GateResult, Metric
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples
from tritonsmith.builder.actions.convert import ConvertRequest, run_gate
from tritonsmith.builder.actions.convert.convert import convert
from tritonsmith.builder.actions.export.onnx_graph import onnxruntime_runner
from tritonsmith.builder.base.precisions import precision_rows

SHAPE = (8, 16)


def request(tmp_path: Path, model: Any, precision: Any, **stated: Any) -> GateRequest:
    """A converted variant, to be judged on rows that it was not calibrated on."""
    source = save_model(model, tmp_path / "source.onnx")
    calibration = CalibrationSpec(save_rows(rows(SHAPE, 1), tmp_path / "c.npz"), str(tmp_path))
    made = convert(ConvertRequest("m", source, precision, calibration=calibration), tmp_path / "out")
    samples = save_rows(rows(SHAPE, 2), tmp_path / "held_out.npz")
    candidate = str(tmp_path / "out" / made.onnx_file)
    return GateRequest(
        "m", precision, source, candidate, samples, str(tmp_path), candidates=made.converted, **stated
    )


def test_fp16_passes_and_tells_nothing(tmp_path: Path) -> None:
    result = judge_variant(request(tmp_path, mlp(), "fp16"), tmp_path)
    assert result.passed
    assert (result.findings, result.layers, result.exclude) == ((), (), ())
    assert {d.runtime for d in result.accuracy.deviations} == {
        "onnxruntime",
        "onnxruntime, optimisations off",
    }


def test_a_layer_that_reads_an_outlier_is_refused_and_named(tmp_path: Path) -> None:
    result = judge_variant(request(tmp_path, outlier_mlp(), "int8"), tmp_path)
    assert not result.passed
    assert any("cosine" in v for v in result.accuracy.failures[0].violations)
    assert result.layers[0].node == "down"
    assert result.exclude == ("down",)
    assert GateResult.from_dict(result.as_dict()) == result


def test_answers_are_compared_sample_by_sample_when_one_of_them_fails(tmp_path: Path) -> None:
    """As written the candidate takes 4 rows alone; optimised it takes any, since ONNX Runtime knows the shape before."""
    nodes = [
        helper.make_node("Reshape", ["x", "four"], ["reshaped"]),
        helper.make_node("Shape", ["reshaped"], ["sizes"]),
        helper.make_node("Cast", ["sizes"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    constants: dict[str, Array] = {"four": np.array([4, 16], np.int64), "zero": np.float32(0).reshape(())}
    odd = network(nodes, constants, ["batch", 16], ["batch", 16])
    plain = network([helper.make_node("Identity", ["x"], ["y"])], {}, ["batch", 16], ["batch", 16])
    rng = np.random.default_rng(5)
    given = [rng.standard_normal((n, 16)).astype(np.float32) for n in (3, 4, 4)]
    samples = tuple(Sample({"x": x}, {"y": x}, f"s{i}") for i, x in enumerate(given))
    save_samples(SampleSet(samples), tmp_path / "s.npz")
    source = save_model(plain, tmp_path / "plain.onnx")
    candidate = save_model(odd, tmp_path / "odd.onnx")
    result = judge_variant(
        GateRequest("m", "fp16", source, candidate, str(tmp_path / "s.npz"), str(tmp_path)), tmp_path
    )
    assert not result.passed and result.findings == ()
    assert [(d.sample, d.runtime) for d in result.accuracy.failures] == [
        ("s0", "onnxruntime, optimisations off")
    ]
    assert "Reshape" in (result.accuracy.failures[0].failure or "")


def test_a_refusal_of_a_model_whose_batch_is_fixed_names_its_layers(tmp_path: Path) -> None:
    """More rows than the layers are looked at with, and no fewer are taken."""
    asked = request(tmp_path, outlier_mlp(), "int8")
    for path in (asked.source, asked.candidate):
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = SHAPE[0]
        onnx.save(model, path)
    result = judge_variant(asked, tmp_path)
    assert not result.passed and result.findings == ()
    assert result.layers[0].node == "down"


def test_bf16_is_judged_by_rounding(tmp_path: Path) -> None:
    result = judge_variant(request(tmp_path, mlp(), "bf16"), tmp_path)
    assert result.passed
    assert {d.runtime for d in result.accuracy.deviations} == {precision_rows()["bf16"].emulated}
    assert 1e-4 < max(d.relative_l2 for d in result.accuracy.deviations) < 2e-2


def test_tf32_is_judged_by_rounding_beside_what_a_cpu_answers(tmp_path: Path) -> None:
    result = judge_variant(request(tmp_path, mlp(), "tf32"), tmp_path)
    worst = {d.runtime: d.relative_l2 for d in result.accuracy.deviations}
    assert result.passed and worst["onnxruntime"] == 0.0
    assert 1e-5 < worst[precision_rows()["tf32"].emulated] < 1e-3
    assert result.findings[0].startswith("a CPU computes this graph as fp32")


def test_nvfp4_is_judged_by_rounding_and_names_the_layer(tmp_path: Path) -> None:
    result = judge_variant(replace(request(tmp_path, mlp(), "nvfp4"), served_by="tensorrt"), tmp_path)
    assert {d.runtime for d in result.accuracy.deviations} == {precision_rows()["nvfp4"].emulated}
    assert not result.passed and {layer.node for layer in result.layers[:2]} == {"up", "down"}


def test_what_onnxruntime_cannot_optimise_counts_only_where_it_serves(tmp_path: Path) -> None:
    asked = request(tmp_path, mlp(), "fp8", bounds=Bounds(cosine=0.9))
    served = judge_variant(asked, tmp_path)
    compiled = judge_variant(replace(asked, served_by="tensorrt"), tmp_path)
    assert compiled.passed
    assert {d.runtime for d in compiled.accuracy.deviations} == {"onnxruntime, optimisations off"}
    assert served.passed == (not served.findings)


def test_stated_bounds_and_the_users_metric_decide(tmp_path: Path) -> None:
    (tmp_path / "measure.py").write_text(
        "def worst(reference, candidate):\n"
        "    return max(abs(r['y'] - c['y']).max() for r, c in zip(reference, candidate))\n"
    )
    asked = request(tmp_path, mlp(), "int8", bounds=Bounds(relative_l2=0.5))
    metric = Metric("measure:worst", at_most=1e-9)
    result = run_gate(replace(asked, metric=metric), tmp_path / "scratch", tmp_path / "log")
    assert result.accuracy.passed
    assert not result.passed
    assert all(value.value and not value.passed for value in result.metric)
    assert run_gate(
        replace(asked, metric=replace(metric, at_most=10.0)), tmp_path / "scratch", tmp_path / "log"
    ).passed


def test_a_changed_weight_shows_in_its_own_layer_alone(tmp_path: Path) -> None:
    model = mlp()
    source = save_model(model, tmp_path / "source.onnx")
    weight = next(t for t in model.graph.initializer if t.name == "w_up")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), "w_up"))
    save_model(model, tmp_path / "changed.onnx")
    losses = {
        loss.node: loss for loss in layer_losses(Path(source), tmp_path / "changed.onnx", rows(SHAPE, 2)[0])
    }
    assert losses["up"].own_loss == pytest.approx(0.5, abs=1e-4)
    assert losses["down"].own_loss < 1e-6
    assert losses["down"].total_loss == pytest.approx(0.5, abs=1e-4)


def test_only_what_stands_out_is_proposed_and_a_quarter_at_most() -> None:
    def losses(*values: float) -> tuple[LayerLoss, ...]:
        ranked = sorted(values, reverse=True)
        return tuple(LayerLoss(f"n{i}", "MatMul", v, v) for i, v in enumerate(ranked))

    def proposed(*values: float) -> tuple[str, ...]:
        found = losses(*values)
        return suggested_exclude(found, [loss.node for loss in found])

    assert proposed(0.5, 0.01, 0.01, 0.01) == ("n0",)
    assert proposed(0.011, 0.01, 0.01, 0.01) == ("n0",)
    assert len(proposed(*[0.5] * 5, *[0.01] * 7)) == 3
    assert suggested_exclude(losses(0.5, 0.01), ["n1"]) == ()


def test_top1_is_the_share_of_rows_with_the_same_largest_value() -> None:
    reference = np.array([[1, 2, 3], [3, 2, 1], [0, 5, 0], [1, 0, 0]], np.float32)
    candidate = reference.copy()
    candidate[1] = [1, 2, 3]
    (deviation,) = compare({"y": candidate}, {"y": reference}, bounds=Bounds(top1=0.8))
    assert deviation.top1 == 0.75
    assert deviation.violations == ("top-1 agreement 0.75 < 0.8",)
    (classes,) = compare({"y": candidate[:, 0]}, {"y": reference[:, 0]}, bounds=Bounds(top1=0.7))
    assert (classes.top1, classes.passed) == (0.75, True)


def test_bounds_by_precision() -> None:
    assert variant_bounds("int8", "float32").cosine == 0.99
    assert variant_bounds("int8", "int64") == Bounds(top1=0.99)
    assert variant_bounds("fp32", "int64").max_abs == 0.0
    order = [
        variant_bounds(p, "float32").relative_l2 or 0
        for p in ("fp32", "tf32", "fp16", "bf16", "int8", "int4")
    ]
    assert order == sorted(order)


def test_the_emulation_keeps_names(tmp_path: Path) -> None:
    from tritonsmith.builder.actions.convert.precisions.emulate import emulated_bf16

    asked = request(tmp_path, mlp(), "bf16")
    names = {name for node in onnx.load(asked.candidate).graph.node for name in node.output}
    emulated = emulated_bf16(onnx.load(asked.candidate))
    assert names <= {name for node in emulated.graph.node for name in node.output}


def test_a_variant_is_judged_on_three_requests_where_its_export_drew_one(tmp_path: Path) -> None:
    asked = request(tmp_path, mlp(), "fp16")
    drawn = {"x": rows(SHAPE, 3)[0]["x"]}
    one = SampleSet((Sample(drawn, {"y": run_as_written(asked.source, drawn)}, "x"),), "generated, seed 0")
    for samples, judged in ((one, 3), (replace(one, origin="calib.npz"), 1)):
        save_samples(samples, tmp_path / "few.npz")
        result = judge_variant(replace(asked, samples=str(tmp_path / "few.npz")), tmp_path)
        assert result.passed and result.accuracy.samples == judged
        assert len({d.sample for d in result.accuracy.deviations}) == judged


def run_as_written(path: str, inputs: dict[str, Array]) -> Array:
    return onnxruntime_runner(Path(path), optimised=False)(inputs)["y"]
