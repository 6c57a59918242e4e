"""The process that loads a stranger's ONNX file: its path and graph level → the shapes that ONNX Runtime's session has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.export.kept_session import keep_session
from tritonsmith.builder.actions.export.onnx_graph import lacks_kernels, open_session, read_graph
from tritonsmith.builder.base.errors import ExportError
from tritonsmith.builder.base.processes.child_worker import Task, serve


def main(task: Task | None = None) -> None:
    """Answers one request; arguments as builder.base.processes.child_worker.serve takes them."""
    serve(_handle, "loading a model", task)


def _handle(request: Mapping[str, Any], scratch: Path) -> Mapping[str, object]:
    """{path, level} → {shapes: name → sizes, -1 for an open one}, or {lacks: what the CPU provider cannot run}.

    ExportError: as read_graph, which holds external data against its directory, and onnxruntime_rejects.
    """
    path = Path(request["path"])
    read_graph(path, full_check=False)
    try:
        session = open_session(path, optimised=True, level=int(request["level"]))
    except ExportError as error:
        if lacks_kernels(error):
            return {"lacks": error.message}
        raise
    keep_session(path, int(request["level"]), session)
    tensors = (*session.get_inputs(), *session.get_outputs())
    return {
        "shapes": {t.name: [d if isinstance(d, int) and d >= 0 else -1 for d in t.shape] for t in tensors}
    }


if __name__ == "__main__":
    main()
