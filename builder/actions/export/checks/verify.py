"""(Exported, samples) → the source's answers in samples.npz, and how far the ONNX file's differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tritonsmith.builder.actions.accuracy.accuracy import (
    AccuracyReport,
    Deviation,
    compare,
    report_from_deviations,
)
from tritonsmith.builder.actions.accuracy.samples import (
    MADE_UP,
    MADE_UP_SAMPLES,
    Sample,
    SampleSet,
    array_of,
    batches_from_samples,
    bytes_as_object,
    load_samples,
    misfit,
    other_names,
    save_samples,
    values_like,
)
from tritonsmith.builder.actions.export.checks.largest import refuse_sizes_beyond_the_model
from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.kept_session import keep_session
from tritonsmith.builder.actions.export.onnx_graph import open_session, outputs_of_session, runner_of_session
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.callables import call_reference, one_line, users_place
from tritonsmith.builder.base.dim_relations import relation_from_text, sizes_with_relations
from tritonsmith.builder.base.errors import ExportError
from tritonsmith.builder.base.files.disk import adopt, delete
from tritonsmith.builder.base.tensors import TensorSpec
from tritonsmith.builder.base.text.console import note

if TYPE_CHECKING:
    import numpy as np

    from tritonsmith.builder.actions.accuracy.samples import Array

SAMPLES_FILE = "samples.npz"

LARGEST_SAMPLE_BYTES = 64 * 2**20
"""Inputs of one sample. What a network holds inside is often a hundred times as much, and three runtimes hold it."""

ENOUGH_VALUES = 4096
"""Of a made-up request, so that another one of the same sizes would show nothing more."""

RUNTIMES = (("onnxruntime", True), ("onnxruntime, optimisations off", False))
"""Name and `optimised` of each run; ONNX Runtime's rewriting can hide or cause a difference."""

# Sizes tried, largest first, for a dynamic dimension of an ONNX file that nobody stated: 64 passes the
# strides of most image networks and the position tables of most encoders.
_GUESSED_SIZES = (64, 16, 1)


@dataclass(frozen=True, slots=True)
class Stated:
    """Inputs the spec names; samples None when it names none."""

    samples: tuple[dict[str, Array], ...] | None
    origin: str
    dependencies: tuple[Path, ...]


def stated_samples(request: ExportRequest) -> Stated:
    """Loads request.samples; BuildError and ExportError when it cannot, or is no list of dicts of arrays."""
    reference = request.samples
    if reference is None:
        return Stated(None, f"{MADE_UP}, seed {request.seed}", ())
    if reference.endswith(".npz"):
        path = Path(request.search_path) / Path(reference).expanduser()
        loaded = load_samples(path)
        return Stated(tuple(sample.inputs for sample in loaded.samples), reference, (path,))
    returned, file = call_reference(reference, "samples")
    valid = "a list of dicts, each input name → NumPy array with the batch as its first dimension"
    if (
        not isinstance(returned, (list, tuple))
        or not returned
        or not all(isinstance(s, Mapping) for s in returned)
    ):
        raise ExportError(
            f"samples {reference} returned something else than a list of dicts",
            code="samples_returned",
            seen=f"{type(returned).__name__} of {[type(item).__name__ for item in returned][:4]}"
            if isinstance(returned, (list, tuple))
            else type(returned).__name__,
            valid=[valid],
        )
    samples = tuple(
        {str(name): bytes_as_object(array_of(value)) for name, value in sample.items()} for sample in returned
    )
    return Stated(samples, reference, (file,) if file else ())


Verified = tuple[AccuracyReport, tuple[TensorSpec, ...], str | None]
"""(the report, outputs, samples.npz's name)"""


