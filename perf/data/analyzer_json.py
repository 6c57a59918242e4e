"""perf_analyzer's input-data file → streams of samples, with expected outputs where it has them.

Format: perf_analyzer's docs/input_data.md, "Real Input Data" and "Output Validation". `data` is a list of
steps, or a list of streams of steps; a step maps each input to its values in row-major order: a list, or
{"content": list, "shape": …}, or base64 of raw little-endian bytes as {"b64": …} alone or under "content".
Shapes and values are of one row, without the batch. `validation_data` has the same form for outputs.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.builder.actions.accuracy.samples import Sample
from tritonsmith.builder.base.errors import UsageError, Where, unknown
from tritonsmith.builder.base.tensors import TensorSpec, fits
from tritonsmith.perf.data.files import array_of_one_row, in_shape, known_shape
from tritonsmith.perf.data.interface import Array, ModelInterface
from tritonsmith.perf.data.options import DataOptions

_FIELDS = ("content", "b64", "shape")


def streams_from_json(model: ModelInterface, options: DataOptions, path: Path) -> list[list[Sample]]:
    """Each stream's samples, with a batch dimension of 1 where the model batches.

    Raises UsageError with the place inside the file (`data[0][2].x`).
    """
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            f"the data cannot be read: {error.strerror}", code="no_data", where=Where(path)
        ) from error
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise UsageError(f"not JSON: {error}", code="bad_data", where=Where(path, line)) from error
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise _wrong(path, "`data` is to be a list of steps or of streams", type(document).__name__)
    unknown = [key for key in document if key not in ("data", "validation_data")]
    if unknown:
        raise _wrong(path, f"unknown key `{unknown[0]}`", unknown[0], ["data", "validation_data"])
    inputs = _tensors(model, options, path, document["data"], "data", model.inputs)
    if "validation_data" not in document:
        return [[Sample(step, {}) for step in stream] for stream in inputs]
    outputs = _tensors(model, options, path, document["validation_data"], "validation_data", model.outputs)
    lengths, expected = [len(s) for s in inputs], [len(s) for s in outputs]
    if lengths != expected:
        raise _wrong(path, "`validation_data` has not the streams and steps of `data`", expected, [lengths])
    return [
        [Sample(step, answer) for step, answer in zip(stream, answers, strict=True)]
        for stream, answers in zip(inputs, outputs, strict=True)
    ]


def _tensors(
    model: ModelInterface,
    options: DataOptions,
    path: Path,
    data: Any,
    name: str,
    specs: tuple[TensorSpec, ...],
) -> list[list[dict[str, Array]]]:
    if not isinstance(data, list) or not data:
        raise _wrong(path, f"`{name}` is to be a list that holds something", data)
    nested = isinstance(data[0], list)
    streams = data if nested else [data]
    known = {spec.name: spec for spec in specs}
    made = []
    for number, stream in enumerate(streams):
        at = f"{name}[{number}]" if nested else name
        if not isinstance(stream, list) or not stream:
            raise _wrong(path, f"`{at}` is to be a list of steps", stream)
        steps = []
        for place, step in enumerate(stream):
            if not isinstance(step, dict):
                raise _wrong(path, f"`{at}[{place}]` is to map tensors to values", step)
            steps.append(
                {
                    tensor: _array(
                        model, options, path, f"{at}[{place}].{tensor}", _spec(path, at, known, tensor), value
                    )
                    for tensor, value in step.items()
                }
            )
        made.append(steps)
    return made


def _spec(path: Path, at: str, known: Mapping[str, TensorSpec], name: str) -> TensorSpec:
    if name not in known:
        code = "unknown_input" if at.startswith("data") else "unknown_output"
        raise UsageError(
            f"`{at}` names a tensor that the model does not have",
            code=code,
            where=Where(path),
            **unknown(name, known),
        )
    return known[name]


def _array(
    model: ModelInterface, options: DataOptions, path: Path, at: str, spec: TensorSpec, value: Any
) -> Array:
    shape, content = known_shape(options, spec), value
    if isinstance(value, dict):
        unknown = [key for key in value if key not in _FIELDS]
        if unknown:
            raise _wrong(path, f"`{at}` has an unknown field", unknown[0], _FIELDS)
        if "shape" in value:
            shape = _stated_shape(path, at, spec, value["shape"])
        content = value.get("content", value)
    if isinstance(content, dict) and isinstance(content.get("b64"), str):
        try:
            data = base64.b64decode(content["b64"], validate=True)
        except ValueError as error:
            raise _wrong(path, f"`{at}` is not base64: {error}", content["b64"][:40]) from error
        array = array_of_one_row(spec, shape, data, Where(path))
    elif isinstance(content, list | int | float | str):
        array = in_shape(spec, shape, _flat(path, at, spec, content), Where(path))
    else:
        raise _wrong(path, f"`{at}` has no values", value, ["a list", '{"content": …}', '{"b64": …}'])
    return array[np.newaxis] if model.max_batch_size else array


def _stated_shape(path: Path, at: str, spec: TensorSpec, shape: Any) -> tuple[int, ...]:
    whole = isinstance(shape, list) and all(type(d) is int and d >= 0 for d in shape)
    if not whole or not fits(tuple(shape), spec.wire_shape):
        raise _wrong(path, f"`{at}` has a shape that the model does not take", shape, [list(spec.wire_shape)])
    return tuple(shape)


def _flat(path: Path, at: str, spec: TensorSpec, content: Any) -> Array:
    return flat_array(spec, content, lambda why, value: _wrong(path, f"`{at}` {why}", value))


def flat_array(spec: TensorSpec, content: Any, wrong: Callable[[str, object], UsageError]) -> Array:
    """JSON values, nested or not, in row-major order → the tensor's values as one row, none of them changed.

    wrong: (what is to be, the value that is not so) → the error that is raised.
    """
    values = flattened(content)
    if spec.dtype.kserve == "BYTES":
        if not all(isinstance(v, str) for v in values):
            raise wrong("is to hold strings", next(v for v in values if not isinstance(v, str)))
        flat = np.empty(len(values), object)
        flat[:] = [v.encode() for v in values]
        return flat
    largest = largest_float(spec)
    dtype = np.dtype(spec.dtype.numpy or "float32")  # BF16 travels as float32 and is rounded on the wire
    whole = dtype.kind in "iu"
    limits = np.iinfo(dtype) if whole else None
    for value in values:
        if not isinstance(value, bool | int | float) or (whole and not _is_whole(value)):
            raise wrong(f"is to hold values of {spec.dtype.kserve}", value)
        if limits is not None and not limits.min <= value <= limits.max:
            raise wrong(f"holds a value beyond {spec.dtype.kserve}", value)
        if _is_beyond(value, dtype, largest):
            raise wrong(f"holds a value beyond {spec.dtype.kserve}", value)
    return np.array([int(v) for v in values] if whole else values, dtype)


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or value.is_integer()


def largest_float(spec: TensorSpec) -> float:
    """The largest finite value; infinity where the datatype is none of floats."""
    if spec.dtype.numpy is None:  # BF16: eight bits of exponent, seven of the rest
        return (2 - 2**-7) * 2.0**127
    dtype = np.dtype(spec.dtype.numpy)
    return float(np.finfo(dtype).max) if dtype.kind == "f" else math.inf


def _is_beyond(value: float, dtype: np.dtype[Any], largest: float) -> bool:
    """Whether it would become another value: 2 true, a finite number infinite. What was written as Infinity may be."""
    if dtype.kind == "f":
        return abs(value) != math.inf and abs(value) > largest
    return dtype.kind == "b" and value not in (0, 1)


def flattened(content: Any) -> list[Any]:
    """Nested lists, or one value → its values in row-major order."""
    if not isinstance(content, list):
        return [content]
    if not any(isinstance(value, list) for value in content):
        return content
    return [value for part in content for value in flattened(part)]


def _wrong(path: Path, message: str, seen: Any, valid: Any = ()) -> UsageError:
    return UsageError(message, code="bad_data", where=Where(path), seen=str(seen)[:100], valid=valid)
