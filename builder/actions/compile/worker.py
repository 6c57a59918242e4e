"""The compilation's child process: one CompileRequest on standard input → an engine, and one JSON answer."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.compile.request import CompileRequest, CompileResult
from tritonsmith.builder.base.processes.child_worker import serve


def main() -> None:
    """Answers one CompileRequest; arguments as builder.base.processes.child_worker.serve takes them."""
    serve(_handle, "compiling")


def _handle(request: Mapping[str, Any], out_dir: Path) -> Mapping[str, object]:
    """SIGTERM asks the build to stop at its next step.

    The build runs in a thread: Python's signal handlers run between bytecodes of the main one, which would
    otherwise sit inside the compiler until the end.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    done: list[CompileResult | BaseException] = []

    def work() -> None:
        try:
            done.append(compile_request(CompileRequest.from_dict(request), out_dir, stop))
        except BaseException as error:  # handed on below
            done.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    result = done[0]
    if isinstance(result, BaseException):
        raise result
    return result.as_dict()


def compile_request(request: CompileRequest, out_dir: Path, stop: threading.Event) -> CompileResult:
    """Compiles in this process; `stop` cancels at the compiler's next step."""
    if request.engine == "tensorrt":
        from tritonsmith.builder.actions.compile.compilers.tensorrt import compile_tensorrt as compiled
    else:
        from tritonsmith.builder.actions.compile.compilers.tensorrt_rtx import (
            compile_tensorrt_rtx as compiled,
        )
    try:
        return compiled(request, out_dir, stop.is_set)
    except BaseException as error:
        # TensorRT makes a builder under a lock, and calls the Python logger meanwhile. A collection that falls
        # there and finds an old builder, kept until then by a failure's traceback, waits for that lock forever.
        traceback.clear_frames(error.__traceback__)
        raise


if __name__ == "__main__":
    main()
