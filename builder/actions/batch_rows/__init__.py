"""(ONNX file, batch sizes) → whether each row of a batch is answered as it would be alone, and the op that mixes them."""

from tritonsmith.builder.actions.batch_rows.report import RowsReport, report_from_dict, sizes_to_run
from tritonsmith.builder.actions.batch_rows.request import RowsRequest
from tritonsmith.builder.actions.batch_rows.run import run_rows

__all__ = ["RowsReport", "RowsRequest", "report_from_dict", "run_rows", "sizes_to_run"]
