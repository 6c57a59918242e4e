"""`tritonsmith report`: a run directory, or a record file of one load test → the same report again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tritonsmith.perf.commands.flattened import flag, flattened
from tritonsmith.perf.commands.sweep.watch import WatchFlags, watch_run

if TYPE_CHECKING:
    from tritonsmith.perf.report import Report, ReportFiles


@flattened
def report(
    *,
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run directory of `sweep`, or a record file of `load`.")
    ],
    output: Path | None = flag(
        None,
        "Directory of the files.  [default: the run directory; of a record file none are written]",
        "--output",
        "-o",
        metavar="DIR",
    ),
    templates: Path | None = flag(
        None, "A directory with a report.html.j2 or report.md.j2 (load_report.… for records) of your own."
    ),
    mlflow: bool = flag(False, "Log it to MLflow, too (MLFLOW_TRACKING_URI says where).", "--mlflow"),
    watch: WatchFlags,
    format: Literal["text", "json", "html", "md", "csv"] = flag("text", "How to write the result."),
) -> None:
    """Write the report of a sweep or of a load test again.

    Of a sweep, also one that was cut short: report.html, .md, .json and .csv. report.md is made for a pull request's
    comment. Of a record file the report goes to stdout, and with --output to files. With --watch a run that is under way
    is shown on a page of this machine until it ends.

    Examples: tritonsmith report sweep-minilm
              tritonsmith report sweep-minilm --watch
              tritonsmith report load.npz --format html > load.html
    """
    from tritonsmith.builder.model_config.templates import check_user_directory

    check_user_directory(templates)
    if mlflow:
        from tritonsmith.perf.report.mlflow_export import mlflow_module

        mlflow_module()  # before anything is written
    if run.is_file() or run.suffix == ".npz":
        _report_records(run, output, templates, mlflow, format)
    else:
        if watch.is_asked:
            watch_run(run, watch.watch_port)
        _report_run(run, output or run, templates, mlflow, format)


def _report_run(run: Path, output: Path, templates: Path | None, mlflow: bool, format_: str) -> None:
    from tritonsmith.builder.base.text.console import note
    from tritonsmith.perf.report import load_run, report_of, write_report

    result = load_run(run)
    files = write_report(result, output, templates)
    _emit(report_of(result, templates), format_, files)
    if mlflow:
        from tritonsmith.perf.report.mlflow_export import export_sweep

        note(f"MLflow run: {export_sweep(result, files)}")


def _report_records(
    path: Path, output: Path | None, templates: Path | None, mlflow: bool, format_: str
) -> None:
    import tempfile

    from tritonsmith.builder.base.text.console import note
    from tritonsmith.perf.load.result import result_from_records
    from tritonsmith.perf.records.record import load_records
    from tritonsmith.perf.records.schedule import load_from_dict, load_label
    from tritonsmith.perf.report.load.report import load_report

    result = result_from_records(load_records(path))
    report, header, summary = load_report(result, templates), result.records.header, result.summary
    files = None if output is None else report.write(output)
    _emit(report, format_, files)
    if mlflow:
        from tritonsmith.perf.report.load.view import rows_of
        from tritonsmith.perf.report.mlflow_export import export_load

        with tempfile.TemporaryDirectory(prefix="tritonsmith-report-") as directory:
            files = files or report.write(Path(directory))
            label, verdict = load_label(load_from_dict(header.load)), summary.validity.verdict.value
            run_id = export_load(header.model, label, rows_of(summary, result.records), verdict, files)
        note(f"MLflow run: {run_id}")


def _emit(report: Report, format_: str, files: ReportFiles | None) -> None:
    from tritonsmith.builder.base.text.console import emit_document, emit_json, emit_text, note, width_of

    if format_ == "json":
        emit_json(report.data() if files is None else report.data() | {"files": files.names()})
    elif format_ == "text":
        emit_text(report.text(width_of(sys.stdout)).rstrip("\n"))
    else:
        emit_document({"html": report.html, "md": report.md, "csv": report.csv}[format_]().rstrip("\n"))
    if files is not None:
        note(f"report: {files.html}")
