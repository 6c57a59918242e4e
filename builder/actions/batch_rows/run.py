"""RowsRequest → RowsReport, by a child process: a stranger's model may crash ONNX Runtime or take all memory."""

from __future__ import annotations

from pathlib import Path

from tritonsmith.builder.actions.accuracy.samples import runs_no_code
from tritonsmith.builder.actions.batch_rows.report import RowsReport
from tritonsmith.builder.actions.batch_rows.request import RowsRequest
from tritonsmith.builder.base.processes.child import WITH_ONNX, ChildTask, run_child


def run_rows(
    request: RowsRequest, scratch: Path, log_path: Path, timeout_s: float | None = None
) -> RowsReport:
    """Runs the model's batches. scratch takes what the search for an op has to write; it is the caller's to remove.

    BuildError rows_killed, rows_crashed, rows_timeout; what a samples callable raises.
    """
    task = ChildTask(
        "tritonsmith.builder.actions.batch_rows.worker",
        f"running {request.model}'s batches",
        "rows",
        imports=WITH_ONNX,
        shares=runs_no_code(request.samples),
    )
    return RowsReport.from_dict(run_child(task, request.as_dict(), scratch, log_path, timeout_s))
