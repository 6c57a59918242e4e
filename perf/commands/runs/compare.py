"""`tritonsmith compare`: two sweeps or two load tests → regression, improvement or no difference; a gate for CI."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tritonsmith.perf.commands.flattened import flag, flattened


@flattened
def compare(
    a: Annotated[
        Path,
        typer.Argument(metavar="RUN_A", help="Before: run directory of `sweep`, or a record file of `load`."),
    ],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", help="After: one of the same kind.")],
    arm: str = flag(
        "current", "Of sweeps: `current` config, `all` that both have, or one arm's label or id."
    ),
    gate: list[str] | None = flag(
        None,
        "Largest change allowed; may be repeated. Metrics: throughput, p50, p90, p95, p99, p99.9, failures.",
        metavar="METRIC<=N%",
    ),
    strict: bool = flag(False, "A gate that the intervals cannot decide fails, too.", "--strict"),
    format: Literal["text", "json", "md"] = flag("text", "How to write the result."),
) -> None:
    """Tell what changed between two runs, and whether a gate allows it.

    Each load point is compared by itself. A difference is called one when its 95 % interval excludes none (and, of
    sweeps, more than the identical A/A configs differed). Exit code 4 when a gate is violated with confidence: the
    whole interval lies beyond the limit. What the intervals cannot decide passes with a warning, and fails with
    --strict. Runs that did not measure the same (model, data, load, server, machine) are not comparable: their
    numbers stand beside each other, no change is told, and any gate exits with 4.

    Examples: tritonsmith compare before.npz after.npz --gate 'p99<=5%' --gate 'throughput>=-3%'
              tritonsmith compare sweep-main sweep-branch --format md
    """
    from tritonsmith.builder.base.text.console import (
        emit_document,
        emit_json,
        emit_text,
        note,
        tell_error,
        width_of,
    )
    from tritonsmith.perf.report.compare.gate import gate_from_text, judge, says_no
    from tritonsmith.perf.report.compare.sides import compared
    from tritonsmith.perf.report.compare.text import MEASURE_AGAIN, comparison_json, markdown_of, text_of

    gates = [gate_from_text(text) for text in gate or ()]
    comparison = compared(a, b, arm)
    judgements = judge(comparison, gates)
    no = says_no(judgements, strict)
    if format == "json":
        emit_json(comparison_json(comparison, judgements, strict, no))
    elif format == "md":
        emit_document(markdown_of(comparison, judgements))
    else:
        emit_text(text_of(comparison, judgements, width=width_of(sys.stdout)))
    if judgements and comparison.differences:
        tell_error(f"the gate cannot be told: the runs are not comparable; {MEASURE_AGAIN}")
        raise typer.Exit(4)
    undecided = sum(j.status == "open" for j in judgements)
    if no:
        tell_error("the gate says no")
        raise typer.Exit(4)
    if undecided:
        note(
            f"{undecided} of {len(judgements)} gates could not be decided; longer runs decide, --strict fails them"
        )