def verify(request: ExportRequest, exported: Exported, stated: Stated, out_dir: Path) -> Verified:
    """Runs the samples through the source and through ONNX Runtime, with and without its optimisations.

    → (the report, outputs with the sizes that ONNX Runtime infers, samples.npz's name).
    An ONNX source without stated samples whose inputs cannot be guessed gives a report of no samples and
    a note. ExportError: samples_mismatch, reference_failed, reference_not_finite, not_batched, onnxruntime_rejects,
    candidate_failed, tensor_readback, range_beyond_model.
    """
    # A copy without optimisations is the reference itself: running it once more says nothing and takes as long.
    runtimes = RUNTIMES[:1] if exported.is_copy else RUNTIMES
    sessions = [
        open_session(exported.model_path, optimised=on, level=request.graph_level) for _, on in runtimes
    ]
    keep_session(exported.model_path, request.graph_level, sessions[0])
    candidates = [(name, runner_of_session(s)) for (name, _), s in zip(runtimes, sessions, strict=True)]
    # RUNTIMES begins with the optimised one, which is what is served: constant folding lets it infer more.
    exported = replace(exported, outputs=outputs_of_session(exported.outputs, sessions[0]))
    _refuse_sizes_of_0(exported)
    delete(adopt(out_dir) / SAMPLES_FILE)
    answers: Sequence[dict[str, Array] | None] = ()
    if stated.samples is not None:
        inputs = _fitting(stated.samples, request, exported, stated.origin)
    elif exported.rows is not None:
        inputs = _drawn_rows(request, exported.rows)
    elif exported.example is not None:
        inputs = _drawn(request, exported, exported.example, {})
    else:
        guessed = guessed_inputs(request, exported)
        if isinstance(guessed, str):
            return AccuracyReport((), 0, guessed), exported.outputs, None
        inputs, answers = [g[0] for g in guessed], [g[1] for g in guessed]
    samples = tuple(
        _answered(values, exported, request, outputs)
        for values, outputs in zip(inputs, answers or (None,) * len(inputs), strict=True)
    )
    deviations: list[Deviation] = []
    for runtime, run in candidates:
        for sample in samples:
            try:
                outputs = run(sample.inputs)
            except Exception as error:
                raise ExportError(
                    f"ONNX Runtime fails on sample {sample.label}: {one_line(error)}",
                    code="candidate_failed",
                    seen=runtime,
                ) from error
            _read_back(exported.outputs, outputs)
            deviations += compare(
                outputs, sample.outputs, bounds=request.bounds, runtime=runtime, sample=sample.label
            )
    refuse_sizes_beyond_the_model(candidates[-1][1], samples[0].inputs, request, exported)
    save_samples(SampleSet(samples, stated.origin), out_dir / SAMPLES_FILE)
    return report_from_deviations(deviations, len(samples)), exported.outputs, SAMPLES_FILE


def _refuse_sizes_of_0(exported: Exported) -> None:
    for spec in exported.outputs:
        if 0 in spec.shape:
            raise ExportError(
                f"output {spec.name} has a dimension of size 0, which Triton does not accept",
                code="unsupported_tensor",
                seen=list(spec.shape),
                fix="leave the output out when you export the model",
            )


def _read_back(specs: Sequence[TensorSpec], outputs: Mapping[str, Array]) -> None:
    """What ONNX Runtime gave has the names, dtypes and shapes that the graph promises."""
    for spec in specs:
        array = outputs.get(spec.name)
        sizes = () if array is None else array.shape
        fixed = zip(sizes, spec.shape, strict=False)
        if (
            array is None
            or len(sizes) != len(spec.shape)
            or array.dtype.name != spec.dtype.numpy
            or any(isinstance(dim, int) and dim >= 0 and dim != size for size, dim in fixed)
        ):
            raise ExportError(
                f"output {spec.name} comes out differently than the ONNX file says",
                code="tensor_readback",
                seen="missing" if array is None else f"{array.dtype.name} {list(array.shape)}",
                valid=[f"{spec.dtype.numpy} {list(spec.shape)}"],
            )


