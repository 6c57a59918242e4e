"""(kind, reference) → the model's inputs as a run or the file tells them: which sizes are open, and in what range."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import ExportError
from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.base.processes.child import WITH_TORCH, ChildTask, run_child
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_onnx
from tritonsmith.builder.lint.read.onnx_io import read_onnx


@dataclass(frozen=True, slots=True)
class Surface(JsonForm):
    """What is known of a source's inputs before a build.

    inputs:  whole shapes; a name is a size that is open, one name one size.
    sizes:   name → the size that the source was seen to take.
    largest: name → the largest size that it takes, where one is known.
    remarks: of what was found by trying, a line each.
    """

    inputs: tuple[TensorSpec, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    largest: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def surface_by_running(
    kind: str, reference: str, root: Path, inputs: tuple[TensorSpec, ...], what: str
) -> Surface:
    """Of a torch, exported_program or torchscript source, in a process of its own; ExportError as its export raises."""
    task = ChildTask(
        "tritonsmith.builder.importing.drafts.worker",
        f"a look at {what}",
        "init",
        ExportError,
        imports=WITH_TORCH,
    )
    asked: dict[str, Any] = {
        "kind": kind,
        "reference": reference,
        "search_path": str(root.resolve()),
        "inputs": [t.as_dict() for t in inputs],
    }
    with tempfile.TemporaryDirectory(prefix="tritonsmith-init-") as scratch:
        return Surface.from_dict(run_child(task, asked, Path(scratch) / "out", Path(scratch) / "log"))


def surface_of_onnx(path: Path) -> Surface:
    """As the file says; OnnxProblem when it cannot be read. Sizes without a name get one."""
    inputs = []
    for tensor in read_onnx(path).inputs:
        try:
            dtype = dtype_from_onnx(tensor.element)
        except KeyError:
            return Surface()
        if tensor.shape is None:
            return Surface()
        shape = tuple(
            d if isinstance(d, str) or d >= 0 else f"{tensor.name}_{axis}"
            for axis, d in enumerate(tensor.shape)
        )
        inputs.append(TensorSpec(tensor.name, dtype, shape))
    return Surface(tuple(inputs))
