"""A model of a repository → its entry in a spec that builds the same message again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.batch_rows import RowsReport
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_onnx
from tritonsmith.builder.importing.fields import fields_from_message
from tritonsmith.builder.importing.imported import ImportedModel
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.read.onnx_io import OnnxModel, OnnxTensor
from tritonsmith.builder.model_config.model_config import model_config_from_spec
from tritonsmith.builder.spec.model_directory import read_model_directory
from tritonsmith.builder.spec.model_spec import ModelSpec, source_type
from tritonsmith.builder.spec.triton_schema import model_config_type

_FILE = "1/model.onnx"


def imported_model(model: Model, root: Path) -> ImportedModel:
    """The model's entry.

    One ONNX file as version 1 becomes `source: {onnx: …}`, checked by a build like any other, its labels and
    warm-up data `model_files`. Anything else is taken over as it is: `source: {directory: …}`.
    """
    written = fields_from_message(model.written)
    taken_over = ImportedModel(model.name, {"directory": relative(model.path, root)}, written, {})
    onnx = _single_onnx(model)
    fields = None if onnx is None else _onnx_fields(model, onnx, written)
    if onnx is None or fields is None:
        return taken_over
    own = {_FILE, *(f"1/{location}" for location in onnx.external_data)}
    beside = {n: f for n, f in read_model_directory(model.path).files.items() if n not in own}
    return ImportedModel(
        model.name,
        {"onnx": relative(model.path / _FILE, root)},
        fields,
        {name: relative(file, root) for name, file in beside.items()},
    )


def without_batching(imported: ImportedModel, model: Model, report: RowsReport) -> ImportedModel:
    """The entry of a model whose rows mix: max_batch_size 0, its tensors' first dimension stated as any other."""
    fields = {key: value for key, value in imported.fields.items() if key != "dynamic_batching"}
    if "directory" in imported.source:
        # Nothing is left for Triton to complete, which would batch the model again.
        completed = fields_from_message(model.config)
        fields |= {kind: completed[kind] for kind in ("input", "output") if kind not in fields}
    for kind in ("input", "output"):
        if kind in fields and model.config.max_batch_size > 0:
            fields[kind] = [_with_first_dimension(tensor) for tensor in fields[kind]]
    remark = f"not batched: {report.note}"
    return replace(imported, fields=fields | {"max_batch_size": 0}, remarks=(*imported.remarks, remark))


def _with_first_dimension(tensor: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**tensor, "dims": [-1, *tensor["dims"]]} if "dims" in tensor else dict(tensor)
    if "reshape" in tensor:
        whole["reshape"] = {"shape": [-1, *tensor["reshape"].get("shape", ())]}
    return whole


def _single_onnx(model: Model) -> OnnxModel | None:
    """The ONNX surface of a model that has one version, 1, served from the file model.onnx."""
    if [v.number for v in model.versions] != [1] or model.config.default_model_filename != "model.onnx":
        return None
    if model.config.backend != "onnxruntime" or not (model.path / _FILE).is_file():
        return None
    onnx = model.onnx.get(1)
    return onnx if isinstance(onnx, OnnxModel) else None


def _onnx_fields(model: Model, onnx: OnnxModel, written: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fewest fields from which the builder makes the message that Triton serves; None when none do."""
    meant = _meant(model)
    completed = dict(written)
    completed["max_batch_size"] = meant.max_batch_size
    if "dynamic_batching" not in written and meant.HasField("dynamic_batching"):
        completed["dynamic_batching"] = {}
    for fields in (dict(written), completed):
        try:
            spec = ModelSpec(
                name=model.name,
                source=source_type().model_validate({"onnx": "model.onnx"}),
                config=model_config_type().model_validate(fields),
            )
            built = model_config_from_spec(spec, _tensors(onnx.inputs), _tensors(onnx.outputs))
        except (TritonsmithError, KeyError, ValueError):
            continue
        if built == meant:
            return fields
    return None


def _meant(model: Model) -> Any:
    """The written message with what Triton fills in from the graph; not the names it derives from others."""
    meant = type(model.written)()
    meant.CopyFrom(model.config)
    meant.name = model.name
    for name in ("platform", "default_model_filename"):
        setattr(meant, name, getattr(model.written, name))
    if model.written.platform and not model.written.backend:
        meant.backend = ""
    return meant


def _tensors(tensors: tuple[OnnxTensor, ...]) -> list[TensorSpec]:
    """ValueError when a shape is not in the file: only ONNX Runtime could tell it."""
    result = []
    for tensor in tensors:
        if tensor.shape is None:
            raise ValueError(tensor.name)
        result.append(TensorSpec(tensor.name, dtype_from_onnx(tensor.element), tensor.shape))
    return result


def relative(path: Path, root: Path) -> str:
    """A file as a spec in `root` names it."""
    return Path(os.path.relpath(path.absolute(), root.absolute())).as_posix()
