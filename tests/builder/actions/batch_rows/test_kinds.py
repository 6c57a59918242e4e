"""Every kind of model: whether its rows mix, which operator does it, and what is said of those that cannot be told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import onnx_models
from tests.builder.actions.batch_rows.models import KINDS, X, Y, model, node
from tests.onnx_models import tensor
from tritonsmith.builder.actions.accuracy.intermediates import run_intermediates
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples
from tritonsmith.builder.actions.batch_rows import RowsReport, RowsRequest, report_from_dict, sizes_to_run
from tritonsmith.builder.actions.batch_rows.compare import is_rounding, is_same, is_within_bounds
from tritonsmith.builder.actions.batch_rows.graph.first_op import Graph
from tritonsmith.builder.actions.batch_rows.rows import POOL, batch_of, rows_of
from tritonsmith.builder.actions.batch_rows.run import run_rows
from tritonsmith.builder.actions.batch_rows.worker import report_of
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.cache.record import checked_record


def report(
    proto: object, directory: Path, sizes: tuple[int, ...] = (1, 2, 3, 8), **request: object
) -> RowsReport:
    path = directory / "m.onnx"
    onnx.save(proto, str(path))
    return report_of(RowsRequest("m", str(path), sizes, **request), directory / "scratch")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(KINDS))
def test_kind(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    found = report(kind.make(), tmp_path, kind.sizes)
    assert found.verdict == kind.verdict, found
    assert kind.op in found.op and kind.note in found.note, found
    if kind.verdict == "independent":
        assert found.sizes == kind.sizes and found.op == ""
    elif kind.verdict == "mixed":
        assert "row " in found.note or "output y has" in found.note
        assert found.op in found.note


def test_a_difference_of_one_element_beside_large_ones_is_found(tmp_path: Path) -> None:
    """1e6 beside the row's 0.5: the whole row hides what becomes of the small value."""
    nodes = [
        node("ReduceMean", ["x", "axes"], ["m"], name="bad", keepdims=1),
        node("Mul", ["m", "where"], ["n"]),
        node("Add", ["x", "n"], ["a"]),
        node("Add", ["a", "large"], ["y"]),
    ]
    where = np.array([0, 0, 0, 0, 0, 1], np.float32)
    large = np.array([1e6, 1e6, 1e6, 1e6, 1e6, 0], np.float32)
    constants = {"axes": np.array([0]), "where": where, "large": large}
    found = report(model(nodes, [X], [Y], constants), tmp_path)
    assert found.verdict == "mixed" and "ReduceMean 'bad'" in found.op


def test_mixing_by_ten_thousandths_is_found_and_by_a_rounding_is_not(tmp_path: Path) -> None:
    def weak(share: float) -> RowsReport:
        nodes = [
            node("ReduceMean", ["x", "axes"], ["m"], name="bad", keepdims=1),
            node("Mul", ["m", "share"], ["n"]),
            node("Add", ["x", "n"], ["y"]),
        ]
        constants = {"axes": np.array([0]), "share": np.float32(share)}
        return report(model(nodes, [X], [Y], constants), tmp_path)

    assert weak(1e-4).verdict == "mixed"
    assert (weak(1e-9).verdict, weak(1e-9).op) == ("unverified", "ReduceMean 'bad'")


def test_an_output_that_is_not_served_may_mix(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("ReduceMean", ["x", "axes"], ["all"], keepdims=1)]
    both = model(nodes, [X], [Y, tensor("all", (1, 6))], {"axes": np.array([0])})
    assert report(both, tmp_path).verdict == "mixed"
    assert report(both, tmp_path, outputs=("y",)).verdict == "independent"


def test_inputs_that_cannot_be_made_up_are_said_and_samples_verify(tmp_path: Path) -> None:
    logarithm = model([node("Log", ["x"], ["y"])], [X], [Y])
    found = report(logarithm, tmp_path)
    assert found.verdict == "unverified" and "accuracy.samples" in found.note
    rows = np.random.default_rng(0).uniform(1, 2, (4, 6)).astype(np.float32)
    save_samples(SampleSet((Sample({"x": rows}, {}),)), tmp_path / "s.npz")
    assert report(logarithm, tmp_path, samples=str(tmp_path / "s.npz")).verdict == "independent"


