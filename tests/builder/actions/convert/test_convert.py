"""What each precision does to small graphs, judged by running them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tests.builder.actions.convert.models import conv, mlp, network, outlier_mlp, rows, save_model, save_rows
from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
from tritonsmith.builder.actions.convert import (
    ConvertRequest,
    ConvertResult,
    run_convert,
)
from tritonsmith.builder.actions.convert.convert import convert
from tritonsmith.builder.actions.convert.precisions.emulate import emulated_nvfp4, emulated_tf32
from tritonsmith.builder.actions.convert.precisions.nvfp4 import nvfp4_from_fp32
from tritonsmith.builder.actions.export.onnx_graph import onnxruntime_runner
from tritonsmith.builder.base.errors import BuildError, SpecError

MLP_SHAPE, CONV_SHAPE = (8, 16), (8, 3, 8, 8)


def made(
    tmp_path: Path, model: Any, precision: Any, shape: tuple[int, ...] = MLP_SHAPE, **stated: Any
) -> tuple[ConvertResult, Path]:
    source = save_model(model, tmp_path / "source.onnx")
    calibration = save_rows(rows(shape, 1), tmp_path / "calibration.npz")
    held_out = save_rows(rows(shape, 2), tmp_path / "held_out.npz")
    request = ConvertRequest(
        "m", source, precision, calibration=CalibrationSpec(calibration, "/"), held_out=held_out, **stated
    )
    result = convert(request, tmp_path / "out")
    return result, tmp_path / "out" / result.onnx_file


def loss(tmp_path: Path, path: Path, shape: tuple[int, ...] = MLP_SHAPE) -> float:
    """Relative L2 against the source on held-out rows, both graphs as written."""
    (sample, _) = rows(shape, 2)
    right = onnxruntime_runner(tmp_path / "source.onnx", optimised=False)(sample)["y"]
    given = onnxruntime_runner(path, optimised=False)(sample)["y"]
    return float(np.linalg.norm(given - right) / np.linalg.norm(right))


def types(path: Path) -> dict[str, int]:
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    return {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [
        pytest.param("fp32", 0.0, 0.0, id="fp32 is the source itself"),
        pytest.param("tf32", 0.0, 0.0, id="tf32 is fp32 to a CPU"),
        pytest.param("fp16", 1e-5, 2e-3, id="fp16 rounds at the fourth digit"),
        pytest.param("int8", 1e-3, 3e-2, id="int8 at the second"),
        pytest.param("fp8", 1e-2, 8e-2, id="fp8 has three bits of mantissa"),
        pytest.param("int4", 1e-2, 0.2, id="int4 has 16 levels a block"),
    ],
)
def test_each_precision_loses_what_its_digits_say(
    tmp_path: Path, precision: str, least: float, most: float
) -> None:
    result, path = made(tmp_path, mlp(), precision)
    assert least <= loss(tmp_path, path) <= most
    assert not result.tensorrt_only
    assert [t.name for t in result.inputs] == ["x"]
    assert result.inputs[0].shape == ("batch", 16)
    assert result.inputs[0].dtype.kserve == "FP32"


def test_bf16_is_for_tensorrt_and_raises_the_opset_only_where_it_must(tmp_path: Path) -> None:
    result, _ = made(tmp_path, mlp(), "bf16")
    assert (result.opset, result.tensorrt_only) == (17, True)
    raised, _ = made(tmp_path, conv(), "bf16", CONV_SHAPE)
    assert raised.opset == 22
    assert raised.notes == (
        "0 nodes and 1 constants removed that no output depends on",
        "opset raised from 12 to 22 for bf16",
    )
    assert [(k.op_type, k.reason) for k in raised.kept_fp32] == [
        ("Resize", "Resize has no bf16 form at opset 22")
    ]


def test_a_model_at_an_old_opset_with_nameless_nodes_converts(tmp_path: Path) -> None:
    for precision in ("fp16", "int8"):
        result, path = made(tmp_path, conv(), precision, CONV_SHAPE)
        assert loss(tmp_path, path, CONV_SHAPE) < 0.03
        assert "Conv_c" in result.converted


def test_fp16_inputs_and_outputs_when_asked(tmp_path: Path) -> None:
    result, _ = made(tmp_path, mlp(), "fp16", keep_io=False)
    assert [t.dtype.kserve for t in (*result.inputs, *result.outputs)] == ["FP16", "FP16"]


def test_a_node_that_would_overflow_fp16_stays(tmp_path: Path) -> None:
    result, path = made(tmp_path, mlp(scale=1e6), "fp16")
    assert {node.name for node in result.kept_fp32} == {"blow", "shrink"}
    assert all(node.reason.startswith("overflows fp16: |") for node in result.kept_fp32)
    assert loss(tmp_path, path) < 2e-3


def test_without_samples_overflow_is_unknown_and_said(tmp_path: Path) -> None:
    source = save_model(mlp(), tmp_path / "source.onnx")
    result = convert(ConvertRequest("m", source, "fp16"), tmp_path / "out")
    assert result.notes == ("no samples: nodes were not checked for overflow in fp16",)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int4"])
def test_excluded_nodes_stay_by_name_and_by_op_type(tmp_path: Path, precision: str) -> None:
    result, path = made(tmp_path, mlp(), precision, exclude=("down", "Rel?"))
    reasons = {node.name: node.reason for node in result.kept_fp32}
    assert reasons.pop("down") == 'excluded by "down"'
    assert "up" in result.converted
    assert "down" not in result.converted
    if precision in ("fp16", "bf16"):
        assert reasons == {"relu": 'excluded by "Rel?"'}
        relu = next(node for node in onnx.load(str(path)).graph.node if node.name == "relu")
        assert types(path)[relu.input[0]] == types(path)[relu.output[0]] == onnx.TensorProto.FLOAT


def test_two_excluded_nodes_may_read_the_same_tensor(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        onnx.helper.make_node("Sin", ["a"], ["b"], name="one"),
        onnx.helper.make_node("Cos", ["a"], ["c"], name="two"),
        onnx.helper.make_node("Mul", ["b", "c"], ["y"], name="last"),
    ]
    weight = np.random.default_rng(5).standard_normal((16, 4)).astype(np.float32)
    model = network(nodes, {"w": weight}, ["batch", 16], ["batch", 4])
    _, path = made(tmp_path, model, "fp16", exclude=("Sin", "Cos"))
    assert loss(tmp_path, path) < 1e-2


def test_everything_excluded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        made(tmp_path, mlp(), "int8", exclude=("MatMul",))
    assert caught.value.code == "nothing_to_convert"
    assert caught.value.seen == 'excluded by "MatMul" (MatMul up, MatMul down)'


def test_weights_shrink_and_biases_stay_fp32(tmp_path: Path) -> None:
    _, path = made(tmp_path, mlp(), "int8")
    stored = {t.name: t.data_type for t in onnx.load(str(path)).graph.initializer}
    assert stored["w_up_quantized"] == onnx.TensorProto.INT8
    assert onnx.TensorProto.INT32 not in stored.values()


def test_smooth_quant_saves_a_layer_that_reads_an_outlier(tmp_path: Path) -> None:
    _, plain = made(tmp_path, outlier_mlp(), "int8")
    damage = loss(tmp_path, plain)
    result, smooth = made(tmp_path, outlier_mlp(), "int8", options={"smooth_quant": 0.5})
    assert result.notes == ("SmoothQuant, exponent 0.5, on 2 activations",)
    assert loss(tmp_path, smooth) < damage / 3


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_ranges_by_histogram_take_samples_of_different_shapes(tmp_path: Path, method: str) -> None:
    source = save_model(mlp(), tmp_path / "source.onnx")
    samples = [*rows((8, 16), 1), *rows((5, 16), 9)]
    calibration = CalibrationSpec(save_rows(samples, tmp_path / "c.npz"), "/")
    request = ConvertRequest("m", source, "int8", calibration=calibration, options={"method": method})
    result = convert(request, tmp_path / "out")
    assert result.calibration_rows == 26
    assert loss(tmp_path, tmp_path / "out" / result.onnx_file) < 0.2


@pytest.mark.parametrize(
    ("precision", "stated", "code", "told"),
    [
        pytest.param("fp61", {}, "precision_unknown", "did you mean 'fp16'?", id="a slip names the nearest"),
        pytest.param(
            "int8", {"options": {"metod": "minmax"}}, "precision_option", "method", id="option's name"
        ),
        pytest.param(
            "int4", {"options": {"block_size": 7}}, "precision_option", "seen:  7", id="option's value"
        ),
        pytest.param(
            "fp16", {"exclude": ("dwon",)}, "exclude_matches_nothing", "down", id="exclude names nothing"
        ),
    ],
)
def test_bad_requests(tmp_path: Path, precision: str, stated: dict[str, Any], code: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        made(tmp_path, mlp(), precision, **stated)
    assert caught.value.code == code
    assert told in str(caught.value)


def test_int8_without_calibration_is_refused(tmp_path: Path) -> None:
    source = save_model(mlp(), tmp_path / "source.onnx")
    with pytest.raises(BuildError) as caught:
        convert(ConvertRequest("m", source, "int8"), tmp_path / "out")
    assert caught.value.code == "calibration_missing"


def test_requests_and_results_travel_as_json(tmp_path: Path) -> None:
    source = save_model(mlp(), tmp_path / "source.onnx")
    spec = CalibrationSpec("c.npz", str(tmp_path), 16)
    save_rows(rows(MLP_SHAPE, 1), tmp_path / "c.npz")
    request = ConvertRequest("m", source, "int8", ("Relu",), calibration=spec, options={"smooth_quant": 0.5})
    assert ConvertRequest.from_dict(request.as_dict()) == request
    result = run_convert(request, tmp_path / "out", tmp_path / "log")
    assert ConvertResult.from_dict(result.as_dict()) == result
    assert result.calibration_rows == 16
    assert result.dependencies == (str(tmp_path / "c.npz"),)


def test_the_child_tells_its_errors(tmp_path: Path) -> None:
    request = ConvertRequest("m", str(tmp_path / "none.onnx"), "fp16")
    with pytest.raises(BuildError) as caught:
        run_convert(request, tmp_path / "out", tmp_path / "log")
    assert caught.value.code == "source_missing"


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def test_nvfp4_blocks_hold_the_largest_value_of_each() -> None:
    values = np.random.default_rng(6).standard_normal((32, 6)).astype(np.float32)
    codes, blocks, scale = nvfp4_from_fp32(values, 0)
    assert set(np.abs(codes.astype(np.float32)).ravel()) <= set(E2M1)
    assert (codes.shape, blocks.shape) == ((32, 6), (2, 6))
    assert float(blocks.astype(np.float32).max()) == 448.0, "the largest block uses E4M3's whole range"
    back = codes.astype(np.float32) * np.repeat(blocks.astype(np.float32) * np.float32(scale), 16, axis=0)
    assert np.abs(back - values).max() <= np.abs(values).max() / 6, "half the widest gap, which is 2 of 6"
    zeros, _, _ = nvfp4_from_fp32(np.zeros((16, 2), np.float32), 0)
    assert not zeros.astype(np.float32).any()


def test_nvfp4_weights_are_what_onnx_says_they_are(tmp_path: Path) -> None:
    """ONNX's own evaluator runs 4-bit floats; the graph that judges must answer as that one does."""
    result, path = made(tmp_path, mlp(), "nvfp4", options={"activations": False})
    assert (result.opset, result.tensorrt_only, result.calibration_rows) == (23, True, 0)
    assert result.notes == ("2 of 2 products are fp32 with nvfp4 weights",)
    stored = {t.name: t.data_type for t in onnx.load(str(path)).graph.initializer}
    assert stored["w_up_fp4"] == onnx.TensorProto.FLOAT4E2M1
    assert stored["w_up_blocks"] == onnx.TensorProto.FLOAT8E4M3FN
    assert "w_up" not in stored
    (sample, _) = rows(MLP_SHAPE, 2)
    (right,) = ReferenceEvaluator(onnx.load(str(path))).run(None, sample)
    emulated = tmp_path / "emulated.onnx"
    onnx.save(emulated_nvfp4(onnx.load(str(path))), str(emulated))
    given = onnxruntime_runner(emulated, optimised=False)(sample)["y"]
    np.testing.assert_allclose(given, right, rtol=1e-5, atol=1e-5)
    assert 0.05 < loss(tmp_path, emulated) < 0.25


