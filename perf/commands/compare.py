"""`tritonsmith compare`: two sweeps or two load tests → regression, improvement or no difference; a gate for CI."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tritonsmith.perf.commands.flattened import flag, flattened

if TYPE_CHECKING:
    from tritonsmith.perf.report.compare.compare import Comparison


@flattened
def compare(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="Before: a run directory of `sweep`, or a record file.")
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="After: one of the same kind.")],
    arm: str = flag(
        "current", "Of sweeps: `current` config, `all` that both have, or one arm's label or id."
    ),
    gate: list[str] | None = flag(
        None,
        "Largest change allowed; may be repeated. Metrics: throughput, p50, p90, p95, p99, p99.9, failures.",
        metavar="METRIC<=N%",
    ),
    strict: bool = flag(False, "A gate that the intervals cannot decide says no, too.", "--strict"),
    format: Literal["text", "json", "md"] = flag("text", "How to write the result."),
) -> None:
    """Tell what changed from A to B at each load point: regression, improvement, or no difference.

    A difference is called one when its 95 % interval excludes none (and, of sweeps, more than the identical
    A/A configs differed). Exit code 4 when a gate is violated with confidence: the whole interval lies beyond
    the limit. What the intervals cannot decide passes with a warning, and fails with --strict.

    Examples: tritonsmith compare before.npz after.npz --gate 'p99<=5%' --gate 'throughput>=-3%'
              tritonsmith compare sweep-main sweep-branch --format md
    """
    from tritonsmith.builder.base.text.console import emit_document, emit_json, emit_text, note, width_of
    from tritonsmith.perf.report.compare.gate import gate_from_text, judge, says_no
    from tritonsmith.perf.report.compare.text import comparison_json, markdown_of, text_of

    gates = [gate_from_text(text) for text in gate or ()]
    comparison = _compared(a, b, arm)
    judgements = judge(comparison, gates)
    no = says_no(judgements, strict)
    if format == "json":
        emit_json(comparison_json(comparison, judgements, strict, no))
    elif format == "md":
        emit_document(markdown_of(comparison, judgements))
    else:
        emit_text(text_of(comparison, judgements, width=width_of(sys.stdout)))
    undecided = sum(j.status == "open" for j in judgements)
    if no:
        note("the gate says no")
        raise typer.Exit(4)
    if undecided:
        note(
            f"{undecided} of {len(judgements)} gates could not be decided; longer runs decide, --strict fails them"
        )


def _compared(a: Path, b: Path, arm: str) -> Comparison:
    from tritonsmith.builder.base.errors import UsageError, Where
    from tritonsmith.perf.records.record import load_records
    from tritonsmith.perf.report.compare.compare import compare_records, compare_runs
    from tritonsmith.perf.sweep.run_record import load_run

    for path in (a, b):
        if not path.exists():
            raise UsageError("there is no such run or record file", code="no_run", where=Where(path))
    if a.is_dir() != b.is_dir():
        raise UsageError(
            "a sweep and a load test do not compare",
            code="two_kinds",
            seen=f"{a} {b}",
            valid=["two run directories", "two record files"],
        )
    if a.is_dir():
        return compare_runs(load_run(a), load_run(b), arm)
    return compare_records(load_records(a), load_records(b))
