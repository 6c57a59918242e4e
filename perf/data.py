"""A model's inputs and where their values come from → a pool of distinct infer payloads, from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builder.errors import UsageError, Where, nearest
from builder.samples import Sample, load_samples
from builder.tensors import TensorSpec, dtype_from_kserve
from perf.wire.payload import InferPayload, Parameter, array_from_raw, tensor_from_array

Array = npt.NDArray[Any]
POOL_LIMIT_BYTES = 256 << 20
_BYTES_LENGTH = 16


@dataclass(frozen=True, slots=True)
class ModelInterface:
    """What a model takes and gives, as its server says.

    inputs, outputs: shapes with -1 for what varies; the batch dimension is left out when the model batches.
    max_batch_size:  0 when it does not batch.
    optional:        inputs that a request may leave out.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    optional: frozenset[str] = frozenset()
    version: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A number, or a range both ends of which may be drawn."""

    low: int | float
    high: int | float


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where values come from.

    file:       .npz (arrays or a samples file of `tritonsmith build`), or a directory of such files, or of
                one file an input (`NAME.npy`, or raw little-endian bytes in `NAME`); None draws them.
    shapes:     input → its dimensions without the batch; a Span is drawn for each request, and equal Spans
                get equal sizes in one request (a mask is as long as its ids).
    ranges:     input → range of its values; BYTES: range of lengths. By default floats lie in 0..1,
                integers are 0 or 1, BYTES have 16 letters.
    batch_size: rows a request. None: 1 when values are drawn, else as in the file.
    pool:       distinct requests made.
    """

    file: Path | None = None
    shapes: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    ranges: Mapping[str, Span] = field(default_factory=dict)
    batch_size: int | None = None
    pool: int = 32
    seed: int = 0


