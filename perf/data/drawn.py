"""(a model's inputs, shapes and ranges, a seed) → samples of drawn values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tritonsmith.builder.actions.accuracy.samples import Sample
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.tensors import TensorSpec, fits
from tritonsmith.perf.data.distribution import Distribution, Span
from tritonsmith.perf.data.interface import Array, ModelInterface
from tritonsmith.perf.data.options import DataOptions

POOL_LIMIT_BYTES = 256 << 20
_BYTES_LENGTH = 16


def drawn_samples(model: ModelInterface, options: DataOptions) -> list[Sample]:
    """`options.pool` samples, fewer when they are large; UsageError when a shape or range does not fit."""
    rng = np.random.default_rng(options.seed)
    rows = options.batch_size or 1
    samples: list[Sample] = []
    total = 0
    _check_size(model, options)
    while len(samples) < max(1, options.pool):
        sizes: dict[Distribution, int] = {}
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


def _check_size(model: ModelInterface, options: DataOptions) -> None:
    """UsageError when one row, as the server alone describes it, would take this machine's memory."""
    row_bytes = 0
    for spec in model.inputs:
        if spec.name not in options.shapes and spec.name not in model.optional and -1 not in spec.wire_shape:
            row_bytes += 8 * math.prod(spec.wire_shape)  # numpy draws 64-bit numbers
            if row_bytes > POOL_LIMIT_BYTES:
                raise UsageError(
                    f"input `{spec.name}` of `{model.name}` is too large to be drawn without being asked for",
                    code="large_input",
                    seen=list(spec.wire_shape),
                    fix=f"--shape {spec.name}:{','.join(map(str, spec.wire_shape))}, or --data",
                )


def _drawn_shape(
    model: ModelInterface,
    spec: TensorSpec,
    options: DataOptions,
    rng: np.random.Generator,
    sizes: dict[Distribution, int],
) -> tuple[int, ...]:
    stated = options.shapes.get(spec.name)
    if stated is None:
        if -1 in spec.wire_shape:
            raise _shape_needed(model, spec, options)
        return spec.wire_shape
    shape = tuple(sizes[size] if size in sizes else sizes.setdefault(size, size.draw(rng)) for size in stated)
    if not fits(shape, spec.wire_shape):
        raise UsageError(
            f"the shape given for input `{spec.name}` is not one that `{model.name}` takes",
            code="bad_shape",
            seen=list(shape),
            valid=[list(spec.wire_shape)],
        )
    return shape


def _shape_needed(model: ModelInterface, spec: TensorSpec, options: DataOptions) -> UsageError:
    """Names every input whose shape is to be given, so that one more attempt is enough."""
    lacking = [
        other
        for other in model.inputs
        if -1 in other.wire_shape and other.name not in options.shapes and other.name not in model.optional
    ]
    flags = [
        f"--shape {other.name}:{','.join(str(d) if d >= 0 else 'SIZE' for d in other.wire_shape)}"
        for other in lacking or [spec]
    ]
    return UsageError(
        f"input `{spec.name}` of `{model.name}` has dimensions that vary",
        code="shape_needed",
        seen=list(spec.wire_shape),
        fix=f"{' '.join(flags)}  (SIZE a number, LOW..HIGH or MEAN~DEVIATION; or --data)",
    )


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
