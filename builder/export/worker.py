"""The export's child process: one ExportRequest on standard input → files, and one JSON answer on a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.child_worker import enter_search_path, serve
from builder.export.request import ExportRequest, ExportResult, request_from_dict


def main() -> None:
    """Answers one ExportRequest; arguments as builder.child_worker.serve takes them."""
    serve(_handle, "exporting")


def _handle(request: Mapping[str, Any], out_dir: Path) -> Mapping[str, object]:
    return _export(request_from_dict(request), out_dir).as_dict()


def _export(request: ExportRequest, out_dir: Path) -> ExportResult:
    from builder.export.verify import stated_samples, verify
    from builder.export.watch import watch_files

    started = time.monotonic()
    tools = _import_tools(request)
    enter_search_path(Path(request.search_path))
    with watch_files(ignore=(out_dir,)) as opened:
        if request.kind == "torch":
            from builder.export.torch_source import export_callable

            exported, stated, verified = export_callable(request, out_dir)
        else:
            exported = _taken_over(request, out_dir)
            stated = stated_samples(request)
            verified = verify(request, exported, stated, out_dir)
    accuracy, outputs, samples_path = verified
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


def _taken_over(request: ExportRequest, out_dir: Path) -> Any:
    if request.kind == "onnx":
        from builder.export.onnx_source import take_over

        return take_over(request, out_dir)
    from builder.export.program_source import export_saved_program

    return export_saved_program(request, out_dir)


def _import_tools(request: ExportRequest) -> dict[str, str]:
    """The heavy imports, before the source's directory can shadow a name in them."""
    import numpy
    import onnx
    import onnxruntime

    tools = {"numpy": numpy.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    if request.kind != "onnx":
        from builder.export.torch_tools import import_torch

        tools |= import_torch()
    return {**tools, "python": ".".join(map(str, sys.version_info[:3]))}


if __name__ == "__main__":
    main()
