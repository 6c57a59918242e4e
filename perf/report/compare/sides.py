"""Two results, or the paths that they were kept at → Comparison; what does not compare is refused."""

from __future__ import annotations

from pathlib import Path

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.records.record import RequestRecords, load_records
from tritonsmith.perf.report.compare.compare import Comparison, compare_records, compare_runs
from tritonsmith.perf.sweep.run_record import RunResult, load_run

Side = Path | RunResult | LoadTestResult


def compared(a: Side, b: Side, arm: str = "current") -> Comparison:
    """What changed from A to B. A path is a run directory of a sweep, or the record file of a load test.

    arm: of sweeps, see perf.report.compare.compare.compare_runs. UsageError where there is no such run or arm, and where
    one side is a sweep and the other a load test.
    """
    sides = _opened(a), _opened(b)
    if isinstance(sides[0], RunResult) and isinstance(sides[1], RunResult):
        return compare_runs(sides[0], sides[1], arm)
    if isinstance(sides[0], RequestRecords) and isinstance(sides[1], RequestRecords):
        return compare_records(sides[0], sides[1])
    raise UsageError(
        "a sweep and a load test do not compare",
        code="two_kinds",
        seen=" ".join(_name(side) for side in (a, b)),
        valid=["two run directories", "two record files"],
    )


def _opened(side: Side) -> RunResult | RequestRecords:
    if isinstance(side, RunResult):
        return side
    if isinstance(side, LoadTestResult):
        return side.records
    if not side.exists():
        raise UsageError("there is no such run or record file", code="no_run", where=Where(side))
    return load_run(side) if side.is_dir() else load_records(side)


def _name(side: Side) -> str:
    return str(side) if isinstance(side, Path) else type(side).__name__
