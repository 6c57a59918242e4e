"""A source (torch callable, ExportedProgram, ONNX file) → a checked ONNX file, its tensors, its accuracy."""

from builder.export.request import ExportRequest, ExportResult, request_from_dict, result_from_dict
from builder.export.run import run_export

__all__ = [
    "ExportRequest",
    "ExportResult",
    "request_from_dict",
    "result_from_dict",
    "run_export",
]