def _fitting(
    samples: Sequence[Mapping[str, Array]], request: ExportRequest, exported: Exported, origin: str
) -> list[dict[str, Array]]:
    """Stated samples, checked against the model's inputs and cut and joined to the batch sizes asked for."""
    wanted = {spec.name: spec for spec in exported.inputs}
    for index, sample in enumerate(samples):
        if odd := other_names(sample, wanted):
            raise ExportError(f"sample {index} of {origin} {odd[0]}", code="samples_mismatch", **odd[1])
        for name, spec in wanted.items():
            if wrong := misfit(sample[name], spec):
                what = f"{name} in sample {index} of {origin} is not what the model takes"
                raise ExportError(what, code="samples_mismatch", **wrong)
        if request.max_batch_size > 0 and len({array.shape[0] for array in sample.values()}) > 1:
            raise ExportError(
                f"inputs of sample {index} of {origin} have different batch sizes",
                code="samples_mismatch",
                seen={name: array.shape[0] for name, array in sample.items()},
            )
    ordered = [{name: sample[name] for name in wanted} for sample in samples]
    if request.max_batch_size == 0:
        return ordered
    return batches_from_samples(ordered, _affordable(request, ordered[0]), request.max_batch_size)


def _drawn(
    request: ExportRequest, exported: Exported, example: Mapping[str, Array], sizes: Mapping[str, int]
) -> list[dict[str, Array]]:
    """Inputs drawn like the example, one request for each batch size, the other dynamic dimensions varied.

    A dimension with a range takes its opt, min and max in turn, no two of them at the same time; one without takes the
    example's size and half of it; one that follows from others, what follows. `sizes` overrides.
    """
    import numpy as np

    rng = np.random.default_rng(request.seed + 1)
    batches: Sequence[int | None] = (
        _affordable(request, example) if request.max_batch_size > 0 else (None,) * _turns(exported, example)
    )
    return [
        {
            spec.name: values_like(example[spec.name], shape, rng)
            for spec, shape in zip(
                exported.inputs, _shapes(request, exported, example, sizes, turn, batch), strict=True
            )
        }
        for turn, batch in enumerate(batches)
    ]


def _turns(exported: Exported, example: Mapping[str, Array]) -> int:
    """How many requests without a batch: three, where their sizes differ or their values are few.

    A copy is held against itself, and what an optimisation changes, thousands of values show at once.
    """
    varied = any(isinstance(dim, str) for spec in exported.inputs for dim in spec.shape)
    enough = sum(array.size for array in example.values()) >= ENOUGH_VALUES
    return 1 if exported.is_copy and enough and not varied else MADE_UP_SAMPLES


def _shapes(
    request: ExportRequest,
    exported: Exported,
    example: Mapping[str, Array],
    sizes: Mapping[str, int],
    turn: int,
    batch: int | None,
) -> list[list[int]]:
    """One shape an input."""

    relations = {**exported.relations, **request.dim_relations}
    known = dict(sizes)
    named = 0
    for spec in exported.inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and batch is not None and axis == 0:
                known[dim] = batch
            elif isinstance(dim, str) and dim not in known:
                turned = turn + (named if dim not in relations else 0)
                known[dim] = _varied(dim, example[spec.name].shape[axis], turned, request, exported)
                named += dim not in relations
    free = {n for text in relations.values() for n in relation_from_text(text).names} - known.keys()
    known |= {n: request.dynamic_dims[n][(1, 0, 2)[turn % 3]] for n in free if n in request.dynamic_dims}
    known = sizes_with_relations(known, relations, known)
    return [
        [
            batch
            if batch is not None and axis == 0
            else known[dim]
            if isinstance(dim, str)
            else example[spec.name].shape[axis]
            for axis, dim in enumerate(spec.shape)
        ]
        for spec in exported.inputs
    ]


