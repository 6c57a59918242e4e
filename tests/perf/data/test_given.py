"""NAME=VALUE texts, files among them → arrays as a model takes them, and one clear error for what it does not take."""

from __future__ import annotations

import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve
from tritonsmith.perf.data.given import Given, given_sample, texts_from_flags
from tritonsmith.perf.data.interface import ModelInterface


def model(kserve: str, *shape: int, batches: bool = False) -> ModelInterface:
    spec = TensorSpec("x", dtype_from_kserve(kserve), shape)
    return ModelInterface("m", (spec,), (spec,), 8 if batches else 0)


def given(text: str, kserve: str, *shape: int, batches: bool = False) -> Given:
    return given_sample(model(kserve, *shape, batches=batches), {"x": text})


@pytest.mark.parametrize(
    ("text", "kserve", "shape", "batches", "want"),
    [
        ("[[1, 2, 3]]", "INT64", (3,), True, np.array([[1, 2, 3]], np.int64)),
        ("[1, 2, 3]", "INT64", (-1,), True, np.array([[1, 2, 3]], np.int64)),
        ("3.5", "FP32", (1,), False, np.array([3.5], np.float32)),
        ("3", "FP16", (1, -1), True, np.array([[[3]]], np.float16)),
        ("7", "INT32", (), False, np.array(7, np.int32)),
        ("[true, 0]", "BOOL", (2,), False, np.array([True, False])),
        ("[]", "FP32", (-1,), False, np.array([], np.float32)),
        (f"[{2**64 - 1}]", "UINT64", (1,), False, np.array([2**64 - 1], np.uint64)),
        ("[1e400, NaN]", "FP32", (2,), False, np.array([np.inf, np.nan], np.float32)),
        ("1.5", "BF16", (1,), False, np.array([1.5], np.float32)),
    ],
)
def test_json_becomes_the_inputs_array(
    text: str, kserve: str, shape: tuple[int, ...], batches: bool, want: Any
) -> None:
    array = given(text, kserve, *shape, batches=batches).sample.inputs["x"]
    assert array.dtype == want.dtype and array.shape == want.shape
    np.testing.assert_array_equal(array, want)


@pytest.mark.parametrize(
    ("text", "want"),
    [('"a b"', b"a b"), ("a b", b"a b"), ('"\\u00e9"', "é".encode()), ('["a b"]', b"a b"), ("@x", None)],
)
def test_a_text_is_a_text_with_its_quotes_or_without(text: str, want: bytes | None, tmp_path: Path) -> None:
    if want is None:
        (tmp_path / "x").write_bytes(b"\xff\0 raw")
        text, want = f"@{tmp_path / 'x'}", b"\xff\0 raw"
    array = given(text, "BYTES", 1, batches=True).sample.inputs["x"]
    assert array.tolist() == [[want]] and array.dtype == object


@pytest.mark.parametrize(
    ("text", "kserve", "code", "seen", "valid"),
    [
        ("[[1, 2], [3]]", "FP32", "bad_data", "[[1, 2], [3]]", "FP32 [4]"),
        ("[1, 2", "FP32", "bad_data", "[1, 2", "[[1, 2, 3]]"),
        ('["a"]', "FP32", "bad_data", "a", "FP32 [4]"),
        ("[1.5]", "INT32", "bad_data", "1.5", "INT32 [4]"),
        ("[300]", "UINT8", "bad_data", "300", "UINT8 [4]"),
        ("[1e39]", "FP32", "bad_data", "1e+39", "FP32 [4]"),
        ("[2]", "BOOL", "bad_data", "2", "BOOL [4]"),
        (f"[1{'0' * 400}]", "FP64", "bad_data", f"1{'0' * 400}", "FP64 [4]"),
        ("{}", "FP32", "bad_data", "{}", "FP32 [4]"),
        ("17", "BYTES", "bad_data", "17", "BYTES [4]"),
        ("[" * 2000 + "]" * 2000, "FP32", "bad_data", "", ""),
        ("@no.npy", "FP32", "no_data", "None", ""),
    ],
)
def test_what_is_none_is_one_error(text: str, kserve: str, code: str, seen: str, valid: str) -> None:
    with pytest.raises(UsageError) as caught:
        given(text, kserve, 4)
    error = caught.value
    assert error.code == code and (not seen or str(error.seen) == seen)
    assert not valid or valid in [str(v) for v in error.valid]
    assert "`x`" in error.message


