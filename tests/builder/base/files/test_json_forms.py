"""Requests and results ↔ JSON: what keys are made of stays as it was to the byte, and nothing is lost on the way."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.actions.accuracy.accuracy import AccuracyReport, Bounds, Deviation
from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
from tritonsmith.builder.actions.accuracy.layers import LayerLoss
from tritonsmith.builder.actions.accuracy.request import GateRequest, GateResult, Metric, MetricValue
from tritonsmith.builder.actions.batch_rows.report import RowsReport
from tritonsmith.builder.actions.batch_rows.request import RowsRequest
from tritonsmith.builder.actions.compile.profiles import OptimizationProfile, ShapeRange
from tritonsmith.builder.actions.compile.request import CompileOptions, CompileRequest, CompileResult
from tritonsmith.builder.actions.convert.coverage import Coverage
from tritonsmith.builder.actions.convert.request import ConvertRequest, ConvertResult, KeptNode
from tritonsmith.builder.actions.export.request import ExportRequest, ExportResult
from tritonsmith.builder.base.errors import ExportError, Where, at, error_from_form, unknown
from tritonsmith.builder.base.files.digest import digest_of_bytes
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config

X = TensorSpec("x", dtype_from_config("TYPE_FP32"), ("batch", 3, -1))
Y = TensorSpec("é", dtype_from_config("TYPE_STRING"), ())
# Whole numbers where floats may stand: 1 and 1.0 are different bytes.
FAR = Deviation("y", 0.1, 1, 2, None, Bounds(cosine=1, max_abs=0), "onnxruntime", "s", None)
GONE = Deviation("y", math.inf, 0.0, math.inf, "NaN")
ACCURACY = AccuracyReport((FAR, GONE), 2, "why")
PROFILE = OptimizationProfile({"x": ShapeRange((1, 4), (8, 4), (32, 4))})
DIMS = {"batch": (1, 2, 3)}
EVERY: dict[str, Any] = {
    "tensor": X,
    "export": ExportRequest(
        "m", "torch", "a:b", "/s", 20, 8, (X,), (Y,), DIMS, "a:c", (1, 3), 7, 1, Bounds(top1=1), 5,
        {"weights_only": True, "shape": [1, 2], "n": None, "far": math.pi}, ("é",), {"b": "2*a"}, "dynamo",
    ),
    "least export": ExportRequest("m", "onnx", "m.onnx", "."),
    "exported": ExportResult(
        ("model.onnx",), (X,), (Y,), 20, 10, ("/a",), ACCURACY, None, 1.5, {"onnx": "1"}, {"b": "2*a"}, "dynamo", ("n",)
    ),
    "convert": ConvertRequest(
        "m", "m.onnx", "int8", ("Conv*",), False, CalibrationSpec("c.npz", "/s", 5), "h.npz", {"per_channel": True}, 9
    ),
    "least convert": ConvertRequest("m", "m.onnx", "fp16"),
    "converted": ConvertResult(
        "int8", ("model.onnx",), (X,), (Y,), 20, 10, (KeptNode("n", "Conv", "why"),), ("m",), "d", 8, ("/c",), 2,
        {"onnx": "1"}, True, ("n",), Coverage(1, 2, 3, 4, {"Conv: why": 1}),
    ),
    "gate": GateRequest(
        "m", "int8", "s.onnx", "c.onnx", "s.npz", "/s", Bounds(0.1, 1, None, 0, None), Metric("a:b", 1, None),
        "tensorrt", ("n",), True,
    ),
    "judged": GateResult(
        ACCURACY, (MetricValue("onnxruntime", 1, True), MetricValue("ort", None, False)), ("f",),
        (LayerLoss("n", "Conv", 0.1, math.inf),), ("n",),
    ),
    "rows": RowsRequest("m", "m.onnx", (1, 2), ("y",), DIMS, {"b": "2*a"}, "s.npz", "/s", True, 3, 4, 1, 5),
    "least rows": RowsRequest("m", "m.onnx", (1, 2)),
    "rows report": RowsReport("mixed", (1, 2), "why", "BatchNormalization"),
    "least rows report": RowsReport("independent"),
    "compile": CompileRequest(
        "m", "tensorrt", "/m.onnx", (PROFILE,), CompileOptions(1 << 30, 3, refit=True), 20, "/t", "9.0"
    ),
    "least compile": CompileRequest("m", "tensorrt_rtx", "/m.onnx"),
    "compiled": CompileResult("tensorrt", "model.plan", "model.plan.json", 5, "10", None, 1, 2.5, "new", ("n",)),
}  # fmt: skip
DIGESTS = {
    "tensor": "1323db3155e82141",
    "export": "a2e40764c61a99fe",
    "least export": "ecb414dfe1915a7e",
    "exported": "81f85f10e6567a6e",
    "convert": "63ec8c3d062b16d9",
    "least convert": "6e02c5368a464f24",
    "converted": "96300fad500e10eb",
    "gate": "a4f83452e67ff368",
    "judged": "201d6fefe578d0fb",
    "rows": "975a721644380987",
    "least rows": "d1e7d81f5c4ca38c",
    "rows report": "c7e85b1251d40fc0",
    "least rows report": "c30294c623e8e306",
    "compile": "40319a48b410f110",
    "least compile": "604da284b45f6ed5",
    "compiled": "1f64e8a44d4d7fe7",
}
"""Of the forms that were once written by hand, and that keys, records and sidecars of before are made of."""


def _digest(form: Any) -> str:
    return digest_of_bytes(json.dumps(form, sort_keys=True, separators=(",", ":")).encode())[:16]


@pytest.mark.parametrize("name", EVERY)
def test_a_form_is_what_it_always_was_and_comes_back_whole(name: str) -> None:
    value = EVERY[name]
    form = value.as_dict()
    assert _digest(form) == DIGESTS[name]
    told = json.loads(json.dumps(form))
    assert told == form, "what is kept in memory and what is read again are the same"
    assert type(value).from_dict(told) == value


def test_an_engine_is_known_by_the_same_key_as_before() -> None:
    assert _digest(EVERY["compile"].identity()) == "14fb3d2afbc9ae62"


@pytest.mark.parametrize(
    ("valid", "expected"),
    [
        ({"fp32", "bf16", "fp16"}, {"seen": "fp61", "valid": ["bf16", "fp16", "fp32"], "fix": "did you mean 'fp16'? or none"}),
        (["x", "w"], {"seen": "fp61", "valid": ["x", "w"], "fix": "or none"}),
        ([], {"seen": "fp61", "valid": [], "fix": "or none"}),
    ],
)  # fmt: skip
def test_an_unknown_word_is_told_with_the_valid_ones_and_the_nearest(valid: Any, expected: Any) -> None:
    assert unknown("fp61", valid, "or none") == expected


def test_an_error_without_a_place_gets_that_of_the_file_it_is_about() -> None:
    for own, expected in ((None, "model.skops"), (Where(Path("net.py"), 3), "net.py:3")):
        with pytest.raises(ExportError) as caught, at(Where(Path("model.skops"))):
            raise ExportError("no", code="no", where=own)
        assert str(caught.value.where) == expected
        copy = error_from_form(json.loads(json.dumps(caught.value.form())))
        assert (type(copy), copy.as_dict()) == (ExportError, caught.value.as_dict())
