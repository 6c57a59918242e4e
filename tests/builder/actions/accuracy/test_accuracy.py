"""How far one array lies from another, and who says it is too far."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tritonsmith.builder.actions.accuracy.accuracy import (
    AccuracyReport,
    Bounds,
    Deviation,
    compare,
    default_bounds,
    report_from_deviations,
    variant_bounds,
)
from tritonsmith.builder.base.precisions import precision_rows


def f32(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.float32)


def one(
    candidate: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], bounds: Bounds | None = None
) -> Deviation:
    (deviation,) = compare({"y": candidate}, {"y": reference}, bounds=bounds)
    return deviation


@pytest.mark.parametrize(
    ("candidate", "reference", "relative_l2", "cosine", "max_abs"),
    [
        pytest.param([3, 4], [3, 4], 0.0, 1.0, 0.0, id="equal arrays are at distance 0"),
        pytest.param(
            [3, 4.5], [3, 4], 0.1, 26.999 / math.hypot(3, 4.5) / 5, 0.5, id="0.5 beside a norm of 5 is 0.1"
        ),
        pytest.param([-3, -4], [3, 4], 2.0, -1.0, 8.0, id="the opposite vector is twice the norm away"),
        pytest.param([0, 0], [0, 0], 0.0, 1.0, 0.0, id="zero against zero is equality"),
        pytest.param([0.25, 0], [0, 0], 0.25, 0.0, 0.25, id="against a zero norm the distance itself counts"),
        pytest.param([0, 0], [3, 4], 1.0, 0.0, 4.0, id="zeros in place of an answer are wholly wrong"),
    ],
)
def test_measures(
    candidate: list[float], reference: list[float], relative_l2: float, cosine: float, max_abs: float
) -> None:
    deviation = one(f32(*candidate), f32(*reference))
    assert deviation.failure is None
    assert deviation.relative_l2 == pytest.approx(relative_l2, abs=1e-9)
    assert deviation.cosine == pytest.approx(cosine, abs=1e-4)
    assert deviation.max_abs == pytest.approx(max_abs)


def test_cosine_is_that_of_the_worst_row() -> None:
    reference = np.eye(3, dtype=np.float32) * 100
    candidate = reference.copy()
    candidate[2] = [1, 0, 0]
    assert one(candidate, reference).cosine == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("candidate", "reference", "words"),
    [
        pytest.param(f32(1, 2), f32(1, 2, 3), "shape [2] instead of [3]", id="another shape"),
        pytest.param(
            f32(1).astype(np.float64), f32(1), "dtype float64 instead of float32", id="another dtype"
        ),
        pytest.param(f32(1, math.nan), f32(1, 2), "NaN in 1 of 2 values", id="NaN in the candidate"),
        pytest.param(
            f32(1, 2), f32(1, math.nan), "NaN in 1 of 2 reference values", id="NaN in the reference"
        ),
        pytest.param(
            f32(1, math.inf), f32(1, 2), "Inf in 1 values, 0 in the reference", id="Inf only in the candidate"
        ),
        pytest.param(f32(1, -math.inf), f32(1, math.inf), "Inf in 1 values, 1", id="Inf of the other sign"),
    ],
)
def test_what_cannot_be_compared_fails_whatever_the_bounds(
    candidate: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], words: str
) -> None:
    deviation = one(candidate, reference, Bounds(max_abs=1e9, negligible_abs=1e9))
    assert not deviation.passed
    assert words in deviation.violations[0]


def test_a_missing_output_fails_and_an_extra_one_does_not() -> None:
    missing, present = compare({"b": f32(1), "extra": f32(9)}, {"a": f32(1), "b": f32(1)})
    assert missing.failure == "the output is missing"
    assert present.passed


def test_the_same_infinity_is_no_difference_and_the_rest_is_still_measured() -> None:
    deviation = one(f32(-math.inf, 3, 4.5), f32(-math.inf, 3, 4))
    assert deviation.relative_l2 == pytest.approx(0.1)


def test_strings_count_the_elements_that_differ() -> None:
    reference = np.array([b"a", b"b", b"c", b"d"], dtype=object)
    candidate = np.array([b"a", "b", b"c", b"x"], dtype=object)  # str and bytes of one text are the same text
    deviation = one(candidate, reference)
    assert deviation.relative_l2 == 0.25
    assert not deviation.passed


def test_the_documented_bounds_are_those_of_the_rows() -> None:
    page = (ROOT / "docs" / "precision.md").read_text()
    table = page.partition("| precision | relative L2 at most | cosine at least |\n|---|--:|--:|\n")[
        2
    ].partition("\n\n")[0]
    told: dict[str, tuple[float, float | None]] = {}
    for line in table.splitlines():
        names, relative_l2, cosine = (cell.strip() for cell in line.strip("|").split("|"))
        told |= {n: (float(relative_l2), float(cosine) if cosine else None) for n in names.split(", ")}
    bounds = {name: variant_bounds(name, "float32") for name in precision_rows()}
    assert told == {name: (b.relative_l2, b.cosine) for name, b in bounds.items()}


def test_default_bounds_ask_equality_of_integers_and_1e_4_of_floats() -> None:
    near, far = f32(1, 1) * (1 + 5e-5), f32(1, 1) * (1 + 5e-4)
    assert one(near, f32(1, 1)).passed
    assert not one(far, f32(1, 1)).passed
    assert not one(np.array([1, 2]), np.array([1, 3])).passed
    assert default_bounds("float16").relative_l2 == 5e-3


def test_a_difference_below_rounding_passes_by_default_but_not_against_stated_bounds() -> None:
    candidate, reference = f32(2e-7), f32(1e-8)
    assert one(candidate, reference).passed
    assert not one(candidate, reference, Bounds(relative_l2=1e-4)).passed


def test_only_stated_measures_are_judged() -> None:
    candidate, reference = f32(2, 0, 0), f32(1, 0, 0)
    assert one(candidate, reference, Bounds(cosine=0.999)).passed
    assert one(candidate, reference, Bounds(cosine=0.999, max_abs=0.5)).violations == ("max abs 1 > 0.5",)


def test_a_report_keeps_the_worst_by_each_measure_so_that_other_bounds_judge_it_rightly() -> None:
    deviations = [
        Deviation("y", relative_l2=0.5, cosine=0.999, max_abs=0.1, runtime="r", sample="s0"),
        Deviation("y", relative_l2=0.1, cosine=0.2, max_abs=0.1, runtime="r", sample="s1"),
        Deviation("y", relative_l2=0.1, cosine=0.999, max_abs=9.0, runtime="r", sample="s2"),
        Deviation("y", relative_l2=0.0, cosine=1.0, max_abs=0.0, runtime="r", sample="s3"),
    ]
    report = report_from_deviations(deviations, 4)
    assert report.passed
    assert [d.sample for d in report.judged_by(Bounds(cosine=0.9)).failures] == ["s1"]
    assert [d.sample for d in report.judged_by(Bounds(max_abs=1.0)).failures] == ["s2"]
    assert report.worst is not None
    assert report.worst.sample == "s0"


def test_a_failed_comparison_is_worse_than_any_number() -> None:
    broken = compare({}, {"y": f32(1)})
    far = compare({"y": f32(100)}, {"y": f32(1)})
    worst = report_from_deviations([*far, *broken], 2).worst
    assert worst is not None
    assert worst.failure == "the output is missing"


def test_a_report_survives_strict_json() -> None:
    report = report_from_deviations(
        [*compare({}, {"y": f32(1)}, runtime="r", sample="s"), *compare({"z": f32(1.5)}, {"z": f32(1)})], 2
    )
    text = json.dumps(report.as_dict(), allow_nan=False)
    assert AccuracyReport.from_dict(json.loads(text)) == report
    assert AccuracyReport.from_dict(AccuracyReport((), 0, "why").as_dict()).note == "why"
    assert Deviation.from_dict(report.deviations[0].as_dict()).relative_l2 == math.inf


floats = st.floats(-1e6, 1e6, width=32)


@given(st.lists(floats, min_size=1, max_size=20), floats.filter(lambda s: abs(s) > 1e-3))
def test_scaling_both_sides_keeps_the_relative_measures(values: list[float], scale: float) -> None:
    reference = np.array(values, dtype=np.float64)
    candidate = reference + np.linspace(0.1, 1.0, len(values))
    if np.linalg.norm(reference) < 1e-3:
        return
    before, after = one(candidate, reference), one(candidate * scale, reference * scale)
    assert after.relative_l2 == pytest.approx(before.relative_l2, rel=1e-6)
    assert after.cosine == pytest.approx(before.cosine, abs=1e-6)


@given(st.lists(floats, min_size=1, max_size=20))
def test_an_array_is_at_distance_0_from_itself(values: list[float]) -> None:
    deviation = one(np.array(values, dtype=np.float32), np.array(values, dtype=np.float32))
    assert (deviation.relative_l2, deviation.max_abs) == (0.0, 0.0)
    assert deviation.cosine == pytest.approx(1.0)
    assert deviation.passed
