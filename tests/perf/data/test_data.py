from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples
from tritonsmith.builder.base.errors import TritonsmithError, UsageError
from tritonsmith.perf.data import (
    DataOptions,
    ModelInterface,
    Span,
    interface_from_metadata,
    payload_from_sample,
    payloads_from_options,
)
from tritonsmith.perf.wire.payload import InferPayload, array_from_raw


def interface(max_batch_size: int = 8, **inputs: tuple[str, list[int]]) -> ModelInterface:
    lead = [-1] if max_batch_size else []
    metadata = {
        "name": "m",
        "inputs": [{"name": n, "datatype": d, "shape": lead + s} for n, (d, s) in inputs.items()],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [*lead, 4]}],
    }
    return interface_from_metadata(metadata, {"max_batch_size": max_batch_size})


TEXT = interface(ids=("INT64", [-1]), mask=("INT64", [-1]))


def arrays(payload: InferPayload) -> dict[str, Any]:
    return {t.name: array_from_raw(t.datatype, t.shape, t.data) for t in payload.inputs}


@pytest.mark.parametrize(
    "datatype",
    ["BOOL", "UINT8", "UINT64", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES"],
)
def test_values_are_drawn_for_every_dtype_and_are_not_all_the_same(datatype: str) -> None:
    model = interface(x=(datatype, [3, 5]))
    pool = payloads_from_options(model, DataOptions(pool=4, batch_size=2))
    assert len({p.inputs[0].data for p in pool}) == 4, "four distinct requests"
    for payload in pool:
        assert payload.inputs[0].datatype == datatype
        assert payload.inputs[0].shape == (2, 3, 5)
        assert payload.batch_size == 2


def test_the_seed_decides_the_values() -> None:
    model = interface(x=("FP32", [4]))
    one, same, other = (payloads_from_options(model, DataOptions(seed=s)) for s in (1, 1, 2))
    assert one == same != other


def test_ranges_bound_what_is_drawn() -> None:
    model = interface(ids=("INT32", [50]), x=("FP32", [50]), s=("BYTES", [50]))
    ranges = {"ids": Span(5, 9), "x": Span(-2.0, -1.0), "s": Span(1, 3)}
    (payload,) = payloads_from_options(model, DataOptions(pool=1, ranges=ranges))
    values = arrays(payload)
    assert set(values["ids"].ravel().tolist()) == {5, 6, 7, 8, 9}
    assert values["x"].min() >= -2 and values["x"].max() < -1
    assert {len(e) for e in values["s"].ravel().tolist()} == {1, 2, 3}


def test_a_dimension_that_varies_needs_a_shape_and_the_error_says_how() -> None:
    with pytest.raises(UsageError) as error:
        payloads_from_options(TEXT, DataOptions())
    assert error.value.code == "shape_needed"
    assert "--shape ids:SIZE --shape mask:SIZE" in str(error.value), "one more attempt is enough"


def test_equal_ranges_of_a_size_are_drawn_together() -> None:
    options = DataOptions(pool=20, shapes={"ids": (Span(2, 40),), "mask": (Span(2, 40),)})
    pool = payloads_from_options(TEXT, options)
    sizes = [(p.inputs[0].shape[1], p.inputs[1].shape[1]) for p in pool]
    assert all(a == b for a, b in sizes)
    assert len(set(sizes)) > 5
    assert all(2 <= a <= 40 for a, _ in sizes)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (DataOptions(shapes={"idz": (Span(1, 1),)}), "unknown_input"),
        (DataOptions(shapes={"ids": (Span(1, 1), Span(1, 1)), "mask": (Span(1, 1),)}), "bad_shape"),
        (DataOptions(batch_size=9), "bad_batch_size"),
        (DataOptions(ranges={"ids": Span(0, 2**70)}, shapes={"ids": (Span(1, 1),)}), "bad_range"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(options: DataOptions, code: str) -> None:
    with pytest.raises(UsageError) as error:
        payloads_from_options(TEXT, options)
    assert error.value.code == code


def test_a_model_that_does_not_batch_gets_its_own_shape() -> None:
    model = interface(max_batch_size=0, x=("FP32", [4]))
    (payload,) = payloads_from_options(model, DataOptions(pool=1))
    assert payload.inputs[0].shape == (4,)
    assert payload.batch_size == 1
    with pytest.raises(UsageError):
        payloads_from_options(model, DataOptions(batch_size=2))


def sample(rows: int, start: int = 0) -> Sample:
    x = np.arange(start, start + rows * 4, dtype=np.float32).reshape(rows, 4)
    return Sample({"x": x}, {"y": 2 * x})


def test_a_samples_file_brings_its_expected_outputs(tmp_path: Path) -> None:
    model = interface(x=("FP32", [4]))
    save_samples(SampleSet((sample(1), sample(3, 100)), "test"), tmp_path / "s.npz")
    pool = payloads_from_options(model, DataOptions(file=tmp_path / "s.npz"))
    assert [p.batch_size for p in pool] == [1, 3]
    for payload in pool:
        assert payload.expected is not None
        assert np.array_equal(payload.expected["y"], 2 * arrays(payload)["x"])


def test_rows_are_put_into_requests_of_the_batch_size_with_their_outputs(tmp_path: Path) -> None:
    model = interface(x=("FP32", [4]))
    save_samples(SampleSet((sample(1), sample(3, 100)), "test"), tmp_path / "s.npz")
    pool = payloads_from_options(model, DataOptions(file=tmp_path / "s.npz", batch_size=2))
    assert [p.batch_size for p in pool] == [2, 2]
    assert arrays(pool[0])["x"][:, 0].tolist() == [0, 100]
    for payload in pool:
        assert payload.expected is not None
        assert np.array_equal(payload.expected["y"], 2 * arrays(payload)["x"])
    (bigger,) = payloads_from_options(model, DataOptions(file=tmp_path / "s.npz", batch_size=8))
    assert bigger.batch_size == 8, "rows repeat when there are fewer than asked for"


def test_a_directory_may_hold_a_file_an_input(tmp_path: Path) -> None:
    model = interface(x=("FP32", [4]), ids=("INT64", [-1]))
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    (tmp_path / "ids").write_bytes(np.arange(7, dtype=np.int64).tobytes())
    (payload,) = payloads_from_options(model, DataOptions(file=tmp_path))
    assert arrays(payload)["ids"].tolist() == [list(range(7))]
    (tmp_path / "ids").unlink()
    with pytest.raises(UsageError) as error:
        payloads_from_options(model, DataOptions(file=tmp_path))
    assert error.value.code == "missing_input"


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"x": np.zeros((1, 4))}, "input_dtype"),
        ({"x": np.zeros((1, 5), np.float32)}, "bad_shape"),
        ({"x": np.zeros((9, 4), np.float32)}, "bad_batch_size"),
        ({"z": np.zeros((1, 4), np.float32)}, "unknown_input"),
        ({}, "missing_input"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(inputs: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as error:
        payload_from_sample(interface(x=("FP32", [4])), Sample(inputs, {}))
    assert error.value.code == code


def test_a_file_that_is_not_there_or_is_no_npz_is_an_expected_error(tmp_path: Path) -> None:
    model = interface(x=("FP32", [4]))
    (tmp_path / "junk.npz").write_bytes(b"junk")
    for name in ("none.npz", "junk.npz"):
        with pytest.raises(TritonsmithError, match=name):
            payloads_from_options(model, DataOptions(file=tmp_path / name))


def test_optional_inputs_are_left_out_unless_a_shape_is_given() -> None:
    metadata = {
        "name": "m",
        "inputs": [{"name": n, "datatype": "FP32", "shape": [-1, 2]} for n in ("x", "extra")],
        "outputs": [],
    }
    config = {"max_batch_size": 4, "input": [{"name": "x"}, {"name": "extra", "optional": True}]}
    model = interface_from_metadata(metadata, config)
    (payload,) = payloads_from_options(model, DataOptions(pool=1))
    assert [t.name for t in payload.inputs] == ["x"]
