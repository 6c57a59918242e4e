"""What becomes of each kind of model that people bring, at each precision: converted with coverage, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builder.actions.convert.kinds import KINDS, graph_model, made
from tests.builder.actions.convert.models import save_rows
from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
from tritonsmith.builder.actions.convert import ConvertRequest, ConvertResult
from tritonsmith.builder.actions.convert.convert import convert
from tritonsmith.builder.actions.export.onnx_graph import onnxruntime_runner
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.builder.base.rows import function_of

PRECISIONS = ("fp16", "bf16", "int8", "fp8", "int4", "nvfp4")
MOST = {"fp16": 2e-3, "bf16": 1e-2, "int8": 4e-2, "fp8": 0.16, "int4": 0.2, "nvfp4": 0.3}
"""Relative L2 that the format's digits allow a few products of normal numbers."""

# Kind → for each of PRECISIONS: nodes converted/that could be and weight bytes, likewise; or what a refusal names.
TABLE: dict[str, tuple[str, str, str, str, str, str]] = {
    "shared": (
        "5/5 3072/3072",
        "5/5 3072/3072",
        "3/4 2048/3072",
        "3/4 2048/3072",
        "3/4 2048/3072",
        "3/4 2048/3072",
    ),
    "tied embedding": (
        "5/5 2048/2048",
        "5/5 2048/2048",
        "1/2 2048/4096",
        "1/2 2048/4096",
        "1/2 2048/4096",
        "1/2 2048/4096",
    ),
    "3-D experts": (
        "1/1 8192/8192",
        "1/1 8192/8192",
        "1/1 8192/8192",
        "1/1 8192/8192",
        "its weight has 3 dimensions, not 2 (MatMul product)",
        "its weight has 3 dimensions, not 2 (MatMul product)",
    ),
    "Gemm transB": (
        "1/1 2176/2176",
        "1/1 2176/2176",
        "1/1 2048/2176",
        "1/1 2048/2176",
        "int4 takes MatMul, not Gemm (Gemm product)",
        "1/1 2048/2176",
    ),
    "Gemm transA": (
        "2/2 2176/2176",
        "2/2 2176/2176",
        "1/1 2048/2176",
        "1/1 2048/2176",
        "int4 takes MatMul, not Gemm (Gemm product)",
        "its activation is transposed (transA) (Gemm product)",
    ),
    "Transpose of a weight": (
        "3/3 2048/2048",
        "3/3 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
    ),
    "Constant, Identity chain": (
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
    ),
    "Cast of an fp16 weight": (
        "constants of type FLOAT16",
        "constants of type FLOAT16",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
    ),
    "sparse": (
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
    ),
    "weight is an input": (
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
    ),
    "opset 9": (
        "2/2 2048/2048",
        "2/2 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
    ),
    "If, own weight": (
        "3/4 2048/2048",
        "3/4 2048/2048",
        "1/2 2048/2048",
        "1/2 2048/2048",
        "1/2 2048/2048",
        "1/2 2048/2048",
    ),
    "If, outer weight": (
        "3/4 2048/4096",
        "3/4 2048/4096",
        "1/2 2048/4096",
        "1/2 2048/4096",
        "1/2 2048/4096",
        "1/2 2048/4096",
    ),
    "Loop, own weight": (
        "4/5 2048/2048",
        "4/5 2048/2048",
        "1/2 2048/2048",
        "1/2 2048/2048",
        "1/2 2048/2048",
        "1/2 2048/2048",
    ),
    "Loop, outer weight": (
        "4/5 2048/4096",
        "4/5 2048/4096",
        "1/2 2048/4096",
        "1/2 2048/4096",
        "1/2 2048/4096",
        "1/2 2048/4096",
    ),
    "LSTM": (
        "4/4 34816/34816",
        "4/4 34816/34816",
        "1/2 2048/34816",
        "1/2 2048/34816",
        "1/2 2048/34816",
        "1/2 2048/34816",
    ),
    "GRU": (
        "4/4 26624/26624",
        "4/4 26624/26624",
        "1/2 2048/26624",
        "1/2 2048/26624",
        "1/2 2048/26624",
        "1/2 2048/26624",
    ),
    "function": (
        "2/2 2048/2048",
        "2/2 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
    ),
    "Einsum": (
        "1/1 2048/2048",
        "Einsum has no bf16 form at opset 22 (Einsum product)",
        "int8 takes Conv, Gemm, MatMul, not Einsum (Einsum product)",
        "fp8 takes Conv, Gemm, MatMul, not Einsum (Einsum product)",
        "int4 takes MatMul, not Einsum (Einsum product)",
        "nvfp4 takes Gemm, MatMul, not Einsum (Einsum product)",
    ),
    "QDQ": (
        "1/2 0/4",
        "2/2 4/4",
        "its weight is already quantized (MatMul product)",
        "its weight is already quantized (MatMul product)",
        "its weight is already quantized (MatMul product)",
        "its weight is already quantized (MatMul product)",
    ),
    "MatMulInteger": (
        "3/4 4/4",
        "3/4 4/4",
        "already quantized (MatMulInteger product)",
        "already quantized (MatMulInteger product)",
        "already quantized (MatMulInteger product)",
        "already quantized (MatMulInteger product)",
    ),
    "fp16": (
        "constants of type FLOAT16",
        "constants of type FLOAT16",
        "constants of type FLOAT16",
        "constants of type FLOAT16",
        "constants of type FLOAT16",
        "constants of type FLOAT16",
    ),
    "mask 1e9": (
        "2/4 2052/2056",
        "4/4 2056/2056",
        "1/1 2048/2056",
        "1/1 2048/2056",
        "1/1 2048/2056",
        "1/1 2048/2056",
    ),
    "mask inf": (
        "4/4 2056/2056",
        "4/4 2056/2056",
        "1/1 2048/2056",
        "1/1 2048/2056",
        "1/1 2048/2056",
        "1/1 2048/2056",
    ),
    "underflow": (
        "1/3 2048/2052",
        "3/3 2052/2052",
        "1/1 2048/2052",
        "1/1 2048/2052",
        "1/1 2048/2052",
        "1/1 2048/2052",
    ),
    "outputs that are input and weight": (
        "2/2 2048/2048",
        "2/2 2048/2048",
        "1/2 0/2048",
        "1/2 0/2048",
        "1/2 0/2048",
        "1/2 0/2048",
    ),
    "dead": (
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
    ),
    "stale types": (
        "3/3 2048/2048",
        "3/3 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
        "1/1 2048/2048",
    ),
    "Range": (
        "2/3 2048/2060",
        "2/3 2048/2060",
        "1/1 2048/2060",
        "1/1 2048/2060",
        "1/1 2048/2060",
        "1/1 2048/2060",
    ),
    "Conv": (
        "1/1 2368/2368",
        "1/1 2368/2368",
        "1/1 2304/2368",
        "1/1 2304/2368",
        "int4 takes MatMul, not Conv (Conv product)",
        "nvfp4 takes Gemm, MatMul, not Conv (Conv product)",
    ),
    "Conv in groups": (
        "1/1 1216/1216",
        "1/1 1216/1216",
        "1/1 1152/1216",
        "1/1 1152/1216",
        "int4 takes MatMul, not Conv (Conv product)",
        "nvfp4 takes Gemm, MatMul, not Conv (Conv product)",
    ),
    "ConvTranspose": (
        "1/1 2368/2368",
        "1/1 2368/2368",
        "int8 takes Conv, Gemm, MatMul, not ConvTranspose (ConvTranspose product)",
        "fp8 takes Conv, Gemm, MatMul, not ConvTranspose (ConvTranspose product)",
        "int4 takes MatMul, not ConvTranspose (ConvTranspose product)",
        "nvfp4 takes Gemm, MatMul, not ConvTranspose (ConvTranspose product)",
    ),
    "no weights": (
        "no constants",
        "no constants",
        "no constants",
        "no constants",
        "no constants",
        "no constants",
    ),
}