def test_nvfp4_activations_are_rounded_in_blocks_by_the_values_at_run_time(tmp_path: Path) -> None:
    model = network(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        {"w": np.eye(32, dtype=np.float32)},
        ["batch", 32],
        ["batch", 32],
    )
    _, path = made(tmp_path, model, "nvfp4", (8, 32))
    (operator,) = [n for n in onnx.load(str(path)).graph.node if n.domain == "trt"]
    assert operator.op_type == "TRT_FP4DynamicQuantize"
    emulated = tmp_path / "emulated.onnx"
    onnx.save(emulated_nvfp4(onnx.load(str(path))), str(emulated))
    (scale,) = [t for t in onnx.load(str(path)).graph.initializer if t.name == "x_act_scale"]
    calibrated = np.concatenate([s["x"] for s in rows((8, 32), 1)])
    assert onnx.numpy_helper.to_array(scale) == pytest.approx(np.abs(calibrated).max() / (6 * 448), rel=1e-6)
    # Each row is two blocks: what the numbers alone say must come out of a product with the identity.
    row = np.array([[*np.linspace(-3, 3, 16), *np.linspace(-0.1, 0.1, 16)]], np.float32)
    given = onnxruntime_runner(emulated, optimised=False)({"x": row})["y"].reshape(2, 16)
    for block, values in zip(given, row.reshape(2, 16), strict=True):
        levels = np.unique(np.abs(block / np.abs(block).max() * 6).round(3))
        assert set(levels) <= set(E2M1.tolist())
        assert np.abs(block - values).max() <= np.abs(values).max() / 6 * 1.1


