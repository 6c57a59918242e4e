"""`tritonsmith doctor`: what this machine can do and what it lacks; with --gpu, what its GPU really does."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from tritonsmith.builder.commands.options import DEFAULT_SPEC, Format, FormatOption, SpecOption
from tritonsmith.perf.commands.flattened import flag, flattened


@flattened
def doctor(
    spec: SpecOption = DEFAULT_SPEC,
    gpu: bool = flag(False, "Run every step that needs a GPU, ten minutes at most, no network.", "--gpu"),
    device: Literal["gpu", "cpu"] = flag("gpu", "With --gpu: cpu runs the steps that can do without one."),
    step: list[str] | None = flag(None, "With --gpu: only this step; may be repeated.", metavar="NAME"),
    output: Path = flag(
        Path("gpu-check.jsonl"), "With --gpu: the file with one JSON line a step.", "--output", "-o"
    ),
    budget: float = flag(570.0, "With --gpu: for all steps.", metavar="SECONDS", min=1, max=600),
    format: FormatOption = Format.text,
) -> None:
    """Say what this machine can do, what it lacks, and how to fix it.

    Exit code 3 when something is missing that building and serving on a CPU need; optional things never fail. With
    --gpu each step runs in a process of its own with its own time limit, none stops the rest: exit code 1 when one
    failed, 3 when the GPU or what a step needs is missing.

    Examples: tritonsmith doctor
              tritonsmith doctor --gpu --device cpu
              make gpu-check WHEELS=wheels
    """
    if gpu:
        from tritonsmith.perf.doctor.gpu_check.run import run_gpu_check

        raise typer.Exit(run_gpu_check(device, step or (), output, budget, format is Format.json))
    import os
    import sys
    from dataclasses import asdict

    from tritonsmith.builder.base.text.console import emit_json, emit_text, width_of
    from tritonsmith.perf.doctor.machine import Machine, checks, text_of

    found = checks(Machine(os.environ, spec))
    missing = [check.name for check in found if check.state == "missing"]
    if format is Format.json:
        emit_json({"checks": [asdict(check) for check in found], "missing": missing})
    else:
        emit_text(text_of(found, width_of(sys.stdout)))
    if missing:
        raise typer.Exit(3)
