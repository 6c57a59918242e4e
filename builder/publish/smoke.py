"""(a build's samples with the source's answers, the config that is served) → a few small requests and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.laid_out import ServedAccuracy
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, load_samples, save_samples
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.base.tensors import DTYPES, dtype_from_config, fits
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

_SAMPLES = 3
_LIMIT_BYTES = 8 << 20


def smoke_samples(path: Path, config: Any) -> tuple[SampleSet | None, str]:
    """(requests with the source's answers as the served model takes and gives them, why there are none).

    path:   the artifact's .npz. config: the ModelConfig that is served.
    A batch becomes its first row; at most 3 requests and 8 MiB in all.
    """
    return _fitted(load_samples(path), config)


def stated_samples(model: ModelSpec, spec: RepositorySpec, config: Any) -> SampleSet:
    """The requests and answers of the file that the spec names as `smoke`, as smoke_samples gives them.

    SpecError `smoke_file` when it does not go with the config; BuildError when it cannot be read.
    """
    assert model.smoke is not None

    def refused(label: str, problem: str, seen: str | None = None, valid: Sequence[str] = ()) -> SpecError:
        where = spec.where(model.name, "smoke")
        return SpecError(
            f"{model.name}: {label}: {problem}", code="smoke_file", where=where, seen=seen, valid=valid
        )

    read = load_samples(source_path(model.smoke, spec.root))
    parted: list[Sample] = []
    for sample in read.samples:
        arrays = {**sample.inputs, **sample.outputs}
        if fault := _fault(arrays, config):
            raise refused(sample.label, *fault)
        asked, answered = (
            {t.name: arrays[t.name] for t in tensors if t.name in arrays}
            for tensors in (config.input, config.output)
        )
        parted.append(Sample(asked, answered, sample.label))
    fitted, why = _fitted(SampleSet(tuple(parted), read.origin), config)
    if fitted is None:
        raise refused(model.smoke, why)
    return fitted


def _fault(arrays: Mapping[str, Array], config: Any) -> tuple[str, str | None, Sequence[str]] | None:
    """What keeps the arrays from being a request and its answer: (problem, value seen, valid ones)."""
    outputs = [t.name for t in config.output]
    tensors = {t.name: t for t in (*config.input, *config.output)}
    unknown = sorted(arrays.keys() - tensors.keys())
    if unknown:
        return "the model has no such input or output", unknown[0], list(tensors)
    missing = [t.name for t in config.input if t.name not in arrays and not t.optional]
    if missing:
        return f"no array for the input {missing[0]!r}", None, ()
    batch = (-1,) if config.max_batch_size > 0 else ()
    for name, array in arrays.items():
        dims = tuple(tensors[name].dims)
        if not fits(array.shape, (*batch, *dims)):
            valid = [*(["batch"] if batch else []), *map(str, dims)]
            return (
                f"{name!r} does not fit config.pbtxt",
                f"shape {list(array.shape)}",
                [f"[{', '.join(valid)}]"],
            )
    if arrays.keys().isdisjoint(outputs):
        return "no answer to compare", None, outputs
    return None


def _fitted(samples: SampleSet, config: Any) -> tuple[SampleSet | None, str]:
    if config.HasField("sequence_batching") or config.model_transaction_policy.decoupled:
        return None, "a model with state or with several responses has no single answer"
    kept: list[Sample] = []
    size = 0
    for sample in samples.samples:
        row = _first_row(sample) if config.max_batch_size > 0 else sample
        try:
            fitted = Sample(
                _as_served(row.inputs, config.input, config.max_batch_size),
                _as_served(row.outputs, config.output, config.max_batch_size),
                sample.label,
            )
        except ValueError as error:
            return None, str(error)
        size += sum(array.nbytes for array in (*fitted.inputs.values(), *fitted.outputs.values()))
        if size > _LIMIT_BYTES or len(kept) == _SAMPLES:
            break
        if fitted.outputs:
            kept.append(fitted)
    if not kept:
        return None, "its requests are larger than 8 MiB" if samples.samples else "the build has no samples"
    return SampleSet(tuple(kept), samples.origin), ""


def smoke_bytes(samples: SampleSet, scratch: Path) -> bytes:
    """The samples as the .npz that `builder.actions.accuracy.samples.load_samples` reads."""
    path = scratch / "smoke.npz"
    save_samples(samples, path)
    return path.read_bytes()


def smoke_bounds(model: ModelSpec, variant: str | None, samples: SampleSet) -> dict[str, dict[str, Any]]:
    """Output → the bounds that live answers are held to: those stated for the served variant, else its precision's."""
    accuracy = model.accuracy if variant is None else model.variants[variant].accuracy
    precision = "fp32" if variant is None else model.variants[variant].precision
    served = ServedAccuracy(precision, accuracy.stated_bounds())
    return {
        name: asdict(served.bounds_of(array.dtype.name)) for name, array in samples.samples[0].outputs.items()
    }


def _first_row(sample: Sample) -> Sample:
    tensors = [*sample.inputs.values(), *sample.outputs.values()]
    count = tensors[0].shape[0] if tensors and tensors[0].ndim else 0
    if count < 2 or any(t.ndim == 0 or t.shape[0] != count for t in tensors):
        return sample
    return Sample(
        {n: t[:1] for n, t in sample.inputs.items()},
        {n: t[:1] for n, t in sample.outputs.items()},
        sample.label,
    )


def _as_served(arrays: Mapping[str, Array], tensors: Any, max_batch_size: int) -> dict[str, Array]:
    """The arrays of the tensors that the config declares, in its types and shapes; ValueError when one has none."""
    names = {d.config for d in DTYPES if d.numpy}
    found: dict[str, Array] = {}
    for tensor in tensors:
        data_type = (
            tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
        )
        array = arrays.get(tensor.name)
        if array is None or data_type not in names:
            if data_type not in names:
                raise ValueError(f"NumPy has no {data_type.removeprefix('TYPE_')}")
            continue
        wanted = dtype_from_config(data_type).numpy
        if array.dtype.name != wanted:
            array = array.astype(wanted)
        if tensor.HasField("reshape") and all(d >= 0 for d in tensor.dims):
            batch = array.shape[:1] if max_batch_size > 0 else ()
            array = array.reshape((*batch, *tensor.dims))
        found[tensor.name] = array
    return found
