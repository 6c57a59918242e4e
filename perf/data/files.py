"""An .npz, a directory of them or of one file a tensor → samples; samples → requests of so many rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.builder.actions.accuracy.samples import Sample, load_samples
from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.tensors import TensorSpec
from tritonsmith.perf.data.distribution import Span
from tritonsmith.perf.data.interface import Array, ModelInterface
from tritonsmith.perf.data.options import DataOptions
from tritonsmith.perf.wire.payload import array_from_raw


def read_samples(model: ModelInterface, options: DataOptions, path: Path) -> list[Sample]:
    """An .npz or a directory → samples as they lie there; UsageError or BuildError when it cannot be read."""
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        return [_one_file_each(model, options, path)]
    return [
        _with_outputs(model, sample, f"{file.name}[{number}]")
        for file in files
        for number, sample in enumerate(load_samples(file).samples)
    ]


def _with_outputs(model: ModelInterface, sample: Sample, label: str) -> Sample:
    """An .npz made by hand holds arrays of one kind: those named like outputs are what is expected."""
    known = {spec.name for spec in model.outputs} - {spec.name for spec in model.inputs}
    outputs = {name: array for name, array in sample.inputs.items() if name in known}
    inputs = {name: array for name, array in sample.inputs.items() if name not in known}
    return Sample(inputs, sample.outputs or outputs, label)


def _one_file_each(model: ModelInterface, options: DataOptions, directory: Path) -> Sample:
    inputs: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    for spec in (*model.inputs, *model.outputs):
        is_input = spec in model.inputs
        array = _file_of(model, options, spec, directory)
        if array is not None:
            (inputs if is_input else outputs)[spec.name] = array
        elif is_input and spec.name not in model.optional:
            raise UsageError(
                f"the directory has no values for input `{spec.name}`",
                code="missing_input",
                where=Where(directory),
                valid=["*.npz", f"{spec.name}.npy", spec.name],
            )
    return Sample(inputs, outputs, directory.name)


def _file_of(model: ModelInterface, options: DataOptions, spec: TensorSpec, directory: Path) -> Array | None:
    saved, raw = directory / f"{spec.name}.npy", directory / spec.name
    if directory not in saved.parents or ".." in Path(spec.name).parts:
        raise UsageError("a tensor's name leads out of the directory", code="bad_name", seen=spec.name)
    if saved.is_file():
        try:
            return np.asarray(np.load(saved, allow_pickle=False))
        except ValueError as error:
            raise UsageError(f"not an array file: {error}", code="bad_data", where=Where(saved)) from error
    if not raw.is_file():
        return None
    shape = known_shape(options, spec)
    array = array_of_one_row(spec, shape, raw.read_bytes(), Where(raw))
    return array[np.newaxis] if model.max_batch_size else array


def known_shape(options: DataOptions, spec: TensorSpec) -> tuple[int, ...]:
    """The shape without the batch: --shape's where it is a plain one, else the model's own."""
    stated = options.shapes.get(spec.name, ())
    sizes = [int(s.low) for s in stated if isinstance(s, Span) and s.low == s.high]
    return tuple(sizes) if sizes and len(sizes) == len(stated) else spec.wire_shape


def array_of_one_row(spec: TensorSpec, shape: tuple[int, ...], data: bytes, where: Where) -> Array:
    """Raw little-endian bytes of one row → its array; one varying dimension takes what the others leave."""
    try:
        flat = array_from_raw(spec.dtype.kserve, [-1], data)
    except ValueError as error:
        raise UsageError(
            f"{len(data)} bytes are not values of {spec.dtype.kserve} for `{spec.name}`: {error}",
            code="bad_data",
            where=where,
        ) from error
    return in_shape(spec, shape, flat, where)


def in_shape(spec: TensorSpec, shape: tuple[int, ...], flat: Array, where: Where) -> Array:
    """The values in this shape; UsageError when they do not fill it."""
    try:
        return flat.reshape(shape)
    except ValueError as error:
        raise UsageError(
            f"{flat.size} values do not fill `{spec.name}`",
            code="bad_data",
            where=where,
            valid=[list(shape)],
            fix=f"give its sizes: --shape {spec.name}:…" if shape.count(-1) > 1 else None,
        ) from error


def rebatched(samples: Sequence[Sample], rows: int) -> list[Sample]:
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