def test_made_up_inputs_keep_to_what_dims_follow_from(tmp_path: Path) -> None:
    proto = onnx_models.past_and_new()
    ranges = {"past": (1, 7, 9), "new": (1, 2, 3), "total": (5, 8, 20)}
    assert report(proto, tmp_path, dynamic_dims=ranges).verdict == "unverified"
    related = report(proto, tmp_path, dynamic_dims=ranges, dim_relations={"total": "past + new"})
    assert related.verdict == "independent"


def test_a_model_whose_rows_all_answer_alike_is_not_called_verified(tmp_path: Path) -> None:
    constant = model([node("Mul", ["x", "zero"], ["y"])], [X], [Y], {"zero": np.float32(0)})
    found = report(constant, tmp_path)
    assert found.verdict == "unverified" and "same answer" in found.note


def test_token_ids_of_samples_are_kept_where_made_up_ones_would_not_do(tmp_path: Path) -> None:
    """Ids 5 … 8 of a table whose first five rows are NaN."""
    table = np.full((9, 6), np.nan, np.float32)
    table[5:] = np.arange(24, dtype=np.float32).reshape(4, 6)
    lookup = model(
        [node("Gather", ["table", "x"], ["y"])], [tensor("x", ("b",), "INT64")], [Y], {"table": table}
    )
    assert report(lookup, tmp_path).verdict == "unverified"
    save_samples(SampleSet((Sample({"x": np.array([5, 6, 7, 8])}, {}),)), tmp_path / "s.npz")
    assert report(lookup, tmp_path, samples=str(tmp_path / "s.npz")).verdict == "independent"


def test_a_large_batch_is_bounded_by_bytes_and_said(tmp_path: Path) -> None:
    """Each row takes 4 MB inside; 512 of them may not take more than 64 MB."""
    nodes = [
        node("Expand", ["x", "shape"], ["wide"]),
        node("Tanh", ["wide"], ["t"]),
        node("ReduceSum", ["t", "axes"], ["y"], keepdims=0),
    ]
    constants = {"shape": np.array([1, 1000, 1000]), "axes": np.array([1, 2])}
    wide = model(nodes, [tensor("x", ("b", 1, 1))], [tensor("y", ("b",))], constants)
    onnx.save(wide, str(tmp_path / "m.onnx"))
    request = RowsRequest("m", str(tmp_path / "m.onnx"), (1, 2, 3, 512), largest_run_bytes=64 * 2**20)
    (tmp_path / "scratch").mkdir()
    # In a process of its own: what the process of the tests took before, and gave back, would not be seen to grow.
    found = run_rows(request, tmp_path / "scratch", tmp_path / "log")
    assert found.verdict == "independent"
    assert 3 <= found.sizes[-1] <= 40, found.sizes
    assert f"run up to batch {found.sizes[-1]}, not 512" in found.note


def test_any_number_may_be_stated_as_the_largest_batch(tmp_path: Path) -> None:
    found = report(KINDS["layers"].make(), tmp_path, (1, 2, 3, 2**31 - 1))
    assert found.sizes == (1, 2, 3, 4096) and "4096 rows" in found.note


def test_external_data_is_looked_into_without_a_byte_beside_it(tmp_path: Path) -> None:
    path = onnx_models.save_with_external_data(KINDS["batch_norm_training"].make(), tmp_path / "there")
    before = {p: p.stat().st_mtime_ns for p in path.parent.iterdir()}
    found = report_of(RowsRequest("m", str(path), (1, 2)), tmp_path / "scratch")
    assert found.verdict == "mixed" and "BatchNormalization" in found.op
    assert {p: p.stat().st_mtime_ns for p in path.parent.iterdir()} == before


def test_a_model_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    inner = onnx.helper.make_graph(
        [node("Tanh", ["v"], ["w"]), node("Identity", ["go"], ["on"])],
        "body",
        [tensor("i", (), "INT64"), tensor("go", (), "BOOL"), tensor("v", ("b", 6))],
        [tensor("on", (), "BOOL"), tensor("w", ("b", 6))],
    )
    endless = model([node("Loop", ["", "yes", "x"], ["y"], body=inner)], [X], [Y], {"yes": np.array(True)})
    onnx.save(endless, str(tmp_path / "m.onnx"))
    request = RowsRequest("m", str(tmp_path / "m.onnx"), (1, 2))
    with pytest.raises(BuildError) as raised:
        run_rows(request, tmp_path / "scratch", tmp_path / "log", timeout_s=3)
    assert raised.value.code == "rows_timeout"


