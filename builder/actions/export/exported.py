"""What a source hands on to the checks: the ONNX file, its tensors, a way to run the source itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tritonsmith.builder.base.tensors import TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from tritonsmith.builder.actions.accuracy.samples import Array

    Arrays = Mapping[str, Array]
    Runner = Callable[[Arrays], dict[str, Array]]
    """Input name → array, to output name → array."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX file in out_dir and the source it came from.

    model_path:   the .onnx file itself.
    files:        relative paths for a version directory, as in ExportResult.
    reference:    runs the source model.
    is_copy:      the file is the source's own, and `reference` is ONNX Runtime without optimisations on it.
    example:      the source's example inputs by name; None for a source that has none (ONNX).
    dim_ranges:   name → (smallest, largest) size the source accepts; largest None means no bound known.
    dependencies: files known to belong to the source.
    rows:         (how many, NumPy's Generator) → inputs of that many rows, drawn from what the source is made for;
                  in place of an example.
    relations:    name of a dynamic dimension → what it follows from; builder.base.dim_relations.
    exporter:     which of torch's exporters wrote the file; None for a source that torch has no part in.
    notes:        what people should know of the export, a line each.
    """

    model_path: Path
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    ir_version: int
    reference: Runner
    example: Arrays | None
    dim_ranges: Mapping[str, tuple[int, int | None]]
    dependencies: tuple[Path, ...] = ()
    is_copy: bool = False
    rows: Callable[[int, np.random.Generator], dict[str, Array]] | None = None
    relations: Mapping[str, str] = field(default_factory=dict)
    exporter: str | None = None
    notes: tuple[str, ...] = ()
