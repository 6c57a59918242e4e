"""ConvertRequest → ConvertResult, GateRequest → GateResult: each in a child process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tritonsmith.builder.actions.accuracy.request import GateRequest, GateResult
from tritonsmith.builder.actions.convert.request import (
    ConvertRequest,
    ConvertResult,
)
from tritonsmith.builder.base.processes.child import WITH_ONNX, ChildTask, run_child

_WORKER = "tritonsmith.builder.actions.convert.worker"


def run_convert(
    request: ConvertRequest, out_dir: Path, log_path: Path, timeout_s: float | None = None
) -> ConvertResult:
    """Converts into out_dir, made when missing; existing model files there are replaced.

    Errors: as builder.actions.convert.convert.convert; convert_killed, convert_crashed, convert_timeout, disk_full.
    """
    task = ChildTask(
        _WORKER, f"the {request.precision} conversion of {request.model}", "convert", imports=WITH_ONNX
    )
    absolute = replace(
        request,
        source_onnx=str(Path(request.source_onnx).absolute()),
        held_out=request.held_out and str(Path(request.held_out).absolute()),
    )
    answer = run_child(task, {"convert": absolute.as_dict()}, out_dir, log_path, timeout_s)
    return ConvertResult.from_dict(answer)


def run_gate(
    request: GateRequest, scratch: Path, log_path: Path, timeout_s: float | None = None
) -> GateResult:
    """Judges a variant; a verdict of no does not raise, the caller decides on `result.passed`.

    scratch: a directory for files that nobody needs afterwards. Errors: as judge_variant; gate_killed,
    gate_crashed, gate_timeout, disk_full.
    """
    task = ChildTask(
        _WORKER, f"judging the {request.precision} variant of {request.model}", "gate", imports=WITH_ONNX
    )
    absolute = replace(
        request,
        source=str(Path(request.source).absolute()),
        candidate=str(Path(request.candidate).absolute()),
        samples=str(Path(request.samples).absolute()),
    )
    answer = run_child(task, {"gate": absolute.as_dict()}, scratch, log_path, timeout_s)
    return GateResult.from_dict(answer)
