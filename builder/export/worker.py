"""The export's child process: one ExportRequest on standard input → files, and one JSON answer on a pipe."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from builder.errors import BuildError, TritonsmithError, Where
from builder.export.request import ExportRequest, ExportResult, request_from_dict


def main() -> None:
    """Arguments: the answer pipe's descriptor, out_dir. Leaves by os._exit as soon as the answer is out."""
    answer, out_dir = int(sys.argv[1]), Path(sys.argv[2])
    os.set_inheritable(answer, False)
    parent = os.dup(0)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    request = request_from_dict(json.loads(_read_line(parent)))
    threading.Thread(target=_leave_with_parent, args=(parent,), daemon=True).start()
    message = json.dumps(_answer(request, out_dir)).encode()
    while message:
        message = message[os.write(answer, message) :]
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # torch's teardown takes a second and changes nothing


def _read_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            os._exit(1)
        line += chunk
    return line


def _leave_with_parent(descriptor: int) -> None:
    """The parent holds the other end until it is done with us; end of file means that nobody waits."""
    while os.read(descriptor, 1):
        pass
    if os.getpgrp() == os.getpid():  # ours alone: what the source started goes with us
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _answer(request: ExportRequest, out_dir: Path) -> dict[str, object]:
    try:
        return {"result": _export(request, out_dir).as_dict()}
    except TritonsmithError as error:
        _log_traceback()
        return {"error": _error_as_dict(error)}
    except OSError as error:
        _log_traceback()
        if error.errno == errno.ENOSPC:
            return {"error": _error_as_dict(disk_full(error, out_dir))}
        return {"bug": traceback.format_exc()}
    except BaseException:
        _log_traceback()
        return {"bug": traceback.format_exc()}


def _log_traceback() -> None:
    with suppress(OSError):  # the log may lie on the disk that is full
        traceback.print_exc()


def disk_full(error: OSError, out_dir: Path) -> BuildError:
    """An ENOSPC → the error people get."""
    return BuildError(
        "disk full while exporting",
        code="disk_full",
        where=Where(Path(str(error.filename)) if error.filename else out_dir),
        fix="free space on that file system; nothing half-written is used",
    )


def _error_as_dict(error: TritonsmithError) -> dict[str, object]:
    return {
        "class": type(error).__name__,
        "message": error.message,
        "code": error.code,
        "path": None if error.where is None else str(error.where.path),
        "line": None if error.where is None else error.where.line,
        "seen": None if error.seen is None else str(error.seen),
        "valid": [str(value) for value in error.valid],
        "fix": error.fix,
    }


def _export(request: ExportRequest, out_dir: Path) -> ExportResult:
    from builder.export import verify
    from builder.export.watch import watch_files

    started = time.monotonic()
    tools = _import_tools(request)
    _enter_search_path(Path(request.search_path))
    with watch_files(ignore=(out_dir,)) as opened:
        exported = _run_source(request, out_dir)
        stated = verify.stated_samples(request)
    accuracy, outputs, samples_path = verify.verify(request, exported, stated, out_dir)
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
    )


def _run_source(request: ExportRequest, out_dir: Path) -> Any:
    if request.kind == "onnx":
        from builder.export.onnx_source import take_over

        return take_over(request, out_dir)
    if request.kind == "exported_program":
        from builder.export.program_source import export_saved_program

        return export_saved_program(request, out_dir)
    from builder.export.torch_source import export_callable

    return export_callable(request, out_dir)


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


def _enter_search_path(search_path: Path) -> None:
    # `-m` put the package's own root first; the source must see its own directory there instead.
    if sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
        del sys.path[0]
    sys.path.insert(0, str(search_path))
    os.chdir(search_path)


if __name__ == "__main__":
    main()
