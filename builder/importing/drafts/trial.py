"""(an entry, fields to try) → the entry with the first that a build accepts: exported, held against its source, rows run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tritonsmith.builder.actions.action import Subject
from tritonsmith.builder.actions.batch_rows import RowsReport
from tritonsmith.builder.actions.export.action import export_action
from tritonsmith.builder.base.errors import BuildError, GateError, TritonsmithError, Where
from tritonsmith.builder.base.tensors import TensorSpec, tensor_from_dict
from tritonsmith.builder.build.model.gate_of_export import judge_export
from tritonsmith.builder.build.model.gate_of_rows import judge_rows, rows_of
from tritonsmith.builder.cache.actions import perform
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.importing.drafts.candidates import Fields, usual_size
from tritonsmith.builder.importing.imported import ImportedModel
from tritonsmith.builder.importing.spec_text import text_of_spec
from tritonsmith.builder.spec.spec import load_spec


def accepted(model: ImportedModel, tried: Sequence[Fields], root: Path, cache: Cache | None) -> ImportedModel:
    """The entry that builds, with its tensors and what was refused before as remarks.

    cache: where the build will look; None for one that goes away. Raises what the last of `tried` was refused for: of a
    source, a ToolError at once.
    """
    root.mkdir(parents=True, exist_ok=True)  # an export is run in the spec's directory
    with _cache(cache) as place:
        refused: list[TritonsmithError] = []
        for fields in tried:
            entry = replace(model, fields=fields)
            try:
                surface, report, shapes = _made(entry, root, place)
            except (BuildError, GateError) as error:
                refused.append(error)
                continue
            remarks = (*entry.remarks, surface, *_told(fields, tried, refused, report))
            return replace(entry, remarks=remarks, shapes=shapes)
        raise refused[-1]


def _told(
    fields: Fields, tried: Sequence[Fields], refused: Sequence[TritonsmithError], report: RowsReport | None
) -> Iterator[str]:
    if fields["max_batch_size"] == 0:
        mixed = next((e for e in refused if isinstance(e, GateError)), None)
        error = mixed or (refused[-1] if refused else None)
        yield "not batched: " + ("its first dimension is fixed" if error is None else _reason(error))
    elif refused:
        what = (
            "every size but the batch is the example's"
            if "input" not in fields
            else "no size above the example's"
        )
        yield f"{what}: {_reason(refused[-1])}"
    elif "dynamic_dims" not in fields and any(
        isinstance(dim, str) for tensor in fields.get("input", ()) for dim in tensor["dims"]
    ):
        yield "no range is known for its open sizes: dynamic_dims: {NAME: {min: …, opt: …, max: …}}"
    if fields["max_batch_size"] and "dynamic_dims" in fields:
        yield "requests of different sizes share no batch: pad them to one, or write that size in place of its name"
    if report is not None and report.verdict in ("unverified", "random"):
        yield f"batching not verified: {report.note}"


def _reason(error: TritonsmithError) -> str:
    """The error in one line, without the name and place that others put before it."""
    return error.message.splitlines()[0].removeprefix("rows of a batch depend on one another: ").strip()[:300]


def _made(
    entry: ImportedModel, root: Path, cache: Cache
) -> tuple[str, RowsReport | None, dict[str, tuple[int, ...]]]:
    """What its tensors are, what is known of its rows, sizes of inputs that vary; the errors of a build."""
    with tempfile.TemporaryDirectory(prefix="tritonsmith-init-") as scratch:
        path = Path(scratch) / "models.yaml"
        path.write_text(text_of_spec((entry,)), encoding="utf-8")
        repository = replace(load_spec(path), root=root.resolve())
        spec = repository.models[0]
        try:
            artifact, _ = perform(export_action(Subject(spec, repository)), repository.root, cache)
            judge_export(spec, artifact.record["accuracy"], repository)
            report = rows_of(spec, artifact, repository, cache)
            judge_rows(spec, report, repository)
        except TritonsmithError as error:
            raise _elsewhere(error, entry, path) from None
    tensors = {kind: [tensor_from_dict(t) for t in artifact.record[kind]] for kind in ("inputs", "outputs")}
    surface = " → ".join(", ".join(map(_tensor, tensors[kind])) for kind in ("inputs", "outputs"))
    batched = bool(spec.max_batch_size)
    usual = {name: opt for name, (_, opt, _) in spec.dim_ranges.items()}
    shapes = {
        t.name: tuple(usual_size(d, usual) for d in t.shape[batched:])
        for t in tensors["inputs"]
        if -1 in t.wire_shape[batched:]
    }
    return surface, report, shapes


def _elsewhere(error: TritonsmithError, entry: ImportedModel, spec: Path) -> TritonsmithError:
    """The same error without the place in a spec that is not there yet."""
    for prefix in (f"{entry.name} ({spec.name}:", f"{entry.name}: "):
        if error.message.startswith(prefix):
            error.message = error.message.partition(": ")[2]
    if error.where is not None and error.where.path.parent == spec.parent:
        origin = next(iter(entry.source.values()))
        error.where = Where(Path(str(origin)))
    return error


def _tensor(tensor: TensorSpec) -> str:
    return (
        f"{tensor.name} {tensor.dtype.kserve} [{', '.join('?' if d == -1 else str(d) for d in tensor.shape)}]"
    )


@contextmanager
def _cache(cache: Cache | None) -> Iterator[Cache]:
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="tritonsmith-init-") as scratch:
        place = Cache(Path(scratch))
        yield place
        place.close()
