"""The child process that writes GGUF files: one request on standard input → one JSON answer on a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.processes.child_worker import Task, serve


def main(task: Task | None = None) -> None:
    """Answers one request; arguments as builder.base.processes.child_worker.serve takes them."""
    serve(_handle, "writing weights", task)


def _handle(request: Mapping[str, Any], out_dir: Path) -> Mapping[str, object]:
    from tritonsmith.builder.actions.export.sources.tools import import_tools
    from tritonsmith.builder.actions.language.quantize import plain_copy, quantize_gguf

    import_tools(("gguf",), "llm")
    source, made = Path(request["source"]), out_dir / request["name"]
    if request["precision"] is None:
        plain_copy(source, made)
        return {}
    return {"coverage": quantize_gguf(source, request["precision"], made).as_dict()}


if __name__ == "__main__":
    main()