def test_nvfp4_leaves_activations_that_tensorrt_does_not_take(tmp_path: Path) -> None:
    """Its quantizer takes two or three dimensions."""
    weight = np.random.default_rng(8).standard_normal((16, 4)).astype(np.float32)
    product = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    model = network([product], {"w": weight}, ["batch", 2, 3, 16], ["batch", 2, 3, 4])
    result, path = made(tmp_path, model, "nvfp4", (8, 2, 3, 16))
    assert result.notes == ("1 of 1 products are fp32 with nvfp4 weights",)
    assert {n.op_type for n in onnx.load(str(path)).graph.node} == {"DequantizeLinear", "MatMul"}


def test_tf32_has_ten_fraction_digits(tmp_path: Path) -> None:
    model = network(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        {"w": np.eye(16, dtype=np.float32)},
        ["batch", 16],
        ["batch", 16],
    )
    onnx.save(emulated_tf32(model), str(tmp_path / "m.onnx"))
    values = np.random.default_rng(7).standard_normal((4, 16)).astype(np.float32)
    given = onnxruntime_runner(tmp_path / "m.onnx", optimised=False)({"x": values})["y"]
    assert not (given.view(np.uint32) & 0x1FFF).any(), "thirteen bits of the fraction are gone"
    assert np.abs(given / values - 1).max() <= 2.0**-11
    assert (given != values).any()


def test_what_nvfp4_cannot_take_stays_and_says_why(tmp_path: Path) -> None:
    narrow = network(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="narrow")],
        {"w": np.ones((20, 4), np.float32)},
        ["batch", 20],
        ["batch", 4],
    )
    with pytest.raises(BuildError) as caught:
        made(tmp_path, narrow, "nvfp4", (8, 20))
    assert caught.value.code == "nothing_to_convert"
    assert "20, no multiple of 16" in str(caught.value)
    with pytest.raises(BuildError, match="needs calibration") as caught:
        convert(ConvertRequest("m", save_model(mlp(), tmp_path / "s.onnx"), "nvfp4"), tmp_path / "out")
    assert "options: {activations: false}" in str(caught.value)
