"""CompileRequest → CompileResult, by a child process that cannot outlive this one and logs to a file."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from builder.child import ChildTask, run_child
from builder.compile.cuda import gpus
from builder.compile.request import CompileRequest, CompileResult, EngineKind, result_from_dict
from builder.compile.tensorrt import require_tensorrt
from builder.compile.tensorrt_rtx import require_rtx
from builder.errors import SpecError, Where
from builder.releases import parser_opsets

# The container's wheel, and the packages that the first is made of.
_TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


def run_compile(
    request: CompileRequest,
    out_dir: Path,
    log_path: Path,
    timeout_s: float | None = None,
    stop: Callable[[], bool] | None = None,
) -> CompileResult:
    """Compiles one graph into out_dir, made when missing; existing files of the same names are replaced.

    All that the compiler says goes to log_path. Raises ToolError (gpu_missing, tensorrt_missing,
    tensorrt_rtx_missing, …) before a child is started, SpecError (opset_beyond_parser, profile_…), BuildError
    (engine_parse, engine_empty, engine_workspace, engine_build, compile_cancelled, compile_timeout,
    compile_killed, compile_crashed, disk_full). `stop`, asked a few times a second, Ctrl-C and the timeout cancel the
    build at its next step; a build that does not heed this within two seconds is killed.
    """
    if request.engine == "tensorrt":
        require_tensorrt()
    else:
        require_rtx()
    version = compiler_fingerprint(request.engine)["version"]
    refuse_opset(request, version if request.engine == "tensorrt" else None)
    on_gpu = request.engine == "tensorrt"
    task = ChildTask("builder.compile.worker", f"the compilation of {request.model}", "compile", gpu=on_gpu)
    return result_from_dict(run_child(task, request.as_dict(), out_dir, log_path, timeout_s, stop))


def compiler_fingerprint(engine: EngineKind) -> dict[str, str | None]:
    """What compiles here, without loading it: {version, gpu, compute_capability}; None for what is missing.

    Part of an engine's action key, and what `PlannedModel` is told about the machine that builds.
    """
    if engine == "tensorrt_rtx":
        return {"version": _version("tensorrt-rtx"), "gpu": None, "compute_capability": None}
    found, _ = gpus()
    first = found[0] if found else None
    return {
        "version": next(filter(None, map(_version, _TENSORRT_PACKAGES)), None),
        "gpu": None if first is None else first.name,
        "compute_capability": None if first is None else first.compute_capability,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def refuse_opset(request: CompileRequest, tensorrt: str | None = None) -> None:
    """SpecError for an opset outside the parser's; the parser itself takes any number without a word.

    tensorrt: the compiler's version, None for the newest known.
    """
    opsets = parser_opsets(tensorrt)
    if request.opset is not None and request.opset not in opsets:
        raise SpecError(
            f"{request.model}: TensorRT's ONNX parser does not know opset {request.opset}",
            code="opset_beyond_parser",
            where=Where(Path(request.onnx)),
            seen=request.opset,
            valid=(f"{opsets.start}..{opsets.stop - 1}",),
            fix="opset: 20 in the spec",
        )