def converted(model: Any, precision: Any, tmp_path: Path, **stated: Any) -> tuple[ConvertResult, Path, Any]:
    """→ (result, its file, inputs)."""
    onnx.save(model, str(tmp_path / "source.onnx"))
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(9)]
    calibration = CalibrationSpec(save_rows(samples[:8], tmp_path / "calibration.npz"), "/")
    held_out = save_rows(samples[8:], tmp_path / "held_out.npz")
    options_of: dict[str, dict[str, Any]] = {"nvfp4": {"activations": False}, "int4": {"block_size": 16}}
    options = options_of.get(precision, {})
    source = str(tmp_path / "source.onnx")
    request = ConvertRequest(
        "m", source, precision, calibration=calibration, held_out=held_out, options=options, **stated
    )
    result = convert(request, tmp_path / precision)
    return result, tmp_path / precision / result.onnx_file, samples[0]


def largest_loss(result: ConvertResult, path: Path, inputs: Any, tmp_path: Path) -> float:
    """Relative L2 of the worst output, the graph as written against the source."""
    emulate = precision_rows()[result.precision].emulate
    if emulate is not None:
        emulated = function_of(emulate)(onnx.load(str(path)))
        path = tmp_path / "emulated.onnx"
        onnx.save(emulated, str(path))
    right = onnxruntime_runner(tmp_path / "source.onnx", optimised=False)(inputs)
    given = onnxruntime_runner(path, optimised=False)(inputs)
    return max(
        float(np.linalg.norm(given[name] - right[name]) / np.linalg.norm(right[name])) for name in right
    )


