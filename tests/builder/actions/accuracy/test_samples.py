"""Samples on disk without pickle, in the batch sizes asked for, and drawn to look like an example."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonsmith.builder.actions.accuracy.samples import (
    Sample,
    SampleSet,
    batches_from_samples,
    bytes_as_object,
    load_samples,
    save_samples,
    values_like,
)
from tritonsmith.builder.base.errors import BuildError

Array = np.ndarray[Any, Any]


def objects(*items: bytes) -> Array:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def assert_same(got: dict[str, Array], want: dict[str, Array]) -> None:
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        assert np.array_equal(got[name], array)


def test_what_is_saved_is_loaded_whatever_the_dtype_and_the_name(tmp_path: Path) -> None:
    inputs = {
        "a/b:0": np.arange(6, dtype=np.int64).reshape(2, 3),
        "../up": np.array([[True], [False]]),
        "__header__": np.array(3.5, dtype=np.float16),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "words": objects(b"", b"\x00nul\x00", "größer".encode(), b"x" * 70_000).reshape(2, 2),
    }
    outputs = {"y": np.array([np.inf, -0.0], dtype=np.float32)}
    written = SampleSet(
        (Sample(inputs, outputs, "first"), Sample({"x": np.ones(1)}, {}, "second")), "somewhere"
    )
    save_samples(written, tmp_path / "samples.npz")
    read = load_samples(tmp_path / "samples.npz")
    assert read.origin == "somewhere"
    assert [sample.label for sample in read.samples] == ["first", "second"]
    assert_same(read.samples[0].inputs, inputs)
    assert_same(read.samples[0].outputs, outputs)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]


def test_the_same_set_gives_the_same_bytes(tmp_path: Path) -> None:
    samples = SampleSet((Sample({"x": np.arange(4.0)}, {}, "l"),), "o")
    for name in ("a.npz", "b.npz"):
        save_samples(samples, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_plain_file_is_one_sample_and_its_text_becomes_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", ids=np.arange(3), text=np.array(["a", "bc"]))
    (sample,) = load_samples(tmp_path / "plain.npz").samples
    assert sample.inputs["text"].tolist() == [b"a", b"bc"]
    assert sample.inputs["ids"].tolist() == [0, 1, 2]


def test_a_plain_file_with_numbered_names_is_several_samples_in_order(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {f"{i}/x": np.full(2, i) for i in (10, 2, 0)}
    np.savez(tmp_path / "several.npz", **arrays)
    assert [s.inputs["x"][0] for s in load_samples(tmp_path / "several.npz").samples] == [0, 2, 10]


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "ran"))


def test_a_pickle_in_the_file_is_refused_and_never_run(tmp_path: Path) -> None:
    array = np.array([Bomb(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "evil.npz", x=array)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for name in ("evil.npz", "raw.npz"):
        with pytest.raises(BuildError) as caught:
            load_samples(tmp_path / name)
        assert caught.value.code == "samples_unreadable"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "No data left", id="an empty file"),
        pytest.param(b"PK\x03\x04 broken", "not a zip", id="a broken zip"),
        pytest.param(None, "single .npy array", id="an .npy under another name"),
    ],
)
def test_what_is_no_npz_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "bad.npz"
    if content is None:
        with path.open("wb") as file:
            np.save(file, np.arange(3))
    else:
        path.write_bytes(content)
    with pytest.raises(BuildError, match=words) as caught:
        load_samples(path)
    assert caught.value.code == "samples_unreadable"
    assert caught.value.where is not None
    assert caught.value.where.path == path


def test_a_header_of_another_format_is_refused(tmp_path: Path) -> None:
    header = np.frombuffer(json.dumps({"format": "other"}).encode(), dtype=np.uint8)
    np.savez(tmp_path / "other.npz", __header__=header)
    with pytest.raises(BuildError, match="other"):
        load_samples(tmp_path / "other.npz")


def test_a_missing_file_has_its_own_code(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        load_samples(tmp_path / "none.npz")
    assert caught.value.code == "samples_missing"


def rows(*values: int, width: int = 2) -> dict[str, Array]:
    return {"x": np.repeat(np.array(values)[:, None], width, axis=1)}


def sizes(batches: list[dict[str, Array]]) -> list[int]:
    return [batch["x"].shape[0] for batch in batches]


def test_large_samples_are_cut_and_missing_sizes_are_made_of_different_rows() -> None:
    batches = batches_from_samples([rows(0, 1, 2, 3, 4), rows(5, 6)], [1, 3, 4], max_batch_size=4)
    assert sizes(batches) == [4, 1, 2, 3]
    assert batches[3]["x"][:, 0].tolist() == [0, 1, 2]


def test_rows_repeat_only_when_there_are_too_few() -> None:
    batches = batches_from_samples([rows(0, 1, 2)], [8], max_batch_size=8)
    assert batches[-1]["x"][:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_samples_of_another_shape_are_kept_but_not_joined() -> None:
    batches = batches_from_samples([rows(0, 1), rows(7, width=5)], [4], max_batch_size=4)
    assert sizes(batches) == [2, 1, 4]
    assert set(batches[2]["x"].reshape(-1).tolist()) == {0, 1}


@given(st.integers(-50, 50), st.integers(0, 100), st.integers(0, 2**32 - 1))
def test_drawn_integers_stay_between_the_examples_extremes(low: int, span: int, seed: int) -> None:
    example = np.array([low, low + span], dtype=np.int64)
    drawn = values_like(example, (7, 3), np.random.default_rng(seed))
    assert drawn.shape == (7, 3)
    assert drawn.dtype == np.int64
    assert low <= drawn.min() <= drawn.max() <= low + span


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_drawn_floats_have_the_examples_dtype_mean_and_deviation(dtype: str) -> None:
    rng = np.random.default_rng(0)
    example = rng.normal(5, 2, 10_000).astype(dtype) - (10 if dtype != "float16" else 0)
    drawn = values_like(example, (20_000,), rng)
    assert drawn.dtype == dtype
    assert float(drawn.mean()) == pytest.approx(float(example.astype(float).mean()), abs=0.15)
    assert float(drawn.astype(float).std()) == pytest.approx(2, abs=0.15)


def test_drawn_floats_keep_the_sign_of_a_one_sided_example() -> None:
    example = np.array([0.1, 0.5, 0.9], dtype=np.float32)
    drawn = values_like(example, (1000,), np.random.default_rng(0))
    assert drawn.min() >= example.min()
    assert drawn.max() <= example.max()


def test_a_constant_example_still_gives_values_that_differ() -> None:
    for example in (np.zeros(4, np.float32), np.ones(4, np.float32)):
        assert len(np.unique(values_like(example, (8,), np.random.default_rng(0)))) > 1


def test_drawn_booleans_and_strings() -> None:
    rng = np.random.default_rng(0)
    assert set(values_like(np.array([True]), (50,), rng).tolist()) == {True, False}
    assert set(values_like(objects(b"a", b"b"), (50,), rng).tolist()) == {b"a", b"b"}


def test_text_arrays_become_bytes_and_numbers_stay() -> None:
    assert bytes_as_object(np.array([["ä", "b"]])).tolist() == [["ä".encode(), b"b"]]
    numbers = np.arange(3)
    assert bytes_as_object(numbers) is numbers
