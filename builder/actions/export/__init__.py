"""A source (torch callable, ExportedProgram, ONNX file) → a checked ONNX file, its tensors, its accuracy."""

from tritonsmith.builder.actions.export.request import (
    ExportRequest,
    ExportResult,
)
from tritonsmith.builder.actions.export.run import run_export

__all__ = [
    "ExportRequest",
    "ExportResult",
    "run_export",
]