def _drawn_rows(
    request: ExportRequest, rows: Callable[[int, np.random.Generator], dict[str, Array]]
) -> list[dict[str, Array]]:
    """Requests of each batch size, at least sixteen rows together; of a model without batching 1, 3 and 12."""
    import numpy as np

    rng = np.random.default_rng(request.seed + 1)
    sizes = request.sample_batch_sizes if request.max_batch_size > 0 else (1, 3, 12)
    return [rows(size, rng) for size in sizes * -(-16 // sum(sizes))]


def _affordable(request: ExportRequest, example: Mapping[str, Array]) -> tuple[int, ...]:
    """The batch sizes asked for, none so large that its inputs alone take more than LARGEST_SAMPLE_BYTES."""
    row_bytes = sum(array.nbytes // max(1, array.shape[0]) for array in example.values() if array.shape)
    largest = max(3, LARGEST_SAMPLE_BYTES // max(1, row_bytes))
    return tuple(sorted({min(size, largest) for size in request.sample_batch_sizes}))


def _varied(dim: str, size: int, turn: int, request: ExportRequest, exported: Exported) -> int:
    if dim in request.dynamic_dims:
        low, opt, high = request.dynamic_dims[dim]
        return (opt, low, high)[turn % 3]
    lowest, _ = exported.dim_ranges.get(dim, (1, None))
    return size if turn % 2 == 0 else max(lowest, (size + 1) // 2)


def guessed_inputs(
    request: ExportRequest, exported: Exported
) -> list[tuple[dict[str, Array], dict[str, Array]]] | str:
    """(inputs, the source's answers) for a model nobody gave an example of; the reason when it takes none of them."""
    import numpy as np

    reason = ""
    for size in _GUESSED_SIZES:
        example = {spec.name: _blank(spec, size) for spec in exported.inputs}
        names = {dim for spec in exported.inputs for dim in spec.dynamic_names}
        rows = {spec.shape[0] for spec in exported.inputs if spec.shape}
        sizes = {dim: min(2, size) if dim in rows else size for dim in names - request.dynamic_dims.keys()}
        inputs = _drawn(request, exported, example, sizes)
        try:
            answers = [exported.reference(values) for values in inputs]
        except Exception as error:
            reason = f"no inputs could be made up for it ({one_line(error)}); state accuracy.samples"
            note(reason)
            continue
        if any(np.isnan(a).any() for answer in answers for a in answer.values() if a.dtype.kind == "f"):
            reason = "made-up inputs give NaN; state accuracy.samples"
            continue
        return list(zip(inputs, answers, strict=True))
    return reason


def _blank(spec: TensorSpec, size: int) -> Array:
    """An array to draw like: floats around 0, integers 0 and 1, which are valid indices nearly everywhere."""
    import numpy as np

    shape = [dim if isinstance(dim, int) and dim >= 0 else size for dim in spec.shape]
    if spec.dtype.numpy == "object":
        out = np.empty(shape, dtype=object)
        out[...] = b"sample"
        return out
    if spec.dtype.numpy is None:
        raise ExportError(
            f"{spec.name} is {spec.dtype.kserve}, which NumPy has no dtype for",
            code="unsupported_tensor",
            seen=spec.dtype.config,
        )
    values = np.zeros(shape, dtype=spec.dtype.numpy)
    if values.dtype.kind in "iu":
        values.reshape(-1)[:1] = 1
    return values


def _answered(
    values: dict[str, Array], exported: Exported, request: ExportRequest, known: dict[str, Array] | None
) -> Sample:
    """A sample with the source's own answers; `known` where it gave them before."""
    import numpy as np

    label = ", ".join(f"{name} {list(array.shape)}" for name, array in values.items())
    try:
        outputs = exported.reference(values) if known is None else known
    except Exception as error:
        raise ExportError(
            f"the source itself fails on a sample: {one_line(error)}",
            code="reference_failed",
            where=users_place(error),
            seen=label,
            fix="state the sizes it takes in dynamic_dims, or inputs it takes in accuracy.samples",
        ) from error
    rows = next(iter(values.values())).shape[0] if request.max_batch_size > 0 else 0
    for name, array in outputs.items():
        if request.max_batch_size > 0 and array.shape[:1] != (rows,):
            raise ExportError(
                f"output {name} does not have one row for each row of the batch, so Triton cannot batch it",
                code="not_batched",
                seen=f"{name}: {list(array.shape)} for a batch of {rows}",
                fix="max_batch_size: 0",
            )
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ExportError(
                f"the source's own answer {name} holds NaN",
                code="reference_not_finite",
                seen=label,
                fix="give inputs from the model's domain in accuracy.samples, or fix the model",
            )
    return replace(Sample(values, {}), outputs=outputs, label=label)
