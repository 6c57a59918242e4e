"""The gate on a real encoder: plain int8 is refused, fp16 and a recipe pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
from tritonsmith.builder.actions.accuracy.request import GateRequest, GateResult
from tritonsmith.builder.actions.convert import ConvertRequest, run_convert, run_gate
from tritonsmith.builder.actions.export import ExportRequest, run_export
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve

DEMO = Path(__file__).resolve().parents[4] / "examples" / "demo"

pytestmark = [pytest.mark.slow, pytest.mark.demo]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("minilm")
    int64 = dtype_from_kserve("INT64")
    inputs = tuple(TensorSpec(n, int64, ("batch", "sequence")) for n in ("input_ids", "attention_mask"))
    request = ExportRequest(
        "minilm",
        "torch",
        "minilm:load",
        str(DEMO),
        max_batch_size=8,
        inputs=inputs,
        dynamic_dims={"sequence": (1, 32, 256)},
        samples="minilm:samples",
    )
    run_export(request, out, out / "log")
    return out


def judged(exported: Path, tmp_path: Path, precision: str, **options: object) -> GateResult:
    source, samples = exported / "model.onnx", exported / "samples.npz"
    made = run_convert(
        ConvertRequest(
            "minilm",
            str(source),
            precision,
            calibration=CalibrationSpec("minilm:calibration", str(DEMO)),
            held_out=str(samples),
            options=options,
        ),
        tmp_path,
        tmp_path / "log",
    )
    request = GateRequest(
        "minilm",
        precision,
        str(source),
        str(tmp_path / made.onnx_file),
        str(samples),
        str(DEMO),
        candidates=made.converted,
    )
    return run_gate(request, tmp_path / "scratch", tmp_path / "log")


def cosine(result: GateResult) -> float:
    return min(d.cosine for d in result.accuracy.deviations)


@pytest.mark.nightly
def test_rounding_results_too_ruins_the_embedding(exported: Path, tmp_path: Path) -> None:
    result = judged(exported, tmp_path, "int8", quantize_outputs=True)
    assert not result.passed
    assert cosine(result) < 0.9
    assert result.exclude


@pytest.mark.nightly
def test_smooth_quant_saves_it(exported: Path, tmp_path: Path) -> None:
    result = judged(exported, tmp_path, "int8", smooth_quant=0.75)
    assert result.passed, result.accuracy.failures
    assert cosine(result) >= 0.99


def test_fp16_passes(exported: Path, tmp_path: Path) -> None:
    assert judged(exported, tmp_path, "fp16").passed
