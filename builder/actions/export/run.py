"""ExportRequest → ExportResult, by a child process that cannot outlive this one and writes to a log file."""

from __future__ import annotations

from pathlib import Path

from tritonsmith.builder.actions.accuracy.samples import runs_no_code
from tritonsmith.builder.actions.export.request import ExportRequest, ExportResult
from tritonsmith.builder.base.errors import ExportError
from tritonsmith.builder.base.processes.child import WITH_ONNX, WITH_TORCH, ChildTask, run_child
from tritonsmith.builder.base.sources import source_rows

_TOLD_AT_LENGTH = ("not_exportable", "onnx_conversion")
"""Refusals of torch's exporters, whose own reports fill pages."""


def run_export(
    request: ExportRequest, out_dir: Path, log_path: Path, timeout_s: float | None = None
) -> ExportResult:
    """Exports one source into out_dir, made when missing; existing files of the same names are replaced.

    A failed accuracy check does not raise: the caller decides on `result.accuracy.passed`. Everything the
    source prints, and every warning of torch, goes to log_path. Raises ExportError (source, model, or the
    child was killed: export_killed, export_timeout, export_crashed), ToolError (torch_missing), BuildError
    (disk_full). On any exception, Ctrl-C included, the child's process group is gone before it leaves.
    """
    imports = WITH_TORCH if "torch" in source_rows()[request.kind].imports else WITH_ONNX
    task = ChildTask(
        "tritonsmith.builder.actions.export.worker",
        f"the export of {request.model}",
        "export",
        ExportError,
        imports=imports,
        shares=request.kind == "onnx" and runs_no_code(request.samples),
    )
    try:
        return ExportResult.from_dict(run_child(task, request.as_dict(), out_dir, log_path, timeout_s))
    except ExportError as error:
        if error.code in _TOLD_AT_LENGTH:
            error.details = (*error.details, f"all that torch said: {log_path}")
        raise
