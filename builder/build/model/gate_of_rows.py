"""(a model of the spec, its artifact, the cache) → its RowsReport, made once; or the GateError that refuses to batch it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tritonsmith.builder.actions.action import Artifact, Subject, place_error
from tritonsmith.builder.actions.batch_rows import RowsReport, RowsRequest, report_from_dict, sizes_to_run
from tritonsmith.builder.actions.batch_rows.action import rows_action
from tritonsmith.builder.actions.export.action import is_exported
from tritonsmith.builder.base.dim_relations import with_found
from tritonsmith.builder.base.errors import GateError
from tritonsmith.builder.base.tensors import tensor_from_dict
from tritonsmith.builder.build.model.taken import model_as_taken
from tritonsmith.builder.cache.actions import perform
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.lint.deep.rows import RAGGED, is_ragged, row_requests
from tritonsmith.builder.model_config.model_config import (
    DEFAULT_MAX_BATCH_SIZE,
    batches,
    model_config_as_stated,
)
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec, stated_tensors

_FIX = "max_batch_size: 0, or make the model treat its first dimension as a stack of strangers; see docs/batching.md"


def rows_of(
    spec: ModelSpec, artifact: Artifact, repository: RepositorySpec, cache: Cache
) -> RowsReport | None:
    """What is known of the model's rows, looked up or run in a child process; None when it batches nothing.

    BuildError when that process dies.
    """
    if not spec.source.row.rows_checked:
        return None
    if is_ragged(model_config_as_stated(spec, repository)):
        return RAGGED
    requests = _of_export(spec, artifact) if is_exported(spec) else _of_directory(spec, artifact, repository)
    checked = (
        perform(rows_action(r, artifact, Subject(spec, repository)), repository.root, cache) for r in requests
    )
    return _gravest([report_from_dict(known.record["rows"]) for known, _ in checked])


def judge_rows(spec: ModelSpec, report: RowsReport | None, repository: RepositorySpec) -> None:
    """GateError when the spec, or Triton for a directory that is taken over as it is, would batch what cannot be batched.

    Where the batch size is ours to choose, max_batch_size becomes 0 instead (see `unbatched`).
    """
    if report is None or not report.refused or is_inferred(spec):
        return
    what = "rows of a batch depend on one another" if report.verdict == "mixed" else "a batch cannot be run"
    fix = _FIX
    if spec.max_batch_size is None:
        what += " (max_batch_size is left out, and Triton would infer it)"
        fix = "state max_batch_size: 0 with input and output, so that Triton infers nothing; see docs/batching.md"
    error = GateError(
        f"{what}: {report.note}",
        code="rows_mixed" if report.verdict == "mixed" else "batch_size_fails",
        where=repository.where(spec.name, "max_batch_size" if spec.max_batch_size is not None else "source"),
        fix=fix,
    )
    raise place_error(error, spec.name, error.where or repository.where(spec.name))


def is_inferred(spec: ModelSpec) -> bool:
    """Whether the builder chooses the batch size."""
    return spec.max_batch_size is None and is_exported(spec)


def unbatched(spec: ModelSpec) -> ModelSpec:
    """The model with max_batch_size 0, and no batcher that would have nothing to batch."""
    config = spec.config.model_copy(update={"max_batch_size": 0, "dynamic_batching": None})
    config.model_fields_set.discard("dynamic_batching")
    return spec.model_copy(update={"config": config})


def _of_export(spec: ModelSpec, artifact: Artifact) -> Iterable[RowsRequest]:
    record = artifact.record
    tensors = [tensor_from_dict(t) for t in (*record["inputs"], *record["outputs"])]
    largest = spec.max_batch_size
    if largest is None:
        largest = DEFAULT_MAX_BATCH_SIZE if batches(tensors) else 0
    if largest == 0:
        return ()
    batching = spec.config.as_proto_json().get("dynamic_batching") or {}
    return (
        RowsRequest(
            spec.name,
            str(artifact.onnx),
            sizes_to_run(largest, batching.get("preferred_batch_size", ())),
            _served_outputs(spec),
            dynamic_dims=spec.dim_ranges,
            dim_relations=with_found(spec.dim_relations, record.get("relations", {})),
            exported=True,
            samples=None if record["samples"] is None else str(artifact.directory / record["samples"]),
        ),
    )


def _served_outputs(spec: ModelSpec) -> tuple[str, ...]:
    """The outputs that the spec lists; empty for all, as when it leaves one's name to the model."""
    names = [tensor["name"] for tensor in stated_tensors(spec, "output")]
    return () if None in names else tuple(names)


def _of_directory(spec: ModelSpec, artifact: Artifact, repository: RepositorySpec) -> Iterable[RowsRequest]:
    """One request a version, with the inputs that accuracy.samples states."""
    model = model_as_taken(spec, artifact, repository)
    if model is None:
        return ()
    samples = spec.accuracy.samples
    if samples is not None and ":" not in samples:
        samples = str(repository.root / samples)
    return [
        replace(request, model=spec.name, samples=samples, search_path=str(repository.root))
        for request in row_requests(model).values()
    ]


_GRAVITY = ("mixed", "cannot_run", "random", "unverified", "independent")


def _gravest(reports: Sequence[RowsReport]) -> RowsReport | None:
    return min(reports, key=lambda report: _GRAVITY.index(report.verdict), default=None)
