"""(a model's interface, options) → the pool of payloads and the streams that sequences follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tritonsmith.builder.actions.accuracy.samples import Sample
from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.perf.data.analyzer_json import streams_from_json
from tritonsmith.perf.data.drawn import POOL_LIMIT_BYTES, drawn_samples
from tritonsmith.perf.data.files import read_samples, rebatched
from tritonsmith.perf.data.interface import (
    Array,
    ModelInterface,
    check_batch,
    check_names,
    check_rows,
    check_sample,
)
from tritonsmith.perf.data.options import DataOptions
from tritonsmith.perf.wire.payload import InferPayload, Parameter, tensor_from_array

__all__ = ["POOL_LIMIT_BYTES", "Pool", "payload_from_sample", "payloads_from_options", "pool_from_options"]


@dataclass(frozen=True, slots=True)
class Pool:
    """Distinct requests, and which of them follow each other in a sequence.

    streams: places in `payloads`, in order; each sequence plays one stream. Empty when the data name none.
    """

    payloads: tuple[InferPayload, ...]
    streams: tuple[tuple[int, ...], ...] = ()


def pool_from_options(
    model: ModelInterface,
    options: DataOptions,
    *,
    parameters: Mapping[str, Parameter] | None = None,
) -> Pool:
    """The pool. UsageError when the options or the file do not fit the model."""
    known = [spec.name for spec in model.outputs] if options.file is not None else []
    check_names(model, [name for name in (*options.shapes, *options.ranges) if name not in known])
    check_batch(model, options.batch_size)
    streams = _streams(model, options)
    payloads = []
    for number, sample in enumerate(sample for stream in streams for sample in stream):
        with _said_of(options, sample, number):
            payloads.append(payload_from_sample(model, sample, parameters=parameters))
    if options.file is None or options.file.suffix != ".json":
        return Pool(tuple(payloads))
    ends = np.cumsum([0, *(len(stream) for stream in streams)]).tolist()
    return Pool(tuple(payloads), tuple(tuple(range(a, b)) for a, b in pairwise(ends)))


@contextmanager
def _said_of(options: DataOptions, sample: Sample, number: int) -> Iterator[None]:
    """Names the file and the sample in what is wrong with it."""
    try:
        yield
    except UsageError as error:
        if options.file is not None:
            error.where = error.where or Where(options.file)
            error.message = f"sample {sample.label or number}: {error.message}"
        raise


def payloads_from_options(model: ModelInterface, options: DataOptions) -> list[InferPayload]:
    """The pool's requests alone."""
    return list(pool_from_options(model, options).payloads)


def _streams(model: ModelInterface, options: DataOptions) -> list[list[Sample]]:
    path = options.file
    if path is None:
        return [drawn_samples(model, options)]
    is_json = path.suffix == ".json"
    streams = streams_from_json(model, options, path) if is_json else [read_samples(model, options, path)]
    rows = options.batch_size
    for number, sample in enumerate(sample for stream in streams for sample in stream):
        with _said_of(options, sample, number):
            check_sample(model, sample)
    if rows is not None and model.max_batch_size:
        if len(streams) > 1 or model.sequence_ids:  # a stream's steps stay steps: each row is repeated
            streams = [[_repeated(sample, rows) for sample in stream] for stream in streams]
        else:
            streams = [rebatched(stream, rows) for stream in streams]
    if not any(streams):
        raise UsageError("the data hold no sample", code="no_sample", where=Where(path))
    return streams


def _repeated(sample: Sample, rows: int) -> Sample:
    def wide(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.resize(array, (rows, *array.shape[1:])) for name, array in arrays.items()}

    return Sample(wide(sample.inputs), wide(sample.outputs), sample.label)


def payload_from_sample(
    model: ModelInterface,
    sample: Sample,
    *,
    parameters: Mapping[str, Parameter] | None = None,
) -> InferPayload:
    """One request's tensors, whole shapes → its payload, with the sample's outputs as expected ones."""
    known = {spec.name: spec for spec in model.inputs}
    rows = check_sample(model, sample)
    check_rows(model, rows)
    inputs = tuple(
        tensor_from_array(name, array, known[name].dtype.kserve) for name, array in sample.inputs.items()
    )
    return InferPayload(
        model.name,
        inputs,
        version=model.version,
        parameters=dict(parameters or {}),
        batch_size=rows,
        expected=sample.outputs or None,
    )
