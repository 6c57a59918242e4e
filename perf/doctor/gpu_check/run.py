"""The command line's choice of steps → one JSON line each, in a file and as asked on stdout, a summary, the exit code."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError, UsageError
from tritonsmith.builder.base.machine.cuda import gpus
from tritonsmith.builder.base.text.console import emit_document, emit_text, note, width_of
from tritonsmith.builder.base.text.text_layout import table
from tritonsmith.perf.doctor.gpu_check import wheels
from tritonsmith.perf.doctor.gpu_check.runner import run_steps
from tritonsmith.perf.doctor.gpu_check.step import Device, Line, Step
from tritonsmith.perf.doctor.gpu_check.table import STEPS
from tritonsmith.perf.server.environment import environment


def run_gpu_check(device: Device, only: Sequence[str], output: Path, budget_s: float, as_json: bool) -> int:
    """Runs the steps and says what they found. ToolError `gpu_missing` at once where there is no GPU to run them on."""
    steps = chosen(device, only)
    if device == "gpu":
        _require_gpu()
    for lacking in wheels.lacking(device == "gpu"):
        note(f"not installed: {lacking.requirement} ({lacking.why}); {wheels.HOW}")
    if environment.ready() is None:
        note(
            f"not made: the embedded server; bring the wheels of {environment.LOCKED}: make gpu-check WHEELS=DIR"
        )
    lines: list[Line] = []
    with (
        tempfile.TemporaryDirectory(prefix="tritonsmith-gpu-check-") as work,
        output.open("w", encoding="utf-8") as record,
    ):
        for line in run_steps(steps, device, Path(work), budget_s):
            text = json.dumps(line.as_dict())
            record.write(text + "\n")
            record.flush()
            if as_json:
                emit_document(text)
            else:
                note(f"{line.outcome.status:8} {line.step} ({line.seconds:.1f} s)")
            lines.append(line)
    if not as_json:
        emit_text(text_of(lines, width_of(sys.stdout)))
    note(f"one JSON line a step: {output}")
    return exit_code_of(lines)


def chosen(device: Device, only: Sequence[str]) -> tuple[Step, ...]:
    """The steps for this device, or those named; UsageError for a name that is none of them."""
    steps = {step.name: step for step in STEPS if device == "gpu" or step.cpu}
    for name in only:
        if name not in steps:
            raise UsageError("there is no such step", code="unknown_step", seen=name, valid=list(steps))
    return tuple(steps[name] for name in only) if only else tuple(steps.values())


def _require_gpu() -> None:
    found, why = gpus()
    if found:
        return
    missing = [f"{w.requirement}: {w.why}" for w in wheels.lacking(True)]
    raise ToolError(
        "the GPU check needs an NVIDIA GPU, and this machine has none",
        code="gpu_missing",
        seen=why,
        details=[f"also not installed: {line}" for line in missing],
        fix="run it on a machine with a GPU (make gpu-check WHEELS=DIR); the steps that can do without one: "
        "tritonsmith doctor --gpu --device cpu",
    )


def exit_code_of(lines: Sequence[Line]) -> int:
    """1 when a step failed, 3 when one lacked something, else 0: a refusal with its reason is a result."""
    found = {line.outcome.status for line in lines}
    return 1 if "failed" in found else 3 if "missing" in found else 0


def text_of(lines: Sequence[Line], width: int | None) -> str:
    """The table of steps, and how many ended how."""
    rows = [(line.step, line.outcome.status, f"{line.seconds:.1f} s", _told(line)) for line in lines]
    counts = ", ".join(
        f"{sum(line.outcome.status == status for line in lines)} {status}"
        for status in ("passed", "failed", "refused", "missing")
    )
    return "\n".join([*table(rows, width, right=(2,), text=3), counts])


def _told(line: Line) -> str:
    if line.outcome.why:
        return line.outcome.why.partition("\n")[0]
    return "; ".join(f"{k} {_short(v)}" for k, v in line.outcome.facts.items() if k != "log")[:300]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_short(v)}" for k, v in value.items()) + ")"
    return str(value)
