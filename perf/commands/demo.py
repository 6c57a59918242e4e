"""`tritonsmith demo`: the main job from nothing, on three real models."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tritonsmith.builder.base.text.console import emit_json, emit_text, is_drawable, note
from tritonsmith.builder.commands.options import Format, FormatOption
from tritonsmith.perf.commands.flattened import flag, flattened

if TYPE_CHECKING:
    from tritonsmith.perf.demo.run import DemoResult


@flattened
def demo(
    repository: Path = flag(
        Path("model_repository"), "Where the repository is laid out.", "--repository", "-r"
    ),
    output: Path = flag(Path("demo-report"), "Where the report is written.", "--output", "-o", metavar="DIR"),
    sweep_model: str = flag("crepe", "The model whose settings are swept."),
    rounds: int = flag(4, "Rounds of the sweep.", min=1),
    duration: float = flag(0.8, "Seconds of each measurement.", min=0.05),
    spec: Path | None = flag(None, "Another spec than the demo's own.", "--spec", "-f"),
    format: FormatOption = Format.text,
) -> None:
    """Build, serve, check and sweep three real models, and write a report.

    Examples: tritonsmith demo
              tritonsmith demo --sweep-model minilm --output report
    """
    from tritonsmith.builder.base.text.progress import bars, drawn
    from tritonsmith.builder.commands.options import build_options
    from tritonsmith.perf.demo.run import (
        STEPS,
        DemoOptions,
        check_installed,
        default_sweep,
        packaged_demo,
        run_demo,
    )

    if spec is None:
        check_installed(packaged_demo())
    source = spec or packaged_demo() / "models.yaml"
    sweep = default_sweep(sweep_model).model_copy(update={"rounds": rounds, "duration_s": duration})
    options = DemoOptions(build_options(source, repository, None), repository.absolute(), output, sweep)
    told: list[str] = []
    started = time.monotonic()
    is_drawn = is_drawable(sys.stderr)
    bar = bars()
    tasks = {
        step: bar.add_task(step, total=1.0, start=False, share=True, alike=step == "sweep") for step in STEPS
    }
    with drawn(bar) if is_drawn else nullcontext():

        def tell(step: str, what: str, part: float) -> None:
            if step not in told:
                for earlier in told:
                    bar.update(tasks[earlier], completed=1.0, description=earlier)
                bar.start_task(tasks[step])
                told.append(step)
                if not is_drawn:
                    note(f"[{STEPS.index(step) + 1}/{len(STEPS)}] {step}")
            bar.update(tasks[step], completed=part, description=f"{step:<8} {what}")

        result = run_demo(options, tell)
    seconds = time.monotonic() - started
    emit_json(as_json(result, seconds)) if format is Format.json else emit_text(text_of_demo(result, seconds))


def text_of_demo(result: DemoResult, seconds: float) -> str:
    """The closing lines: built, deviation, what the sweep found, report."""
    warnings = sum(f.severity == "warning" for f in result.findings)
    checks = "\n".join(
        f"           {c.model}: {c.requests} answers at batch {', '.join(map(str, c.batch_sizes))}, "
        f"largest deviation {c.relative_l2:.1e}"
        for c in result.checks
    )
    models = ", ".join(f"{o.model} ({o.action})" for o in result.built.outcomes)
    return "\n".join(
        [
            f"built      {models} → {result.built.repository}",
            f"check      0 errors, {warnings} warning{'s' if warnings != 1 else ''}",
            f"served     tritonserver {result.server_version}; answers over HTTP and gRPC held against the sources:",
            checks,
            f"deviation  {result.worst.relative_l2:.1e} relative L2 at most ({result.worst.model})",
            f"sweep      {result.run.verdict.sentence}",
            f"report     {result.report.html}   (all of it took {seconds:.0f} s)",
        ]
    )


def as_json(result: DemoResult, seconds: float) -> dict[str, object]:
    """The whole result as one JSON object."""
    from tritonsmith.builder.build.text import as_json as build_json
    from tritonsmith.perf.records.typed import json_of

    return {
        "build": build_json(result.built),
        "findings": len(result.findings),
        "server_version": result.server_version,
        "answers": [
            {
                "model": c.model,
                "requests": c.requests,
                "batch_sizes": list(c.batch_sizes),
                "relative_l2": c.relative_l2,
                "report": c.report.as_dict(),
            }
            for c in result.checks
        ],
        "verdict": json_of(result.run.verdict),
        "report": {
            "html": str(result.report.html),
            "json": str(result.report.json),
            "csv": str(result.report.csv),
        },
        "seconds": round(seconds, 1),
    }
