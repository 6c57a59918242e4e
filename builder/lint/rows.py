"""A Model as it lies on disk → what to run of it to see whether its rows may be batched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.batch_rows import RowsReport, RowsRequest, sizes_to_run
from builder.lint.autofill import can_batch
from builder.lint.model import Model, model_file

RAGGED = RowsReport("unverified", (), "its inputs are ragged: a batch is no stack of rows")


def row_requests(model: Model, auto_complete: bool = True) -> Mapping[int, RowsRequest]:
    """Version → its request, of the versions that ONNX Runtime serves in batches; none for ragged inputs.

    auto_complete: whether the server infers a batch size where none is stated.
    """
    config = model.config if auto_complete else model.written
    if config is None or model.config.backend != "onnxruntime" or is_ragged(config):
        return {}
    sizes = sizes_to_run(config.max_batch_size, config.dynamic_batching.preferred_batch_size)
    surfaces = dict(model.onnx_models)
    return {
        version.number: RowsRequest(
            model.name,
            str(model_file(model.config, version)),
            sizes,
            tuple(output.name for output in model.written.output),
        )
        for version in model.selected
        if sizes and version.number in surfaces and can_batch(surfaces[version.number])
    }


def is_ragged(config: Any) -> bool:
    """Whether a batch of the model is something else than its requests' rows one after another."""
    return bool(len(config.batch_input)) or any(tensor.allow_ragged_batch for tensor in config.input)
