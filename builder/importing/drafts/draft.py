"""(kind of source, its reference, what the user says) → the entry of a first spec that a build accepts."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import SpecError, UsageError, Where
from tritonsmith.builder.base.files.untrusted import fault_of_model_name
from tritonsmith.builder.base.tensors import TensorSpec
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.importing.drafts.asked import Asked
from tritonsmith.builder.importing.drafts.candidates import candidates, habits_of
from tritonsmith.builder.importing.drafts.language_model import language_model
from tritonsmith.builder.importing.drafts.python_program import fields_of_program
from tritonsmith.builder.importing.drafts.surface import Surface, surface_by_running, surface_of_onnx
from tritonsmith.builder.importing.drafts.trial import accepted
from tritonsmith.builder.importing.imported import ImportedModel
from tritonsmith.builder.lint.read.onnx_io import OnnxProblem

_PICKLES = (".pkl", ".pickle", ".joblib")


def drafted(
    name: str, kind: str, reference: str, path: Path | None, root: Path, asked: Asked
) -> ImportedModel:
    """The entry; it was exported as the build will, its artifacts are in asked.cache.

    reference: as the spec has it; path: the file or directory, None of a callable. Errors: of a build, of the source itself,
    and UsageError untrusted_pickle, tensors_not_stated, model_name.
    """
    if fault := fault_of_model_name(name):
        raise UsageError(
            f"the model's name, {name!r}, {fault}",
            code="model_name",
            where=None if path is None else Where(path),
            fix=f"tritonsmith init {path or reference} --name NAME",
        )
    if kind == "python":
        assert path is not None
        fields, remarks = fields_of_program(path, asked)
        return ImportedModel(name, {"python": reference}, fields, {}, tuple(remarks))
    if kind == "llm":
        return language_model(name, reference, path)
    source: dict[str, Any] = {kind: reference}
    if kind == "sklearn" and path is not None and path.suffix != ".skops":
        if not asked.trust:
            raise UsageError(
                "it is a pickle, and loading it runs what is written in it",
                code="untrusted_pickle",
                where=Where(path),
                valid=("a file that skops.io.dump wrote (.skops), which runs nothing",),
                fix=f"if you trust its author: tritonsmith init {path} --trust",
            )
        source["trust"] = True
    return accepted_entry(ImportedModel(name, source, {}, {}), path, root, asked)


def accepted_entry(model: ImportedModel, path: Path | None, root: Path, asked: Asked) -> ImportedModel:
    """An entry without fields → with those that a build accepts, and remarks."""
    kind, reference = next(iter(model.source.items()))
    note(f"{model.name}: exporting {reference} and checking it, as a build does …")
    surface = _surface(
        str(kind), str(reference if path is None else path.absolute()), model.name, root, asked
    )
    tried = candidates(surface, asked.preset, needs_inputs=bool(asked.inputs) or kind == "torchscript")
    entry = accepted(model, tried, root, asked.cache)
    remarks = (*entry.remarks, *surface.remarks)
    if asked.preset is not None and entry.fields["max_batch_size"]:
        habits = habits_of(asked.preset)
        remarks = (
            *remarks,
            f"--preset {asked.preset}: a place to start, not a finding: {habits.note}. Replace it by what a sweep finds:",
            f"  {_sweep_command(entry, asked)}",
        )
    return replace(entry, remarks=remarks)


def sweep_commands(models: Iterable[ImportedModel], asked: Asked) -> dict[str, str]:
    """Name → the sweep of what its entry starts from; with a preset it stands above the entry already."""
    return {} if asked.preset is not None else {model.name: _sweep_command(model, asked) for model in models}


def _sweep_command(model: ImportedModel, asked: Asked) -> str:
    sizes = (
        f"--set max_batch_size={habits_of(asked.preset).tried} " if model.fields.get("max_batch_size") else ""
    )
    shapes = [f"{name}:{','.join(map(str, shape))}" for name, shape in model.shapes.items()]
    stated = "".join(f" --shape {shlex.quote(shape)}" for shape in shapes)
    name = shlex.quote(model.name)
    return f"tritonsmith sweep model_repository/ -m {name} {sizes}--set instance_group.count=1,2{stated}"


def _surface(kind: str, reference: str, what: str, root: Path, asked: Asked) -> Surface:
    if asked.inputs and kind != "torchscript":
        return Surface(tuple(TensorSpec(t.name, t.dtype, ("batch", *t.shape)) for t in asked.inputs))
    if kind in ("torch", "exported_program", "torchscript"):
        return surface_by_running(kind, reference, root, asked.inputs, what)
    if kind == "onnx":
        try:
            return surface_of_onnx(Path(reference))
        except OnnxProblem as problem:
            raise SpecError(
                f"not an ONNX model: {problem}",
                code="not_onnx",
                where=Where(Path(reference)),
                valid=("an .onnx file", "a model repository or directory"),
            ) from None
    return Surface()
