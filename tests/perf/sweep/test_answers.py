"""What answers may differ by: floats by tolerance or bounds, all else by nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonsmith.builder.actions.accuracy.laid_out import ServedAccuracy, read_accuracy, write_accuracy
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve
from tritonsmith.perf.data import ModelInterface
from tritonsmith.perf.sweep.answers import Tolerance, differs
from tritonsmith.perf.wire.payload import Answer, array_from_raw, tensor_from_array

ROW = np.array([[1.0, -20.0, 1e-7, 0.5]], np.float32)
FP16, INT8 = ServedAccuracy("fp16"), ServedAccuracy("int8")


def told(got: Any, want: Any, kind: str = "FP32", **allowed: Any) -> str | None:
    """`differs` of one output, in one answer."""
    spec = TensorSpec("y", dtype_from_kserve(kind), np.shape(want))
    model = ModelInterface("m", (), (spec,), 0)
    return differs([Answer({"y": got})], [Answer({"y": want})], model, Tolerance(**allowed))


def bf16(values: Any) -> Any:
    """As an answer has it: bits."""
    return array_from_raw("BF16", np.shape(values), tensor_from_array("y", np.float32(values), "BF16").data)


@pytest.mark.parametrize(
    ("got", "want", "kind", "allowed", "said"),
    [
        (ROW * 1.0005, ROW, "FP32", {}, None),
        (ROW + 2e-3, ROW, "FP32", {}, None),  # 1e-7 is held to what the output is like, not to itself
        (ROW + np.array([[0, 0.31, 0, 0]], np.float32), ROW, "FP32", {}, "deviation 0.31 at request 1 (allowed 0.02)"),
        (ROW * 1.0005, ROW, "FP32", {"rtol": 1e-4}, "largest deviation 0.01"),
        (ROW * 1.005, ROW, "FP16", {}, None),
        (ROW * 1.05, ROW, "FP16", {}, "largest deviation 1"),
        (bf16(ROW * 1.01), bf16(ROW), "BF16", {}, None),
        (bf16(ROW * 1.1), bf16(ROW), "BF16", {}, "largest deviation 2"),
        (ROW * np.float32("nan"), ROW, "FP32", {}, "largest deviation nan"),
        (ROW * np.float32("nan"), ROW * np.float32("nan"), "FP32", {}, None),
        (np.array([np.inf]), np.array([np.inf]), "FP64", {}, None),
        (np.array([-np.inf]), np.array([np.inf]), "FP64", {}, "largest deviation inf"),
        (np.zeros((0, 4)), np.zeros((0, 4)), "FP64", {}, None),
        (np.array([1, 2, 3]), np.array([1, 2, 4]), "INT64", {}, "1 of 3 values are others at request 1"),
        (np.array([b"a"], object), np.array([b"b"], object), "BYTES", {}, "1 of 1 values"),
        (np.array([True]), np.array([True]), "BOOL", {}, None),
        (ROW.astype(np.float64), ROW, "FP32", {}, "output y is float64 instead of float32"),
        (ROW[:, :2], ROW, "FP32", {}, "output y has shape [1, 2] instead of [1, 4]"),
        (ROW * 1.005, ROW, "FP32", {"bounds": (FP16,)}, None),
        (ROW * 1.012, ROW, "FP32", {"bounds": (FP16,)}, "output y, relative L2 0.012 > 0.01 at request 1"),
        (ROW * 1.012, ROW, "FP32", {"bounds": (FP16, FP16)}, None),  # each lies on its side of the source
        (ROW * 1.1, ROW, "FP32", {"bounds": (INT8,)}, None),
        (-ROW, ROW, "FP32", {"bounds": (INT8,)}, "relative L2 2 > 0.15"),
        (ROW * 1.1, ROW, "FP32", {"bounds": (ServedAccuracy("int8", {"max_abs": 0.1}),)}, "max abs 2 > 0.1"),
        (np.arange(8), np.arange(8) + (np.arange(8) == 3), "INT64", {"bounds": (INT8,)}, None),
        (np.arange(8), np.arange(8)[::-1], "INT64", {"bounds": (INT8,)}, "8 of 8 rows have another top-1"),
        (np.arange(8), np.arange(8) + (np.arange(8) == 3), "INT64", {"bounds": (ServedAccuracy("fp32"),)}, "relative"),
    ],
)  # fmt: skip
def test_what_differs(got: Any, want: Any, kind: str, allowed: dict[str, Any], said: str | None) -> None:
    found = told(got, want, kind, **allowed)
    assert found is None if said is None else found is not None and said in found, found


def test_outputs_by_name_and_what_was_not_answered_is_not_compared() -> None:
    model = ModelInterface("m", (), (TensorSpec("y", dtype_from_kserve("FP32"), (4,)),), 0)
    right, wrong, none = Answer({"y": ROW}), Answer({"y": ROW + 1}), Answer({}, "HTTP 500: no")
    assert differs([none, right], [right, right], model, Tolerance()) is None
    assert differs([wrong, right], [none, right], model, Tolerance()) is None
    assert "at request 2" in (differs([right, wrong], [right, right], model, Tolerance()) or "")
    assert differs([Answer({"z": ROW})], [right], model, Tolerance()) == "outputs z instead of y at request 1"
    assert differs([wrong], [right], model, Tolerance(), values=False) is None


def test_a_variants_bounds_are_read_back_and_a_broken_file_is_named(tmp_path: Path) -> None:
    assert read_accuracy(tmp_path) is None
    written = ServedAccuracy("int8", {"relative_l2": 0.3})
    write_accuracy(tmp_path, written)
    assert read_accuracy(tmp_path) == written
    for text in ("[]", '{"precision": "int9"}', '{"stated": {"speed": 1}}', '{"stated": {"cosine": "a"}}'):
        (tmp_path / "tritonsmith-accuracy.json").write_text(text)
        with pytest.raises(SpecError, match="bounds cannot be read") as error:
            read_accuracy(tmp_path)
        assert error.value.where is not None and "build --variants" in str(error.value.fix)
