"""CompileRequest → CompileResult, by a child process that cannot outlive this one and logs to a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tritonsmith.builder.actions.compile.compilers.tensorrt import require_tensorrt
from tritonsmith.builder.actions.compile.compilers.tensorrt_rtx import require_rtx
from tritonsmith.builder.actions.compile.request import CompileRequest, CompileResult
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.machine.releases import parser_opsets
from tritonsmith.builder.base.machine.toolchain import this_toolchain
from tritonsmith.builder.base.processes.child import ChildTask, run_child


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
    on_gpu = request.engine == "tensorrt"
    numbers: tuple[int, ...] = ()
    if on_gpu:
        numbers = tuple(gpu.index for gpu in require_tensorrt(request.compute_capability))
    else:
        require_rtx()
    refuse_opset(request, this_toolchain().fingerprint("tensorrt")["tensorrt"] if on_gpu else None)
    task = ChildTask(
        "tritonsmith.builder.actions.compile.worker",
        f"the compilation of {request.model}",
        "compile",
        gpus=numbers,
    )
    return CompileResult.from_dict(run_child(task, request.as_dict(), out_dir, log_path, timeout_s, stop))


def refuse_opset(request: CompileRequest, tensorrt: str | None = None) -> None:
    """SpecError for an opset outside the parser's; the parser itself takes any number without a word.

    tensorrt: the compiler's version, None for the newest known.
    """
    opsets = parser_opsets(tensorrt)
    if request.opset is not None and request.opset not in opsets:
        raise SpecError(
            f"{request.model}: TensorRT's ONNX parser does not know opset {request.opset}",
            code="opset_beyond_parser",
            seen=request.opset,
            valid=(f"{opsets.start}..{opsets.stop - 1}",),
            fix="opset: 20 in the spec",
        )
