"""(an ensemble, what is known of its steps before anything is built) → a SpecError for each wire that would not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonsmith.builder.actions.export.action import whole_tensors
from tritonsmith.builder.base.errors import SpecError, TritonsmithError
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.base.tensors import DTYPES
from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.build.model.variant_config import config_message
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.lint.read.onnx_io import OnnxModel, OnnxProblem, OnnxTensor, read_onnx
from tritonsmith.builder.model_config.ensemble import wiring_faults
from tritonsmith.builder.plan.observation import Observation
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec, stated_tensors

_DTYPES = {dtype.onnx: dtype.config for dtype in DTYPES}


def wire_faults(
    model: ModelSpec, spec: RepositorySpec, observed: Mapping[str, Observation], cache: Cache
) -> list[SpecError]:
    """What is wrong for certain: a tensor that nothing is known of fits everywhere."""
    by_name = {m.name: m for m in spec.models}
    steps = dict.fromkeys(step.model for step in model.source.steps or ())
    known = {name: _known(by_name[name], spec, observed.get(name), cache) for name in steps}
    return wiring_faults(model, {name: config for name, config in known.items() if config is not None}, spec)


def _known(step: ModelSpec, spec: RepositorySpec, seen: Observation | None, cache: Cache) -> Any:
    """The step's ModelConfig as far as its tensors go: by its artifact, else as stated, else by its ONNX file's header."""
    if step.source.steps is not None or not all(variant.keep_io for variant in step.variants.values()):
        return None  # its own steps, or a conversion that gives tensors other types
    if step.source.kind == "llm":
        return _whole(step, {"inputs": [], "outputs": []}, spec)  # its backend's
    if step.source.row.stated:
        inputs, outputs = (whole_tensors(step, kind) for kind in _KINDS)
        record = {"inputs": [t.as_dict() for t in inputs], "outputs": [t.as_dict() for t in outputs]}
        return _whole(step, record, spec)
    has_config = step.source.row.backend and seen is not None and seen.cached_key is not None
    artifact = cache.get_here(str(seen.cached_key), "source") if has_config and seen else None
    return _as_stated(step, _header(step, spec)) if artifact is None else _whole(step, artifact.record, spec)


_KINDS: tuple[Any, ...] = ("input", "output")


def _whole(step: ModelSpec, record: Mapping[str, Any], spec: RepositorySpec) -> Any:
    try:
        return config_message(step, record, None, {}, spec)
    except TritonsmithError:
        return None  # its own build says what is wrong with it


def _header(step: ModelSpec, spec: RepositorySpec) -> OnnxModel | None:
    """An ONNX source's; None where there is none, or it cannot be read."""
    if step.source.kind != "onnx":
        return None
    try:
        return read_onnx(source_path(step.source.reference, spec.root))
    except (OSError, OnnxProblem, SpecError):
        return None


def _as_stated(step: ModelSpec, header: OnnxModel | None) -> Any:
    """Without the inputs or outputs that neither the spec nor a header names; shapes are known where the batch is, too."""
    batch = step.max_batch_size
    message = model_config_pb2().ModelConfig(name=step.name, max_batch_size=batch or 0)
    tensors_of: dict[str, tuple[OnnxTensor, ...]] = {}
    if header is not None:
        tensors_of = {"input": (*header.inputs, *header.overridable), "output": header.outputs}
    optional = {t.name for t in header.overridable} if header is not None else set()
    for kind in _KINDS:
        tensors = {t.name: t for t in tensors_of.get(kind, ())}
        stated = {t["name"]: t for t in stated_tensors(step, kind)}
        kept = step.state.keys() if kind == "input" else step.state.values()  # by Triton, between requests
        names = [name for name in stated or tensors if name not in kept]
        for name in () if None in names else names:
            told, found = stated.get(name) or {}, tensors.get(name)
            made = getattr(message, kind).add(name=name)
            if kind == "input" and name in optional:
                made.optional = True
            data_type = told.get("data_type") or (_DTYPES.get(found.element) if found else None)
            if data_type:
                made.data_type = model_config_pb2().DataType.Value(data_type)
            made.dims.extend(_dims(told, found, batch))
    return message


def _dims(stated: Mapping[str, Any], found: OnnxTensor | None, batch: int | None) -> list[int]:
    """Without the batch dimension where the model batches; empty where they cannot be told."""
    if stated.get("dims") is not None:
        told = batch is not None and not stated.get("reshape")
        return [d if isinstance(d, int) else -1 for d in stated["dims"]] if told else []
    if found is None or found.wire_shape is None:
        return []
    return list(found.wire_shape[1:] if batch else found.wire_shape)
