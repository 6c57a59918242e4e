"""A calibration reference (.npz, directory, module:callable) → checked samples with a count and a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.samples import array_of, load_samples, misfit, other_names
from tritonsmith.builder.actions.export.sources.callables import call_reference
from tritonsmith.builder.base.errors import BuildError, ExportError, Where
from tritonsmith.builder.base.files.json_forms import JsonForm

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array
    from tritonsmith.builder.base.tensors import TensorSpec

MIN_ROWS = 8
"""Fewer rows than this say nothing about the ranges of a network's activations."""


@dataclass(frozen=True, slots=True)
class CalibrationSpec(JsonForm):
    """Where the inputs come from that a quantized variant takes its ranges from.

    samples:     "module:callable" (→ list of {input name: ndarray}), an .npz as builder.actions.accuracy.samples.load_samples
                 takes it, or a directory of .npz files, read in order of their names.
    search_path: the spec's directory; relative paths start there, and modules are found there.
    max_rows:    takes no more rows than this, from the start; None takes all.
    """

    samples: str
    search_path: str
    max_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Loaded and checked samples.

    samples:      input name → array, batch dimension included.
    rows:         rows in all; a sample of a model without batch dimension is one row.
    digest:       sha256 of names, types, shapes and values, in order: part of the identity of what is made from it.
    dependencies: files they were read from, as far as we know.
    """

    samples: tuple[Mapping[str, Array], ...]
    origin: str
    rows: int
    digest: str
    dependencies: tuple[str, ...]


def load_calibration(
    spec: CalibrationSpec, inputs: Sequence[TensorSpec], held_out: Iterable[Mapping[str, Array]] = ()
) -> Calibration:
    """Loads the samples and refuses those that would give a wrong range.

    BuildError: calibration_missing, calibration_unreadable (and load_samples' and call_reference's codes),
    calibration_mismatch (names, dtypes or shapes are not the model's), calibration_too_few (below MIN_ROWS),
    calibration_constant (an input that never varies), calibration_not_finite, calibration_held_out (rows that
    also judge the result).
    """
    samples, dependencies = _read(spec)
    wanted = {tensor.name: tensor for tensor in inputs}
    for index, sample in enumerate(samples):
        _check_sample(sample, wanted, f"calibration sample {index} of {spec.samples}")
    batched = _batched(inputs)
    samples = [{name: sample[name] for name in wanted} for sample in samples]
    if spec.max_rows is not None:
        samples = _first_rows(samples, spec.max_rows, batched)
    rows = sum(_rows(sample, batched) for sample in samples)
    if rows < MIN_ROWS:
        raise BuildError(
            f"{rows} calibration rows are too few to know the ranges of activations",
            code="calibration_too_few",
            seen=f"{rows} rows in {spec.samples}",
            valid=[f"at least {MIN_ROWS}; 100 to 500 varied ones are usual"],
            fix="give more inputs from the model's real domain",
        )
    _refuse_constant(samples, spec, batched)
    _refuse_held_out(samples, held_out, spec, batched)
    return Calibration(tuple(samples), spec.samples, rows, _digest(samples), dependencies)


def _read(spec: CalibrationSpec) -> tuple[list[dict[str, Array]], tuple[str, ...]]:
    reference = spec.samples
    path = Path(spec.search_path) / Path(reference).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise BuildError(
                "the calibration directory holds no .npz files",
                code="calibration_missing",
                where=Where(path),
                seen=[p.name for p in sorted(path.iterdir())[:6]],
                fix="write each sample with numpy.savez(file, **{input name: array})",
            )
        return [dict(s.inputs) for file in files for s in load_samples(file).samples], tuple(map(str, files))
    if reference.endswith(".npz"):
        return [dict(s.inputs) for s in load_samples(path).samples], (str(path),)
    if ":" not in reference:
        raise BuildError(
            "the calibration samples do not exist",
            code="calibration_missing",
            where=Where(path),
            valid=["an .npz file", "a directory of .npz files", "module:callable"],
        )
    returned, file = call_reference(reference, "calibration")
    return _from_callable(returned, reference), (str(file),) if file else ()


def _from_callable(returned: Any, reference: str) -> list[dict[str, Array]]:
    samples = list(returned) if isinstance(returned, Iterable) and not isinstance(returned, Mapping) else None
    if not samples or not all(isinstance(sample, Mapping) for sample in samples):
        raise ExportError(
            f"calibration {reference} returned something else than dicts of arrays",
            code="calibration_unreadable",
            seen=type(returned).__name__,
            valid=["a list of dicts, each input name → NumPy array with the batch as its first dimension"],
        )
    return [{str(name): array_of(value) for name, value in sample.items()} for sample in samples]


def _check_sample(sample: Mapping[str, Array], wanted: Mapping[str, TensorSpec], what: str) -> None:
    import numpy as np

    if odd := other_names(sample, wanted):
        raise BuildError(f"{what} {odd[0]}", code="calibration_mismatch", **odd[1])
    for name, tensor in wanted.items():
        array = sample[name]
        if wrong := misfit(array, tensor):
            told = f"{name} in {what} is not what the model takes"
            raise BuildError(told, code="calibration_mismatch", **wrong)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BuildError(
                f"{name} in {what} holds NaN or Inf",
                code="calibration_not_finite",
                seen=f"{int((~np.isfinite(array)).sum())} of {array.size} values",
            )


def _batched(inputs: Sequence[TensorSpec]) -> bool:
    """True when the first dimension of every input is dynamic, so that it counts rows."""
    return bool(inputs) and all(
        tensor.shape and not (isinstance(tensor.shape[0], int) and tensor.shape[0] >= 0) for tensor in inputs
    )


def _rows(sample: Mapping[str, Array], batched: bool) -> int:
    return min((int(array.shape[0]) for array in sample.values()), default=0) if batched else 1


def _first_rows(samples: Sequence[dict[str, Array]], limit: int, batched: bool) -> list[dict[str, Array]]:
    taken: list[dict[str, Array]] = []
    for sample in samples:
        if limit <= 0:
            break
        rows = min(limit, _rows(sample, batched))
        taken.append({name: array[:rows] for name, array in sample.items()} if batched else sample)
        limit -= rows
    return taken


def _refuse_constant(samples: Sequence[Mapping[str, Array]], spec: CalibrationSpec, batched: bool) -> None:
    """No input varies at all, or every row is the same: ranges of one point."""
    names = list(samples[0])
    constant = [name for name in names if len({_extremes(sample[name]) for sample in samples}) == 1]
    constant = [name for name in constant if len(set(_extremes(samples[0][name]))) == 1]
    # A mask of ones is fine beside inputs that vary.
    if len(constant) == len(names) or len({d for s in samples for d in _row_digests(s, batched)}) == 1:
        raise BuildError(
            "the calibration data is constant; ranges taken from it would be one point wide",
            code="calibration_constant",
            seen=f"{', '.join(constant) or 'every row'} of {spec.samples} never varies",
            fix="give varied inputs from the model's real domain",
        )


def _extremes(array: Array) -> tuple[object, object]:
    if array.dtype == object:
        flat = sorted(map(str, array.reshape(-1).tolist()))
        return flat[0], flat[-1]
    return array.min().item(), array.max().item()


def _refuse_held_out(
    samples: Sequence[Mapping[str, Array]],
    held_out: Iterable[Mapping[str, Array]],
    spec: CalibrationSpec,
    batched: bool,
) -> None:
    known = {digest for sample in held_out for digest in _row_digests(sample, batched)}
    shared = sum(digest in known for sample in samples for digest in _row_digests(sample, batched))
    if shared:
        raise BuildError(
            "the calibration data holds samples that the accuracy is judged on, so it would look more accurate than it is",
            code="calibration_held_out",
            seen=f"{shared} rows of {spec.samples} are among accuracy.samples",
            fix="calibrate on other inputs than accuracy.samples",
        )


def _row_digests(sample: Mapping[str, Array], batched: bool) -> list[bytes]:
    """One digest a row over all inputs; trailing zero bytes do not count, since they are mostly padding."""
    found = []
    for row in range(_rows(sample, batched)):
        digest = hashlib.sha256()
        for name in sorted(sample):
            values = sample[name][row] if batched else sample[name]
            digest.update(name.encode() + b"\0" + _bytes(values).rstrip(b"\0") + b"\0")
        found.append(digest.digest())
    return found


def _bytes(array: Array) -> bytes:
    return repr(array.tolist()).encode() if array.dtype == object else array.tobytes()


def _digest(samples: Sequence[Mapping[str, Array]]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        for name in sorted(sample):
            array = sample[name]
            digest.update(f"{name}\0{array.dtype.name}\0{list(array.shape)}\0".encode())
            digest.update(_bytes(array))
        digest.update(b"\1")
    return digest.hexdigest()
