"""A kind of source: an .onnx file under other words, with an option of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tritonsmith.builder.base.sources import SourceOption, SourceRow

ROW = SourceRow(
    "doubled",
    "an .onnx file, under other words",
    export="acme.source:export",
    options=(SourceOption("how", str, "twice", "how it is doubled"),),
)


def export(request: Any, out_dir: Path) -> Any:
    """ExportRequest → Exported."""
    from tritonsmith.builder.actions.export.sources.onnx import take_over

    assert request.options == {"how": "thoroughly"}, request.options
    return take_over(request, out_dir)