def test_an_array_file_is_taken_in_its_own_type_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(4.0))
    with pytest.raises(UsageError) as caught:
        given(f"@{path}", "FP32", 4)
    assert (caught.value.code, caught.value.seen, caught.value.valid) == (
        "input_dtype",
        "float64",
        ("float32",),
    )
    assert caught.value.fix == "numpy.save('x.npy', array.astype('float32'))"
    np.save(path, np.arange(4, dtype=np.float32))
    found = given(f"@{path}", "FP32", 4, batches=True)
    assert found.sample.inputs["x"].tolist() == [[0, 1, 2, 3]] and found.notes == (
        "x: a batch of one, [1, 4]",
    )
    np.save(path, np.array(["é", "b"]))
    assert given(f"@{path}", "BYTES", 2).sample.inputs["x"].tolist() == ["é", "b"]
    path.write_bytes(b"no array")
    with pytest.raises(UsageError, match="not an array file"):
        given(f"@{path}", "FP32", 4)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """4 × 2, the left half red, the right one blue."""
    from PIL import Image

    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, :2, 0] = pixels[:, 2:, 2] = 255
    path = tmp_path / "i.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("kserve", "shape", "want_shape", "red", "said"),
    [
        ("UINT8", (-1, -1, 3), (2, 4, 3), np.s_[0, 0, 0], "as they are, laid out HWC"),
        ("FP32", (3, -1, -1), (3, 2, 4), np.s_[0, 0, 0], "divided by 255 (0 to 1), laid out CHW"),
        ("FP16", (3, 6, 8), (3, 6, 8), np.s_[0, 0, 0], "resized to 8 × 6"),
        ("FP32", (1, 3, 2, 4), (1, 3, 2, 4), np.s_[0, 0, 0, 0], "4 × 2 RGB"),
        ("FP32", (-1, 2, 4, 3), (1, 2, 4, 3), np.s_[0, 0, 0, 0], "HWC"),
        ("INT32", (-1, -1, 1), (2, 4, 1), None, "4 × 2 L"),
        ("FP32", (2, 4), (2, 4), None, "laid out HW"),
    ],
)
def test_an_image_is_laid_out_as_the_shape_says(
    image: Path, kserve: str, shape: tuple[int, ...], want_shape: tuple[int, ...], red: Any, said: str
) -> None:
    found = given(f"@{image}", kserve, *shape)
    array = found.sample.inputs["x"]
    assert array.shape == want_shape and array.dtype == np.dtype(dtype_from_kserve(kserve).numpy)
    (note,) = found.notes
    assert said in note and note.startswith("x: i.png, 4 × 2") and "another normalisation" in note
    full = 1 if array.dtype.kind == "f" else 255
    if red is None:  # how light red is, after ITU-R 601
        assert array.ravel()[0] == pytest.approx(76 / 255 * full, abs=1e-6)
    else:
        assert array[red] == full


def test_an_image_is_none_where_the_shape_does_not_say_so(image: Path) -> None:
    for kserve, shape in (("FP32", (4, 5, 6)), ("FP32", (7,)), ("INT8", (3, 4, 4))):
        with pytest.raises(UsageError, match="none for an image") as caught:
            given(f"@{image}", kserve, *shape)
        assert "[3, H, W]" in caught.value.valid
    with pytest.raises(UsageError, match="larger than an image"):
        given(f"@{image}", "FP32", 3, 1 << 20, 1 << 20)
    image.write_bytes(b"no image")
    with pytest.raises(UsageError, match="not an image"):
        given(f"@{image}", "FP32", 3, 4, 4)
    assert given(f"@{image}", "BYTES", 1).sample.inputs["x"].tolist() == [b"no image"]


def sound(path: Path, samples: Any, width: int, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, 16_000, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, "<i4").view(np.uint8).reshape(-1, 4)[:, :width].tobytes())
    return path


@pytest.mark.parametrize(
    ("width", "samples", "want"),
    [
        (1, [128, 0, 255], [0, -1, 127 / 128]),
        (2, [0, -(2**15), 2**14], [0, -1, 0.5]),
        (3, [0, -(2**23), 2**22], [0, -1, 0.5]),
        (4, [0, -(2**31), 2**30], [0, -1, 0.5]),
    ],
)
def test_sound_of_every_width_lies_between_minus_one_and_one(
    tmp_path: Path, width: int, samples: list[int], want: list[float]
) -> None:
    path = sound(tmp_path / "a.wav", samples, width)
    found = given(f"@{path}", "FP32", 1, -1, batches=True)
    assert found.sample.inputs["x"].tolist() == [[want]]
    assert f"a.wav, 3 samples at 16000 Hz, {8 * width} bit, between -1 and 1" in found.notes[0]


def test_sound_of_two_channels_is_their_mean_and_its_length_is_the_models(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav", [100, 300, -5, -7], 2, channels=2)
    found = given(f"@{path}", "INT16", 2)
    assert found.sample.inputs["x"].tolist() == [200, -6] and "the mean of 2 channels" in found.notes[0]
    with pytest.raises(UsageError, match="another number of samples") as caught:
        given(f"@{path}", "FP32", 3)
    assert "2 samples" in str(caught.value.seen) and caught.value.valid == ([3],)
    with pytest.raises(UsageError, match="takes INT64"):
        given(f"@{path}", "INT64", -1)
    path.write_bytes(b"RIFF")
    with pytest.raises(UsageError, match="not a WAV file"):
        given(f"@{path}", "FP32", -1)


def test_names_are_told_apart_from_values() -> None:
    assert texts_from_flags(["a=b=c", "x=[1]"]) == {"a": "b=c", "x": "[1]"}
    for flags, why in ((["x"], "not NAME=VALUE"), (["=1"], "not NAME=VALUE"), (["x=1", "x=2"], "twice")):
        with pytest.raises(UsageError, match=why):
            texts_from_flags(flags)
    with pytest.raises(UsageError) as caught:
        given_sample(model("FP32", 1), {"y": "1"})
    assert caught.value.code == "unknown_input"


def test_every_input_that_is_not_optional_is_given() -> None:
    one, two = (TensorSpec(name, dtype_from_kserve("INT64"), (-1,)) for name in ("ids", "mask"))
    both = ModelInterface("m", (one, two), (), 0)
    with pytest.raises(UsageError, match="also takes `mask`") as caught:
        given_sample(both, {"ids": "[1]"})
    assert caught.value.valid == ("mask: INT64 [-1]",) and "mask=VALUE" in str(caught.value.fix)
    optional = replace(both, optional=frozenset({"mask"}))
    assert list(given_sample(optional, {"ids": "[1]"}).sample.inputs) == ["ids"]
