"""A graph → engines of TensorRT-RTX and TensorRT, loaded and served where what that needs is there; refusals with reasons."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.compile.profiles import OptimizationProfile, ShapeRange
from tritonsmith.builder.actions.compile.request import CompileOptions, CompileRequest
from tritonsmith.builder.base.machine.cuda import gpus
from tritonsmith.perf.doctor.gpu_check.step import MissingError, Outcome, UnexpectedError
from tritonsmith.perf.doctor.gpu_check.steps import models
from tritonsmith.perf.doctor.gpu_check.steps.serving import answer_of, check_answer, reference
from tritonsmith.perf.server.launch import Server, ServerSpec, launch

# TensorRT-RTX documentation, Support Matrix of 1.5, "GPU Architecture and Precision Support". Hopper (9.0) is not in it.
RTX_CAPABILITIES = ("7.5", "8.6", "8.9", "12.0", "12.1")
BINARY, IMAGE = "TRITONSERVER", "TRITON_IMAGE"
_BINARY_IN_IMAGE = "/opt/tritonserver/bin/tritonserver"
MODEL = "plans"
_BATCHES = (1, 4, 5, 32)
_PROFILES = ((1, 1, 4), (5, 16, 32))
"""(min, opt, max) rows of the two optimization profiles; no batch fits both."""


def rtx(device: str, work: Path, argument: str) -> dict[str, Any] | Outcome:
    """Without a GPU: the graph parses and lowers for any. With one outside the matrix: refused, and that is right."""
    capability = None
    if device == "gpu":
        found, why = gpus()
        if not found:
            raise MissingError(why)
        capability = found[0].compute_capability
        if (reason := rtx_refusal(capability)) is not None:
            return Outcome("refused", reason, {"compute_capability": capability})
    from tritonsmith.builder.actions.compile.compilers.tensorrt_rtx import compile_tensorrt_rtx

    onnx = models.perceptron(work / "perceptron.onnx")
    request = CompileRequest(
        "perceptron", "tensorrt_rtx", str(onnx), _profiles(), compute_capability=capability
    )
    work.joinpath("rtx").mkdir()
    result = compile_tensorrt_rtx(request, work / "rtx", lambda: False)
    return {"compute_capability": capability, "result": result.as_dict()}


def rtx_refusal(capability: str) -> str | None:
    """Why TensorRT-RTX does not serve this GPU; None where it does."""
    if capability in RTX_CAPABILITIES:
        return None
    valid = ", ".join(RTX_CAPABILITIES)
    return f"TensorRT-RTX's support matrix has no compute capability {capability} (it has {valid})"


def tensorrt(device: str, work: Path, argument: str) -> dict[str, Any]:
    """Engines as built and version compatible, each served by the embedded tensorrt backend on both profiles."""
    return {
        name: _served(
            _plan(work / name, CompileOptions(version_compatible=compatible)), work / name, compatible
        )
        for name, compatible in (("plain", False), ("version_compatible", True))
    }


def triton(device: str, work: Path, argument: str) -> dict[str, Any]:
    """The same on a real Triton ($TRITONSERVER, $TRITON_IMAGE with Docker), whose log says which profile ran."""
    kind, where = real_triton(os.environ.get(BINARY), os.environ.get(IMAGE))
    repository = _plan(work, CompileOptions())
    spec = ServerSpec(
        kind=kind,
        reference=where,
        repositories=(repository,),
        extra_args=("--log-verbose=1",),
        gpus=True,
        startup_timeout_s=90,
        log_path=work / "tritonserver.log",
    )
    with launch(spec) as server:
        facts = {"triton": server.version, **_answers(server, work)}
    log = (work / "tritonserver.log").read_text(errors="replace")
    chosen = profile_lines(log)
    if not chosen:
        raise UnexpectedError("Triton's log names no optimization profile", **facts)
    return {**facts, "profiles": chosen[:10]}


def real_triton(binary: str | None, image: str | None) -> tuple[str, str]:
    """(launch kind, its reference); MissingError says how one is named."""
    if found := next((p for p in (binary, _BINARY_IN_IMAGE) if p and Path(p).is_file()), None):
        return "binary", found
    if image and shutil.which("docker"):
        return "docker", image
    raise MissingError(
        f"no real Triton: name a binary in {BINARY}, or an image of this machine's Docker in {IMAGE}"
    )


def profile_lines(log: str) -> list[str]:
    """What Triton's tensorrt backend says of optimization profiles with --log-verbose=1, without time and place."""
    return list(
        dict.fromkeys(
            line.partition("] ")[2].strip('" ') for line in log.splitlines() if "ptimization profile" in line
        )
    )


def _plan(work: Path, options: CompileOptions) -> Path:
    """A repository with one plan for this GPU, named by cc_model_filenames, and both profiles."""
    from tritonsmith.builder.actions.compile.compilers.tensorrt import (
        PLAN,
        compile_tensorrt,
        import_tensorrt,
        require_tensorrt,
    )
    from tritonsmith.builder.base.errors import ToolError

    try:
        gpu = require_tensorrt()[0]
        import_tensorrt()
    except ToolError as error:
        raise MissingError(f"{error.message}; wheel tensorrt") from None
    work.mkdir(exist_ok=True)
    onnx = models.perceptron(work / "perceptron.onnx")
    (work / "plan").mkdir()
    compile_tensorrt(
        CompileRequest(MODEL, "tensorrt", str(onnx), _profiles(), options), work / "plan", lambda: False
    )
    version = work / "repository" / MODEL / "1"
    version.mkdir(parents=True)
    name = f"model_sm{gpu.compute_capability.replace('.', '')}.plan"
    shutil.copyfile(work / "plan" / PLAN, version / name)
    (version.parent / "config.pbtxt").write_text(
        f'name: "{MODEL}"\nbackend: "tensorrt"\nplatform: "tensorrt_plan"\nmax_batch_size: 32\n'
        f'input {{ name: "x" data_type: TYPE_FP32 dims: [{models.WIDTH}] }}\n'
        f'output {{ name: "y" data_type: TYPE_FP32 dims: [{models.WIDTH}] }}\n'
        f'instance_group {{ kind: KIND_GPU count: 1 profile: ["0", "1"] }}\n'
        f'cc_model_filenames {{ key: "{gpu.compute_capability}" value: "{name}" }}\n'
    )
    return work / "repository"


def _profiles() -> tuple[OptimizationProfile, ...]:
    return tuple(
        OptimizationProfile(
            {"x": ShapeRange((low, models.WIDTH), (best, models.WIDTH), (high, models.WIDTH))}
        )
        for low, best, high in _PROFILES
    )


def _served(repository: Path, work: Path, version_compatible: bool) -> dict[str, Any]:
    flag = ("--backend-config=tensorrt,version-compatible=true",) if version_compatible else ()
    spec = ServerSpec(repositories=(repository,), extra_args=flag, log_path=work / "tritonserver.log")
    with launch(spec) as server:
        return {"triton": server.version, **_answers(server, work)}


def _answers(server: Server, work: Path) -> dict[str, Any]:
    """{rows: relative L2} of batches that one profile or the other takes."""
    if refused := server.refusals():
        raise UnexpectedError(f"the plan was refused: {refused}")
    distances = {}
    for count in _BATCHES:
        x = models.rows((count, models.WIDTH))
        distances[str(count)] = check_answer(
            answer_of(server, MODEL, x), reference(work / "perceptron.onnx", x)
        )
    return {"relative_l2 by rows": distances}