def test_rows_are_different_and_of_one_shape() -> None:
    twice = np.array([[1.0], [1.0], [2.0]], np.float32)
    samples = [{"x": twice}, {"x": np.array([[3.0], [2.0]], np.float32)}, {"x": np.zeros((1, 2), np.float32)}]
    assert [float(row["x"][0, 0]) for row in rows_of(samples)] == [1.0, 2.0, 3.0]
    many = [{"x": np.arange(99, dtype=np.float32)[:, None]}]
    assert len(rows_of(many)) == POOL
    uneven = [{"x": np.zeros((2, 1), np.float32), "y": np.zeros((3, 1), np.float32)}]
    assert rows_of(uneven) == []
    assert batch_of(rows_of(samples), [2, 0])["x"].tolist() == [[3.0], [1.0]]
    assert batch_of(rows_of(samples), [0] * 5)["x"].ctypes.data % 64 == 0


@pytest.mark.parametrize(
    ("other", "same", "bounds"),
    [
        ([1.0, np.nan, np.inf], True, True),
        ([1.0 + 1e-7, np.nan, np.inf], True, True),
        ([1.0 + 5e-6, np.nan, np.inf], False, True),
        ([1.0 + 1e-3, np.nan, np.inf], False, False),
        ([1.0, np.nan, -np.inf], False, False),
        ([1.0, 0.0, np.inf], False, False),
        ([np.nan, np.nan, np.inf], False, False),
    ],
)
def test_nan_equals_nan_and_rounding_is_told_from_more(other: list[float], same: bool, bounds: bool) -> None:
    a, b = np.array([1.0, np.nan, np.inf], np.float32), np.array(other, np.float32)
    assert is_same(a, b) == same and is_within_bounds(b, a) == bounds
    assert is_rounding(b, a) == (same or bounds)


def test_integers_and_strings_have_no_rounding() -> None:
    for a, b in ((np.array([1]), np.array([2])), (np.array([b"a"], object), np.array([b"b"], object))):
        assert not is_same(a, b) and not is_within_bounds(a, b) and not is_rounding(a, b)
        assert is_same(a, a) and is_within_bounds(a, a)


def test_sizes_and_the_reports_json_form() -> None:
    assert sizes_to_run(8, (4, 6)) == (1, 2, 3, 4, 6, 8)
    assert sizes_to_run(1) == (1,) and sizes_to_run(0) == ()
    found = RowsReport("mixed", (1, 2), "note", "op")
    assert report_from_dict(found.as_dict()) == found
    assert checked_record("rows", {"rows": found.as_dict()}, []) == {"rows": found.as_dict()}
    for hostile in ({"verdict": "fine"}, {**found.as_dict(), "sizes": [0]}, {}):
        with pytest.raises(ValueError, match=r"record\.rows"):
            checked_record("rows", {"rows": hostile}, [])


def test_an_output_of_one_string_a_row_is_compared(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.identity(["batch"], "BYTES"), tmp_path / "labels.onnx")
    inputs = {"in_BYTES": np.array([b"setosa", b"virginica", b"other"], dtype=object)}
    samples = SampleSet((Sample(inputs, {"out_BYTES": inputs["in_BYTES"]}, "words"),), "made here")
    save_samples(samples, tmp_path / "samples.npz")
    request = RowsRequest("m", str(path), (1, 2, 3), samples=str(tmp_path / "samples.npz"))
    assert report_of(request, tmp_path / "scratch").verdict == "independent"


def test_inner_tensors_of_a_run_that_fails_are_an_error_of_ours(tmp_path: Path) -> None:
    """ONNX Runtime's exceptions have no base but Exception."""
    lookup = model(
        [node("Gather", ["table", "x"], ["z"]), node("Relu", ["z"], ["y"])],
        [tensor("x", ("b",), "INT64")],
        [Y],
        {"table": np.zeros((3, 6), np.float32)},
    )
    onnx.save(lookup, str(tmp_path / "m.onnx"))
    beyond = {"x": np.array([7])}
    with pytest.raises(BuildError) as raised:
        list(run_intermediates(str(tmp_path / "m.onnx"), ["z"], [beyond]))
    assert raised.value.code == "intermediates" and "7" in raised.value.message
    assert Graph(tmp_path / "m.onnx").shapes(["z"], [beyond]) == {}
