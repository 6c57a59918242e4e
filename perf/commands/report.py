"""`tritonsmith report`: a run directory, or a record file of one load test → the same report again."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer


class ReportFormat(str, Enum):
    """How the result is written on stdout."""

    text = "text"
    json = "json"


def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Run directory of `sweep`, or a record file of `load`.", show_default=False
        ),
    ],
    output: Annotated[
        Optional[Path],  # noqa: UP045 - Typer reads the annotation at run time on Python 3.10
        typer.Option("--output", "-o", help="Where the files go; default: the run directory."),
    ] = None,
    templates: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A directory with a report.html.j2 of your own.", show_default=False),
    ] = None,
    format: Annotated[ReportFormat, typer.Option(help="How to write the result.")] = ReportFormat.text,
) -> None:
    """Make report.html, .json and .csv again from what a sweep kept, also of one that was cut short.

    Examples: tritonsmith report sweep-minilm
              tritonsmith report load.npz --format json
    """
    from builder.console import emit_json, emit_text, note
    from builder.templates import check_user_directory
    from perf.report import load_run, report_json, text_of, write_report

    check_user_directory(templates)
    if run.suffix == ".npz":
        _report_records(run, format)
        return
    result = load_run(run)
    files = write_report(result, output or run, templates)
    if format is ReportFormat.json:
        emit_json(report_json(result) | {"files": files.names()})
    else:
        emit_text(text_of(result))
    note(f"report: {files.html}")


def _report_records(path: Path, format: ReportFormat) -> None:
    from builder.console import emit_json, emit_text
    from perf.load import LoadTestResult
    from perf.load_text import result_as_dict, text_of_result
    from perf.record import load_records
    from perf.schedule import load_from_dict
    from perf.stats import summarise

    records = load_records(path)
    result = LoadTestResult(records, summarise(records), None, "a record file holds the client's side only")
    if format is ReportFormat.json:
        emit_json(result_as_dict(result))
    else:
        emit_text(text_of_result(result, load_from_dict(records.header.load)))
