"""(a model of the spec) → the Action that exports its source, and the Identity of whatever makes its artifact."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic.config import with_config
from typing_extensions import NotRequired

from tritonsmith.builder.actions.action import (
    Action,
    Identity,
    Ran,
    Subject,
    Workplace,
    place_error,
    request_digest,
)
from tritonsmith.builder.actions.export.request import ExportRequest, ExportResult
from tritonsmith.builder.actions.export.run import run_export
from tritonsmith.builder.actions.record import MORE, Count, DimName, SourceRecord
from tritonsmith.builder.base.dim_relations import relation_from_text
from tritonsmith.builder.base.errors import BuildError, UnexpectedError
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.base.machine.toolchain import Toolchain, this_toolchain
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec, stated_tensors

# Raised when the same inputs would give another artifact: the exporter's own version.
EXPORT_REVISION = 3


def _relation(text: str) -> str:
    relation_from_text(text)
    return text


@with_config(MORE)
class ExportRecord(SourceRecord):
    """Of an export."""

    opset: Count
    ir_version: Count
    relations: NotRequired[dict[DimName, Annotated[str, AfterValidator(_relation)]]]
    exporter: NotRequired[str | None]
    notes: NotRequired[list[str]]


def source_identity(spec: ModelSpec, toolchain: Toolchain | None = None) -> Identity:
    """Of an export, or of files that are taken over as they are, which depend on no tool.

    toolchain: None for this one.
    """
    parameters = _parameters(spec)
    tools = (toolchain or this_toolchain()).fingerprint(*spec.source.row.distributions)
    return Identity(parameters, tools, request_digest("export", parameters, tools), reads=True)


def _parameters(spec: ModelSpec) -> dict[str, Any]:
    """What an export depends on beside its sources' content; names and paths as written in the spec."""
    parameters = {
        "revision": EXPORT_REVISION,
        "kind": spec.source.kind,
        "reference": spec.source.reference,
        "files": list(spec.source.files),
        "opset": spec.opset if spec.source.row.opset == "asked" else None,
        "max_batch_size": spec.max_batch_size,
        "dynamic_dims": stated_dims(spec),
        "samples": spec.accuracy.samples,
        "input": _as_stated(spec, "input"),
        "output": _as_stated(spec, "output"),
    }
    if spec.source.steps is not None:
        parameters["steps"] = [step.model_dump() for step in spec.source.steps]
    if spec.exporter is not None:
        parameters["exporter"] = spec.exporter
    # What is not stated is left out, so that an option that comes to be changes no key of before.
    for name, value in spec.source.options.items():
        if name in spec.source.model_fields_set and value not in ((), None):
            parameters[name] = list(value) if isinstance(value, tuple) else value
    if level := graph_level(spec):
        parameters["graph_level"] = level
    return parameters


def stated_dims(spec: ModelSpec) -> dict[str, Any]:
    """`dynamic_dims:` as JSON, part of an identity."""
    return {k: v if isinstance(v, str) else v.model_dump() for k, v in sorted(spec.dynamic_dims.items())}


def _as_stated(spec: ModelSpec, kind: Literal["input", "output"]) -> list[dict[str, Any]]:
    return [
        {
            "name": t["name"],
            "data_type": t["data_type"],
            "dims": None if t["dims"] is None else list(t["dims"]),
        }
        for t in stated_tensors(spec, kind)
    ]


def graph_level(spec: ModelSpec) -> int:
    """Triton's optimization.graph.level of the model; 0 where nothing is stated."""
    optimization = spec.config.as_proto_json().get("optimization") or {}
    return int((optimization.get("graph") or {}).get("level") or 0)


def is_exported(spec: ModelSpec) -> bool:
    """Whether the source goes through an export, which checks it against itself; else it is taken over."""
    return spec.source.row.export is not None


def export_action(model: Subject) -> Action:
    """BuildError and SpecError of its run name the spec's line."""
    identity = source_identity(model.spec)
    return Action("source", f"export {model.name}", identity, partial(_run, model, identity))


def _run(model: Subject, identity: Identity, made: Path, place: Workplace) -> Ran:
    spec, repository = model.spec, model.repository
    try:
        result = run_export(export_request(spec, repository), made, model.log(place))
    except (BuildError, UnexpectedError) as error:
        raise place_error(error, model.name, model.where) from None
    for line in result.notes:
        note(f"{spec.name}: {line}")
    # What is gone after an export was a temporary file of the source's own, unless the spec names it.
    named = [
        *spec.source.files,
        *([spec.source.reference] if spec.source.row.reference == "file" else []),
    ]
    files = {*result.dependencies, *(str(source_path(f, repository.root)) for f in named)}
    return Ran(_record(result, identity.tools), [Path(f) for f in sorted(files)])


def _record(result: ExportResult, tools: Mapping[str, str | None]) -> dict[str, Any]:
    return {
        "inputs": [t.as_dict() for t in result.inputs],
        "outputs": [t.as_dict() for t in result.outputs],
        "opset": result.opset,
        "ir_version": result.ir_version,
        "accuracy": result.accuracy.as_dict(),
        "served_files": list(result.files),
        "samples": result.samples_path,
        "tools": dict(tools),
        "seconds": round(result.seconds, 3),
        "relations": dict(result.relations),
        "exporter": result.exporter,
        "notes": list(result.notes),
    }


def export_request(spec: ModelSpec, repository: RepositorySpec) -> ExportRequest:
    """The spec's model as an export to run."""
    samples = spec.accuracy.samples
    if samples is not None and ":" not in samples:
        samples = str(repository.root / samples)
    largest = spec.max_batch_size or 0
    listed = stated_tensors(spec, "output")
    return ExportRequest(
        model=spec.name,
        kind=spec.source.kind,
        reference=_absolute_reference(spec, repository.root),
        options=spec.source.options,
        search_path=str(repository.root),
        opset=spec.opset,
        max_batch_size=largest,
        inputs=whole_tensors(spec, "input"),
        outputs=whole_tensors(spec, "output"),
        output_names=tuple(names) if None not in (names := [t["name"] for t in listed]) else (),
        dynamic_dims=spec.dim_ranges,
        dim_relations=spec.dim_relations,
        exporter=spec.exporter,
        samples=samples,
        sample_batch_sizes=tuple(sorted({1, min(3, largest), largest})) if largest > 0 else (),
        seed=0,
        graph_level=graph_level(spec),
    )


def _absolute_reference(spec: ModelSpec, root: Path) -> str:
    reference, row = spec.source.reference, spec.source.row
    if row.reference == "callable":
        return reference
    path = source_path(reference, root)
    is_there = os.path.exists(path)  # noqa: PTH110 - Path.exists raises for a name that is too long
    return reference if row.reference == "directory or name" and not is_there else str(path)


def whole_tensors(spec: ModelSpec, kind: Literal["input", "output"]) -> tuple[TensorSpec, ...]:
    """The spec's tensors with whole shapes; a tensor without dims and data_type is left to the model."""
    batch = ("batch",) if (spec.max_batch_size or 0) > 0 else ()
    return tuple(
        TensorSpec(t["name"], dtype_from_config(t["data_type"]), (*batch, *_model_dims(t)))
        for t in stated_tensors(spec, kind)
        if t["name"] and t["data_type"] and t["dims"] is not None
    )


def _model_dims(tensor: Mapping[str, Any]) -> Sequence[int | str]:
    reshape = tensor.get("reshape")
    return tuple(reshape["shape"] or ()) if reshape else tuple(tensor["dims"])
