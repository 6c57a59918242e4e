"""A Model as it lies on disk → the shapes that ONNX Runtime's sessions of its files have, and the Model with them in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tritonsmith.builder.base.errors import ExportError
from tritonsmith.builder.base.processes.child import WITH_ONNX, ChildTask, run_child
from tritonsmith.builder.lint.read.autofill import completed
from tritonsmith.builder.lint.read.model import Model, model_file
from tritonsmith.builder.lint.read.onnx_io import OnnxModel

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor → its whole shape, -1 for an open size."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading a version's ONNX file showed. lacks: why the CPU cannot run it, and nothing is known of shapes."""

    shapes: Shapes
    lacks: str = ""


def load_versions(
    model: Model, scratch: Path, log_path: Path, timeout_s: float | None = None
) -> dict[int, Loaded]:
    """Version → Loaded, of the versions that Triton's onnxruntime backend would serve, each loaded in a process of its own.

    None where the config names libraries of custom operators: no stranger's code is loaded. ExportError for a file that
    ONNX Runtime refuses; session_killed, session_crashed, session_timeout.
    """
    config = model.config
    if config is None or config.backend != "onnxruntime" or config.model_operations.op_library_filename:
        return {}
    surfaces = dict(model.onnx_models)
    level = config.optimization.graph.level
    task = ChildTask(
        "tritonsmith.builder.actions.export.checks.session_worker",
        f"loading {model.name}",
        "session",
        ExportError,
        imports=WITH_ONNX,
        shares=True,
    )
    loaded = {}
    for version in (v for v in model.selected if v.number in surfaces):
        path = str(model_file(config, version).absolute())
        answer = run_child(task, {"path": path, "level": level}, scratch, log_path, timeout_s)
        shapes = {name: tuple(sizes) for name, sizes in answer.get("shapes", {}).items()}
        loaded[version.number] = Loaded(shapes, answer.get("lacks", ""))
    return loaded


def as_loaded(model: Model, loaded: Mapping[int, Loaded]) -> Model:
    """The model with the shapes of sessions in place of those that its files declare."""
    known = {
        number: _of_session(surface, loaded[number].shapes)
        for number, surface in model.onnx_models
        if number in loaded and loaded[number].shapes
    }
    if not known:
        return model
    surfaces = {**model.onnx, **known}
    newest = next((m for m in reversed(surfaces.values()) if isinstance(m, OnnxModel)), None)
    config = completed(model.written, model.name, model.path, model.versions, onnx=newest)
    return replace(model, onnx=surfaces, config=config)


def _of_session(surface: OnnxModel, shapes: Shapes) -> OnnxModel:
    return replace(
        surface,
        inputs=tuple(replace(t, shape=shapes.get(t.name, t.shape)) for t in surface.inputs),
        outputs=tuple(replace(t, shape=shapes.get(t.name, t.shape)) for t in surface.outputs),
        of_session=True,
    )
