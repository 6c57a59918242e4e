"""The export's child process: one ExportRequest on standard input → files, and one JSON answer on a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.export.request import ExportRequest, ExportResult
from tritonsmith.builder.actions.export.sources.tools import import_tools
from tritonsmith.builder.base.errors import Where, at
from tritonsmith.builder.base.files.package_files import PACKAGE_PREFIX
from tritonsmith.builder.base.processes.child_worker import Task, enter_search_path, serve
from tritonsmith.builder.base.rows import function_of
from tritonsmith.builder.base.sources import SourceRow, source_rows


def main(task: Task | None = None) -> None:
    """Answers one ExportRequest; arguments as builder.base.processes.child_worker.serve takes them."""
    serve(_handle, "exporting", task)


def _handle(request: Mapping[str, Any], out_dir: Path) -> Mapping[str, object]:
    return _export(ExportRequest.from_dict(request), out_dir).as_dict()


def _export(request: ExportRequest, out_dir: Path) -> ExportResult:
    from tritonsmith.builder.actions.export.checks.verify import stated_samples, verify
    from tritonsmith.builder.actions.export.exported import Exported
    from tritonsmith.builder.actions.export.watch import watch_files

    started = time.monotonic()
    row = source_rows()[request.kind]
    tools = _import_tools(row)
    assert row.export is not None
    export = function_of(row.export)
    enter_search_path(Path(request.search_path))
    own = row.reference == "file" and not request.reference.startswith(PACKAGE_PREFIX)
    with watch_files(ignore=(out_dir,)) as opened:
        with at(Where(Path(request.reference)) if own else None):
            made = export(request, out_dir)
        if isinstance(made, Exported):
            stated = stated_samples(request)
            made = made, stated, verify(request, made, stated, out_dir)
    exported, stated, (accuracy, outputs, samples_path) = made
    return ExportResult(
        files=exported.files,
        inputs=exported.inputs,
        outputs=outputs,
        opset=exported.opset,
        ir_version=exported.ir_version,
        dependencies=opened.dependencies(
            (*exported.dependencies, *stated.dependencies), Path(request.search_path)
        ),
        accuracy=accuracy,
        samples_path=samples_path,
        seconds=time.monotonic() - started,
        tools=tools,
        relations=exported.relations,
        exporter=exported.exporter,
        notes=exported.notes,
    )


def _import_tools(row: SourceRow) -> dict[str, str]:
    """The heavy imports, before the source's directory can shadow a name in them."""
    import numpy
    import onnx
    import onnxruntime

    tools = {"numpy": numpy.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    tools |= import_tools(row.imports, row.extra)
    return {**tools, "python": ".".join(map(str, sys.version_info[:3]))}


if __name__ == "__main__":
    main()
