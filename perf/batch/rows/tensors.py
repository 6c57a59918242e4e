"""JSON values → an input's array, none of them changed; an answer's array → JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.tensors import TensorSpec, fits
from tritonsmith.perf.batch.rows.lines import BadLineError, json_from_text
from tritonsmith.perf.data.analyzer_json import flat_array, flattened, largest_float
from tritonsmith.perf.data.given import shape_of
from tritonsmith.perf.data.interface import Array

_WORDS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_MEANT = {word: float(word) for word in _WORDS.values()}


def array_of(spec: TensorSpec, value: Any, place: str) -> Array:
    """The value, nested lists or one, as an array of its own shape; BadLineError for what the datatype cannot hold."""
    if isinstance(value, np.ndarray) and spec.dtype.kserve == "BYTES":
        value = value.tolist()
    found = _fast(spec, value, place)
    if found is not None:
        return found
    try:
        if _is_float(spec):
            value = _with_words(value)
        shape = shape_of(value)
        if spec.dtype.kserve == "BYTES":
            return _texts(value, place).reshape(shape)
        flat = flat_array(spec, value, lambda why, seen: UsageError(why, code="bad_line", seen=seen))
    except UsageError as error:
        raise BadLineError(f"{error.message}, not {_shown(error.seen)}", place) from None
    except (ValueError, RecursionError) as error:
        raise BadLineError(str(error), place) from None
    return flat.reshape(shape)


def _texts(value: Any, place: str) -> Array:
    flat = flattened(value)
    array = np.empty(len(flat), object)
    for i, one in enumerate(flat):
        if not isinstance(one, str | bytes):
            raise BadLineError(f"is to hold strings, not {_shown(one)}", place)
        array[i] = one if isinstance(one, bytes) else encoded(one, place)
    return array


def _is_float(spec: TensorSpec) -> bool:
    return np.dtype(spec.dtype.numpy or "float32").kind == "f"


def _with_words(value: Any) -> Any:
    """NaN and infinities as answers are written with them, too, so that they can be asked again."""
    if isinstance(value, list):
        return [_with_words(part) for part in value]
    return _MEANT.get(value, value) if isinstance(value, str) else value


def _fast(spec: TensorSpec, value: Any, place: str) -> Array | None:
    """What NumPy takes without a doubt; flat_array looks at each value of the rest."""
    if spec.dtype.kserve == "BYTES":
        if not isinstance(value, str | bytes):
            return None
        one = np.empty((), object)
        one[()] = value if isinstance(value, bytes) else encoded(value, place)
        return one
    dtype = np.dtype(spec.dtype.numpy or "float32")
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return None
    kind = array.dtype.kind
    if not array.size or (dtype.kind == "b" and kind == "b"):
        return array.astype(dtype) if kind in "bif" else None
    if dtype.kind in "iu" and kind in "iu":
        limits = np.iinfo(dtype)
        return (
            array.astype(dtype) if limits.min <= int(array.min()) and int(array.max()) <= limits.max else None
        )
    if dtype.kind == "f" and kind in "iuf":
        size = np.abs(array)
        largest = np.float64(largest_float(spec))
        is_held = bool(size.max() <= largest) or not bool(((size > largest) & np.isfinite(array)).any())
        return array.astype(dtype) if is_held else None
    return None


def encoded(text: str, place: str) -> bytes:
    """A text as the bytes that it stands for: those that are no UTF-8 are lone surrogates, as answers are written."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadLineError(f"holds half a character, {text[error.start]!r}", place) from None


def placed(spec: TensorSpec, array: Array, place: str) -> Array:
    """The array in a shape that the model takes: one value fills a tensor that has room for one."""
    want = spec.wire_shape
    if array.ndim == 0 and all(size in (1, -1) for size in want):
        return array.reshape((1,) * len(want))
    if array.ndim == 1 and len(want) == 0:
        return array
    if not fits(array.shape, want):
        raise BadLineError(
            f"has the shape {list(array.shape)}, and input `{spec.name}` takes {list(want)}", place
        )
    return array


def cell_value(spec: TensorSpec, value: Any, place: str) -> Any:
    """A table's cell: a text is itself where the model takes texts, else the JSON that it holds."""
    if spec.dtype.kserve == "BYTES" or not isinstance(value, str):
        return value
    word = _WORDS.get(value.strip())  # as NumPy and pandas write it
    if word is not None and _is_float(spec):
        return _MEANT[word]
    try:
        return json_from_text(value)
    except (ValueError, RecursionError):
        raise BadLineError(f"is to hold values of {spec.dtype.kserve}, not {_shown(value)}", place) from None


def json_of_array(array: Array, datatype: str) -> str:
    """As nested lists; BF16 comes as bits. Floats have as many digits as tell each from all others; NaN is a text."""
    if datatype == "BF16":
        array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if array.ndim == 0:
        return json_of_array(array.reshape(1), "")[1:-1]
    if array.dtype != object and (array.dtype.kind != "f" or np.isfinite(array).all()):
        return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    if array.ndim > 1:
        return f"[{','.join(json_of_array(part, '') for part in array)}]"
    values = array.tolist()
    if array.dtype == object:
        values = [v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else v for v in values]
    else:  # JSON has no words for them
        values = [value if math.isfinite(value) else _WORDS[str(value)] for value in values]
    return json.dumps(values, separators=(",", ":"))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
