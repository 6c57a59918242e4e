"""Which calibration data is taken, and which is refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec, load_calibration
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve

Array = np.ndarray[Any, Any]
IDS = TensorSpec("ids", dtype_from_kserve("INT64"), ("batch", "sequence"))
MASK = TensorSpec("mask", dtype_from_kserve("INT64"), ("batch", "sequence"))
X = TensorSpec("x", dtype_from_kserve("FP32"), ("batch", 4))


def values(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def written(tmp_path: Path, **arrays: Any) -> CalibrationSpec:
    np.savez(tmp_path / "c.npz", **arrays)
    return CalibrationSpec("c.npz", str(tmp_path))


def test_a_file_a_directory_and_a_callable_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "many"
    directory.mkdir()
    x = values(12)
    parts: dict[str, Any] = {"0/x": x[:6], "1/x": x[6:]}
    np.savez(tmp_path / "c.npz", **parts)
    np.savez(directory / "a.npz", x=x[:6])
    np.savez(directory / "b.npz", x=x[6:])
    (tmp_path / "calibration_source.py").write_text(
        "import numpy as np\n\n\ndef data():\n    x = np.random.default_rng(0).standard_normal((12, 4))\n"
        "    return [{'x': x[:6].astype('float32')}, {'x': x[6:].astype('float32')}]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [
        load_calibration(CalibrationSpec(reference, str(tmp_path)), [X])
        for reference in ("c.npz", "many", "calibration_source:data")
    ]
    assert {(c.rows, c.digest) for c in found} == {(12, found[0].digest)}
    assert [len(c.dependencies) for c in found] == [1, 2, 1]


def test_the_digest_follows_the_values_and_the_rows_taken(tmp_path: Path) -> None:
    spec = written(tmp_path, x=values(20))
    whole = load_calibration(spec, [X])
    part = load_calibration(CalibrationSpec("c.npz", str(tmp_path), 10), [X])
    other = load_calibration(written(tmp_path, x=values(20, seed=1)), [X])
    assert (whole.rows, part.rows) == (20, 10)
    assert len({whole.digest, part.digest, other.digest}) == 3


def test_a_mask_of_ones_beside_varied_ids_is_fine(tmp_path: Path) -> None:
    ids = np.arange(40, dtype=np.int64).reshape(8, 5)
    assert load_calibration(written(tmp_path, ids=ids, mask=np.ones_like(ids)), [IDS, MASK]).rows == 8


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        pytest.param({"x": values(7)}, "calibration_too_few", id="seven rows"),
        pytest.param({"x": np.ones((9, 4), np.float32)}, "calibration_constant", id="one value everywhere"),
        pytest.param(
            {"x": np.tile(values(1), (9, 1))}, "calibration_constant", id="the same row again and again"
        ),
        pytest.param({"x": values(9).astype(np.float64)}, "calibration_mismatch", id="another dtype"),
        pytest.param({"x": values(9)[:, :3]}, "calibration_mismatch", id="another width"),
        pytest.param({"X": values(9)}, "calibration_mismatch", id="another name"),
        pytest.param({"x": values(9) * np.float32(np.inf)}, "calibration_not_finite", id="infinities"),
    ],
)
def test_refused(tmp_path: Path, arrays: dict[str, Array], code: str) -> None:
    with pytest.raises(BuildError) as caught:
        load_calibration(written(tmp_path, **arrays), [X])
    assert caught.value.code == code


def test_rows_that_judge_may_not_calibrate_even_when_padded_otherwise(tmp_path: Path) -> None:
    ids = np.arange(1, 41, dtype=np.int64).reshape(8, 5)
    padded = np.pad(ids[2:3], ((0, 0), (0, 3)))
    with pytest.raises(BuildError) as caught:
        load_calibration(written(tmp_path, ids=ids), [IDS], [{"ids": padded}])
    assert caught.value.code == "calibration_held_out"
    assert str(caught.value.seen).startswith("1 rows")


@pytest.mark.parametrize("reference", ["none.npz", "none", "empty"])
def test_missing(tmp_path: Path, reference: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BuildError) as caught:
        load_calibration(CalibrationSpec(reference, str(tmp_path)), [X])
    assert caught.value.code in ("calibration_missing", "samples_missing")
