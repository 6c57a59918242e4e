"""A Model as it lies on disk → its RowsReports, by running its ONNX files in a process of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.batch_rows import RowsReport, RowsRequest, run_rows, sizes_to_run
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.lint.read.autofill import can_batch
from tritonsmith.builder.lint.read.model import Model, model_file

RAGGED = RowsReport("unverified", (), "its inputs are ragged: a batch is no stack of rows")
TIMEOUT_S = 300.0
"""Of one file that nobody asked to have run for long."""


def rows_by_running(model: Model, auto_complete: bool = True) -> dict[int, RowsReport]:
    """Version → what running it showed, of the versions that would be served in batches.

    Neither Python code nor libraries of custom operators are loaded; a model that needs them is not verified.
    """
    reports = {n: rows_of_file(request) for n, request in row_requests(model, auto_complete).items()}
    if not reports and _batches(model, auto_complete) and is_ragged(model.config):
        return {version.number: RAGGED for version in model.selected if version.number in model.onnx}
    return reports


def rows_of_file(request: RowsRequest) -> RowsReport:
    """The report; a file that ends its process, or takes too long, is not verified."""
    with tempfile.TemporaryDirectory(prefix="tritonsmith-rows-") as scratch:
        try:
            return run_rows(request, Path(scratch) / "scratch", Path(scratch) / "log", TIMEOUT_S)
        except BuildError as error:
            return RowsReport("unverified", (), error.message)


def row_requests(model: Model, auto_complete: bool = True) -> Mapping[int, RowsRequest]:
    """Version → its request, of the versions that ONNX Runtime serves in batches; none for ragged inputs.

    auto_complete: whether the server infers a batch size where none is stated.
    """
    if not _batches(model, auto_complete) or is_ragged(model.config):
        return {}
    config = model.config if auto_complete else model.written
    sizes = sizes_to_run(config.max_batch_size, config.dynamic_batching.preferred_batch_size)
    surfaces = dict(model.onnx_models)
    return {
        version.number: RowsRequest(
            model.name,
            str(model_file(model.config, version).absolute()),
            sizes,
            # A name that the graph does not have is IO013's.
            tuple(o.name for o in model.written.output if surfaces[version.number].output(o.name)),
        )
        for version in model.selected
        if version.number in surfaces and can_batch(surfaces[version.number])
    }


def is_ragged(config: Any) -> bool:
    """Whether a batch of the model is something else than its requests' rows one after another."""
    return bool(len(config.batch_input)) or any(tensor.allow_ragged_batch for tensor in config.input)


def _batches(model: Model, auto_complete: bool) -> bool:
    config = model.config if auto_complete else model.written
    return config is not None and model.config.backend == "onnxruntime" and config.max_batch_size > 0