def outcome(kind: str, precision: str, tmp_path: Path) -> str:
    try:
        result, path, inputs = converted(made(kind), precision, tmp_path)
    except BuildError as error:
        assert error.code == "nothing_to_convert"
        return str(error.seen)
    allowed = MOST[precision] * (3 if kind in ("LSTM", "GRU") else 1)  # they amplify what they read
    assert largest_loss(result, path, inputs, tmp_path) <= allowed
    told = result.coverage
    assert told is not None
    assert told.of_nodes == told.nodes + len(result.kept_fp32)
    return f"{told.nodes}/{told.of_nodes} {told.weight_bytes}/{told.of_weight_bytes}"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_converted_or_refused_by_name(kind: str, tmp_path: Path) -> None:
    assert tuple(outcome(kind, precision, tmp_path) for precision in PRECISIONS) == TABLE[kind]


def test_what_stays_is_told_by_kind(tmp_path: Path) -> None:
    result, _, _ = converted(made("LSTM"), "int8", tmp_path)
    assert result.coverage is not None
    assert dict(result.coverage.kept) == {"LSTM: int8 takes Conv, Gemm, MatMul, not LSTM": 1}
    assert [(k.name, k.op_type) for k in result.kept_fp32] == [("cell", "LSTM")]


def test_what_is_not_quantized_reads_the_weight_itself(tmp_path: Path) -> None:
    """The quantizer gives every reader of a weight what its rounding gives back."""
    result, path, inputs = converted(made("outputs that are input and weight"), "int8", tmp_path)
    given = onnxruntime_runner(path, optimised=False)(inputs)
    stored = onnx.numpy_helper.to_array(made("outputs that are input and weight").graph.initializer[0])
    np.testing.assert_array_equal(given["w"], stored)
    np.testing.assert_array_equal(given["x"], inputs["x"])
    assert result.coverage is not None
    assert result.coverage.weight_bytes == 0, "it is stored in fp32, too"


def test_dead_parts_are_removed_and_counted(tmp_path: Path) -> None:
    result, path, _ = converted(made("dead"), "fp16", tmp_path)
    assert "1 nodes and 2 constants removed that no output depends on" in result.notes
    assert [t.name for t in onnx.load(str(path)).graph.initializer] == ["w"]


def test_masks_beyond_fp16_are_known_without_samples(tmp_path: Path) -> None:
    onnx.save(made("mask 1e9"), str(tmp_path / "s.onnx"))
    result = convert(ConvertRequest("m", str(tmp_path / "s.onnx"), "fp16"), tmp_path / "out")
    assert {k.name: k.reason for k in result.kept_fp32} == {"where": "overflows fp16: |mask| reaches 1e+09"}


def test_constants_that_fp16_would_round_to_nothing_stay(tmp_path: Path) -> None:
    onnx.save(made("underflow"), str(tmp_path / "s.onnx"))
    result = convert(ConvertRequest("m", str(tmp_path / "s.onnx"), "fp16"), tmp_path / "out")
    assert {k.name: k.reason for k in result.kept_fp32} == dict.fromkeys(
        ("up", "down"), "underflows fp16: |tiny| is 1e-09 at most"
    )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_external_data_goes_the_same_way(precision: str, tmp_path: Path) -> None:
    model = made("Gemm transB")
    onnx.save(
        model, str(tmp_path / "e.onnx"), save_as_external_data=True, location="e.data", size_threshold=0
    )
    loaded = onnx.load(str(tmp_path / "e.onnx"))
    result, path, inputs = converted(loaded, precision, tmp_path, external_above_bytes=0)
    assert result.files == ("model.onnx/model.onnx", "model.onnx/model.onnx.data")
    assert largest_loss(result, path, inputs, tmp_path) <= MOST[precision]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_random_graphs_lose_what_the_format_allows(precision: str, seed: int, tmp_path: Path) -> None:
    """Against float64, and no more layers deep than errors stay small."""
    rng = np.random.default_rng(seed)
    width, layers = int(rng.choice([16, 32])), int(rng.integers(1, 4))
    nodes, constants, at = [], {}, "x"
    inputs = [16, *rng.choice([16, 32], layers - 1), width] if layers > 1 else [16, width]
    for index in range(layers):
        shape = (int(inputs[index]), int(inputs[index + 1]))
        constants[f"w{index}"] = (rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)
        out = "y" if index == layers - 1 else f"h{index}"
        nodes.append(
            onnx.helper.make_node("MatMul", [at, f"w{index}"], [f"p{index}"], name=f"product{index}")
        )
        nodes.append(
            onnx.helper.make_node(str(rng.choice(["Relu", "Tanh"])), [f"p{index}"], [out], name=f"act{index}")
        )
        at = out
    model = graph_model(nodes, constants, y=[8, width])
    result, path, given = converted(model, precision, tmp_path)
    right = given["x"].astype(np.float64)
    for product, act in zip(nodes[::2], nodes[1::2], strict=True):
        right = right @ constants[product.input[1]].astype(np.float64)
        right = np.maximum(right, 0) if act.op_type == "Relu" else np.tanh(right)
    answer = onnxruntime_runner(path, optimised=False)(given)["y"]
    assert 0 < np.linalg.norm(answer - right) / np.linalg.norm(right) <= MOST[precision]
    assert result.coverage is not None
    assert result.coverage.weight_bytes == result.coverage.of_weight_bytes
