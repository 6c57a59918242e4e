"""NAME=VALUE texts and a model's inputs → one sample of arrays as the model takes them, and what was done to each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.builder.actions.accuracy.samples import Sample
from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.tensors import TensorSpec, fits
from tritonsmith.perf.data.analyzer_json import flat_array
from tritonsmith.perf.data.interface import Array, ModelInterface, check_names
from tritonsmith.perf.data.media import IMAGES, array_of_audio, array_of_image

FORMS = ("[[1, 2, 3]]", '"text"', "3.5", "@FILE.npy", "@IMAGE.png", "@AUDIO.wav")


@dataclass(frozen=True, slots=True)
class Given:
    """A request's inputs; notes: a sentence for each value that was changed on its way, and how."""

    sample: Sample
    notes: tuple[str, ...] = ()


def texts_from_flags(flags: Sequence[str]) -> dict[str, str]:
    """`x=[1, 2]` … → {x: its text}; UsageError for one without a name, or a name that comes twice."""
    texts: dict[str, str] = {}
    for flag in flags:
        name, equals, text = flag.partition("=")
        if not equals or not name:
            raise UsageError("not NAME=VALUE", code="bad_input", seen=flag, valid=[f"x={f}" for f in FORMS])
        if name in texts:
            raise UsageError(f"input `{name}` is given twice", code="bad_input", seen=flag)
        texts[name] = text
    return texts


def given_sample(model: ModelInterface, texts: Mapping[str, str]) -> Given:
    """Values, one an input, a file's behind @ → arrays with the batch dimension where the model batches.

    UsageError for an input that the model lacks and for a value that is not of the input's datatype and shape.
    """
    check_names(model, list(texts))
    known = {spec.name: spec for spec in model.inputs}
    lacking = [name for name in known if name not in texts and name not in model.optional]
    if lacking:
        raise UsageError(
            f"`{model.name}` also takes {', '.join(f'`{name}`' for name in lacking)}",
            code="missing_input",
            seen=", ".join(texts),
            valid=[f"{name}: {_described(known[name])}" for name in lacking],
            fix=f"{' '.join(f'{name}=VALUE' for name in lacking)} as well; or no value, and all are drawn",
        )
    notes, arrays = [], {}
    for name, text in texts.items():
        array, done = _value(known[name], text)
        if model.max_batch_size and fits(array.shape, known[name].wire_shape):
            array = array[np.newaxis]
            done = f"{done}{'; ' if done else ''}a batch of one, {list(array.shape)}"
        if done:
            notes.append(f"{name}: {done}")
        arrays[name] = array
    return Given(Sample(arrays, {}), tuple(notes))


def _value(spec: TensorSpec, text: str) -> tuple[Array, str]:
    """(the array, what was done to it, if anything)"""
    if not text.startswith("@"):
        return _from_json(spec, text), ""
    path = Path(text[1:])
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UsageError(
            f"the value of input `{spec.name}` names a file that is not there",
            code="no_data",
            where=Where(path),
            fix='a text that begins so is written as JSON: "@…"' if spec.dtype.kserve == "BYTES" else None,
        )
    if suffix == ".npy":
        return _from_npy(spec, path), ""
    if spec.dtype.kserve == "BYTES":
        return _filled(spec, _one_bytes(path.read_bytes())), ""
    if suffix in IMAGES:
        return array_of_image(spec, path)
    if suffix == ".wav":
        return array_of_audio(spec, path)
    raise UsageError(
        f"input `{spec.name}` takes {spec.dtype.kserve} values, which are not read from such a file",
        code="bad_data",
        where=Where(path),
        seen=suffix or path.name,
        valid=[".npy", *IMAGES, ".wav"],
    )


def _from_json(spec: TensorSpec, text: str) -> Array:
    def wrong(why: str, seen: object) -> UsageError:
        quoted = f"{spec.name}={json.dumps(text)}" if spec.dtype.kserve == "BYTES" else None
        return UsageError(
            f"the value of input `{spec.name}` {why}",
            code="bad_data",
            seen=seen,
            valid=[_described(spec)],
            fix=f"as a text: '{quoted}'" if quoted else None,
        )

    try:
        value = json.loads(text)
        shape = shape_of(value)
    except (json.JSONDecodeError, RecursionError) as error:
        if spec.dtype.kserve == "BYTES":  # text without the quotes that a shell takes away
            return _filled(spec, _one_bytes(text.encode("utf-8", "surrogateescape")))
        raise UsageError(
            f"the value of input `{spec.name}` is not JSON: {error}", code="bad_data", seen=text, valid=FORMS
        ) from None
    except ValueError as error:
        raise wrong(str(error), text) from None
    flat = flat_array(spec, value, wrong)
    return _filled(spec, flat.reshape(shape))


def shape_of(value: Any) -> tuple[int, ...]:
    """Of nested lists; ValueError when those of one level are of unlike shapes."""
    if not isinstance(value, list):
        return ()
    inner = {shape_of(part) for part in value}
    if len(inner) > 1:
        raise ValueError(f"has parts of unlike shapes: {', '.join(str(list(s)) for s in sorted(inner))}")
    return (len(value), *next(iter(inner), ()))


def _from_npy(spec: TensorSpec, path: Path) -> Array:
    try:
        array = np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"not an array file: {error}", code="bad_data", where=Where(path)) from error
    if spec.dtype.kserve == "BYTES" and array.dtype.kind in "SU":
        texts = array.astype(object)
        return _filled(spec, texts)
    want = spec.dtype.numpy or "float32"
    if array.dtype.name != want:
        raise UsageError(
            f"the array for input `{spec.name}` is not of its datatype, {spec.dtype.kserve}",
            code="input_dtype",
            where=Where(path),
            seen=array.dtype.name,
            valid=["strings" if want == "object" else want],
            fix=None if want == "object" else f"numpy.save({path.name!r}, array.astype({want!r}))",
        )
    return _filled(spec, array)


def _one_bytes(data: bytes) -> Array:
    one = np.empty((), object)
    one[()] = data
    return one


def _filled(spec: TensorSpec, array: Array) -> Array:
    """A single value is the whole of a tensor that has room for one."""
    if array.ndim == 0 and all(size in (1, -1) for size in spec.wire_shape):
        return array.reshape((1,) * len(spec.wire_shape))
    return array


def _described(spec: TensorSpec) -> str:
    return f"{spec.dtype.kserve} {list(spec.wire_shape)}"