def interface_from_metadata(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> ModelInterface:
    """The answers to `GET /v2/models/M` and `/v2/models/M/config` → ModelInterface."""
    batches = int(config.get("max_batch_size", 0))

    def spec(tensor: Mapping[str, Any]) -> TensorSpec:
        shape = tuple(int(d) for d in tensor["shape"])
        return TensorSpec(
            tensor["name"], dtype_from_kserve(tensor["datatype"]), shape[1:] if batches else shape
        )

    return ModelInterface(
        name=metadata["name"],
        inputs=tuple(spec(t) for t in metadata["inputs"]),
        outputs=tuple(spec(t) for t in metadata["outputs"]),
        max_batch_size=batches,
        optional=frozenset(i["name"] for i in config.get("input", []) if i.get("optional")),
    )


def payloads_from_options(
    model: ModelInterface,
    options: DataOptions,
    *,
    parameters: Mapping[str, Parameter] | None = None,
    request_id: str = "",
) -> list[InferPayload]:
    """The pool. UsageError when the options or the file do not fit the model."""
    _check_names(model, [*options.shapes, *options.ranges])
    _check_batch(model, options.batch_size)
    samples = _drawn(model, options) if options.file is None else _read(model, options, options.file)
    return [
        payload_from_sample(model, sample, parameters=parameters, request_id=request_id) for sample in samples
    ]


def payload_from_sample(
    model: ModelInterface,
    sample: Sample,
    *,
    parameters: Mapping[str, Parameter] | None = None,
    request_id: str = "",
) -> InferPayload:
    """One request's tensors, whole shapes → its payload, with the sample's outputs as expected ones."""
    known = {spec.name: spec for spec in model.inputs}
    _check_names(model, list(sample.inputs))
    missing = [name for name in known if name not in sample.inputs and name not in model.optional]
    if missing:
        raise UsageError(
            f"the data for `{model.name}` lack an input",
            code="missing_input",
            seen=", ".join(sample.inputs),
            valid=list(known),
        )
    rows = 1
    for name, array in sample.inputs.items():
        _check_shape(model, known[name], array)
        if model.max_batch_size:
            rows = array.shape[0]
    inputs = tuple(
        tensor_from_array(name, array, known[name].dtype.kserve) for name, array in sample.inputs.items()
    )
    return InferPayload(
        model.name,
        inputs,
        version=model.version,
        request_id=request_id,
        parameters=dict(parameters or {}),
        batch_size=rows,
        expected=sample.outputs or None,
    )


# Values drawn from a seed.


def _drawn(model: ModelInterface, options: DataOptions) -> list[Sample]:
    rng = np.random.default_rng(options.seed)
    rows = options.batch_size or 1
    samples: list[Sample] = []
    total = 0
    while len(samples) < max(1, options.pool):
        sizes: dict[Span, int] = {}
        inputs: dict[str, Array] = {}
        for spec in model.inputs:
            if spec.name in model.optional and spec.name not in options.shapes:
                continue
            shape = _drawn_shape(model, spec, options, rng, sizes)
            full = (rows, *shape) if model.max_batch_size else shape
            inputs[spec.name] = _drawn_values(spec, full, options.ranges.get(spec.name), rng)
        samples.append(Sample(inputs, {}))
        total += sum(a.nbytes for a in inputs.values())
        if total > POOL_LIMIT_BYTES:  # two requests are already different ones; memory is not to be the limit
            break
    return samples


def _drawn_shape(
    model: ModelInterface,
    spec: TensorSpec,
    options: DataOptions,
    rng: np.random.Generator,
    sizes: dict[Span, int],
) -> tuple[int, ...]:
    stated = options.shapes.get(spec.name)
    if stated is None:
        if -1 in spec.wire_shape:
            dims = ",".join(str(d) if d >= 0 else "SIZE" for d in spec.wire_shape)
            raise UsageError(
                f"input `{spec.name}` of `{model.name}` has dimensions that vary",
                code="shape_needed",
                seen=list(spec.wire_shape),
                fix=f"--shape {spec.name}:{dims}  (SIZE a number, or LOW..HIGH to draw it)",
            )
        return spec.wire_shape
    shape = tuple(
        sizes.setdefault(span, int(rng.integers(int(span.low), int(span.high), endpoint=True)))
        for span in stated
    )
    if not _fits(shape, spec.wire_shape):
        raise UsageError(
            f"the shape given for input `{spec.name}` is not one that `{model.name}` takes",
            code="bad_shape",
            seen=list(shape),
            valid=[list(spec.wire_shape)],
        )
    return shape


def _drawn_values(
    spec: TensorSpec, shape: tuple[int, ...], span: Span | None, rng: np.random.Generator
) -> Array:
    kserve = spec.dtype.kserve
    if kserve == "BYTES":
        low, high = (int(span.low), int(span.high)) if span else (_BYTES_LENGTH, _BYTES_LENGTH)
        count = int(np.prod(shape))
        letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
        flat = np.empty(count, object)
        flat[:] = [
            letters[rng.integers(0, 26, rng.integers(low, high, endpoint=True))].tobytes()
            for _ in range(count)
        ]
        return flat.reshape(shape)
    if kserve == "BOOL":
        return rng.integers(0, 2, shape).astype(np.bool_)
    low_value, high_value = (span.low, span.high) if span else (0, 1)
    if kserve == "BF16":
        return rng.uniform(low_value, high_value, shape).astype(np.float32)
    dtype: Any = np.dtype(spec.dtype.numpy)
    if dtype.kind == "f":
        return rng.uniform(low_value, high_value, shape).astype(dtype)
    try:
        return np.asarray(rng.integers(int(low_value), int(high_value), shape, dtype=dtype, endpoint=True))
    except ValueError as error:
        raise UsageError(
            f"the range given for input `{spec.name}` does not fit {kserve}",
            code="bad_range",
            seen=f"{low_value}..{high_value}",
        ) from error


# Values read from files.


def _read(model: ModelInterface, options: DataOptions, path: Path) -> list[Sample]:
    if path.is_dir():
        sets = sorted(path.glob("*.npz"))
        samples = [s for file in sets for s in load_samples(file).samples] or [_one_file_each(model, path)]
    else:
        samples = list(load_samples(path).samples)
    if options.batch_size is not None and model.max_batch_size:
        samples = _rebatched(samples, options.batch_size)
    if not samples:
        raise UsageError("the data hold no sample", code="no_sample", where=Where(path))
    return samples


def _one_file_each(model: ModelInterface, directory: Path) -> Sample:
    inputs: dict[str, Array] = {}
    for spec in model.inputs:
        saved, raw = directory / f"{spec.name}.npy", directory / spec.name
        if directory not in saved.parents or ".." in Path(spec.name).parts:
            raise UsageError("an input's name leads out of the directory", code="bad_name", seen=spec.name)
        if saved.is_file():
            try:
                array = np.load(saved, allow_pickle=False)
            except ValueError as error:
                raise UsageError(
                    f"not an array file: {error}", code="bad_data", where=Where(saved)
                ) from error
            inputs[spec.name] = array
        elif raw.is_file():
            inputs[spec.name] = _raw_file(model, spec, raw)
        elif spec.name not in model.optional:
            raise UsageError(
                f"the directory has no values for input `{spec.name}`",
                code="missing_input",
                where=Where(directory),
                valid=["*.npz", f"{spec.name}.npy", spec.name],
            )
    return Sample(inputs, {}, directory.name)


def _raw_file(model: ModelInterface, spec: TensorSpec, path: Path) -> Array:
    """Raw bytes of one row; the first varying dimension takes what the others leave."""
    data = path.read_bytes()
    flat = array_from_raw(spec.dtype.kserve, [-1], data)
    shape = spec.wire_shape
    try:
        array = flat.reshape(shape)
    except ValueError as error:
        raise UsageError(
            f"{flat.size} values do not fill input `{spec.name}`",
            code="bad_data",
            where=Where(path),
            valid=[list(shape)],
        ) from error
    return array[np.newaxis] if model.max_batch_size else array


def _rebatched(samples: Sequence[Sample], rows: int) -> list[Sample]:
    """The samples' rows, in requests of so many rows; outputs go with their rows where they have them."""
    groups: dict[tuple[Any, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sorted((n, a.shape[1:]) for n, a in sample.inputs.items())), []).append(
            sample
        )
    rebatched = []
    for group in groups.values():
        inputs = _stacked([s.inputs for s in group])
        have = next(iter(inputs.values())).shape[0]
        with_outputs = all(
            s.outputs and all(a.ndim and a.shape[0] == _rows(s) for a in s.outputs.values()) for s in group
        )
        outputs = _stacked([s.outputs for s in group]) if with_outputs else {}
        for start in range(0, max(have - have % rows, 1), rows):
            take = np.arange(start, start + rows) % have
            rebatched.append(
                Sample({n: a[take] for n, a in inputs.items()}, {n: a[take] for n, a in outputs.items()})
            )
    return rebatched


def _rows(sample: Sample) -> int:
    return int(next(iter(sample.inputs.values())).shape[0])


def _stacked(tensors: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([t[name] for t in tensors]) for name in tensors[0]}


# Checks.


def _check_names(model: ModelInterface, names: Sequence[str]) -> None:
    known = [spec.name for spec in model.inputs]
    for name in names:
        if name not in known:
            close = nearest(name, known)
            raise UsageError(
                f"`{model.name}` has no input `{name}`",
                code="unknown_input",
                seen=name,
                valid=known,
                fix=f"did you mean `{close}`?" if close else None,
            )


def _check_batch(model: ModelInterface, batch_size: int | None) -> None:
    if batch_size is not None and not 1 <= batch_size <= max(1, model.max_batch_size):
        raise UsageError(
            f"`{model.name}` does not take this batch size",
            code="bad_batch_size",
            seen=batch_size,
            valid=[f"1..{max(1, model.max_batch_size)}"],
        )


def _check_shape(model: ModelInterface, spec: TensorSpec, array: Array) -> None:
    want = (-1, *spec.wire_shape) if model.max_batch_size else spec.wire_shape
    if not _fits(array.shape, want):
        raise UsageError(
            f"the data for input `{spec.name}` have a shape that `{model.name}` does not take",
            code="bad_shape",
            seen=list(array.shape),
            valid=[list(want)],
        )
    if model.max_batch_size and array.shape[0] > model.max_batch_size:
        raise UsageError(
            f"the data for input `{spec.name}` have more rows than max_batch_size",
            code="bad_batch_size",
            seen=array.shape[0],
            valid=[f"1..{model.max_batch_size}"],
            fix=f"--batch-size {model.max_batch_size}",
        )


def _fits(shape: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return len(shape) == len(want) and all(w in (-1, s) for s, w in zip(shape, want, strict=True))
