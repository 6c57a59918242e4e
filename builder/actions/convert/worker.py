"""The child process of conversions and judgements: one request on standard input → one JSON answer on a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.processes.child_worker import Task, enter_search_path, serve


def main(task: Task | None = None) -> None:
    """Answers one request; arguments as builder.base.processes.child_worker.serve takes them."""
    serve(_handle, "converting", task)


def _handle(request: Mapping[str, Any], out_dir: Path) -> Mapping[str, object]:
    # The heavy imports come before the user's directory can shadow a name in them.
    import numpy  # noqa: F401
    import onnx  # noqa: F401
    import onnxruntime.quantization  # noqa: F401

    if "gate" in request:
        from tritonsmith.builder.actions.accuracy.gate import judge_variant
        from tritonsmith.builder.actions.accuracy.request import GateRequest

        judged = GateRequest.from_dict(request["gate"])
        enter_search_path(Path(judged.search_path))
        return judge_variant(judged, out_dir).as_dict()
    from tritonsmith.builder.actions.convert.convert import convert
    from tritonsmith.builder.actions.convert.request import ConvertRequest

    wanted = ConvertRequest.from_dict(request["convert"])
    if wanted.calibration is not None:
        enter_search_path(Path(wanted.calibration.search_path))
    return convert(wanted, out_dir).as_dict()


if __name__ == "__main__":
    main()
