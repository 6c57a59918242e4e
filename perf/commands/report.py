"""`tritonsmith report`: a run directory, or a record file of one load test → the same report again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tritonsmith.perf.commands.flattened import flattened

if TYPE_CHECKING:
    from tritonsmith.perf.report import ReportFiles


@flattened
def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run directory of `sweep`, or a record file of `load`.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Directory of the files; default: the run directory; of a record file none are written.",
        ),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            help="A directory with a report.html.j2 or report.md.j2 (load_report.… for records) of your own."
        ),
    ] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Log it to MLflow, too (MLFLOW_TRACKING_URI says where).")
    ] = False,
    format: Annotated[
        Literal["text", "json", "html", "md", "csv"], typer.Option(help="How to write the result.")
    ] = "text",
) -> None:
    """Make report.html, .md, .json and .csv again from what a sweep kept, also of one that was cut short.

    report.md is made for a pull request's comment. Of a record file the report goes to stdout, and with
    --output to files.

    Examples: tritonsmith report sweep-minilm
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
        _report_run(run, output or run, templates, mlflow, format)


def _report_run(run: Path, output: Path, templates: Path | None, mlflow: bool, format_: str) -> None:
    from tritonsmith.builder.base.text.console import note, width_of
    from tritonsmith.perf.report import (
        csv_of,
        html_of,
        load_run,
        markdown_of,
        report_json,
        text_of,
        write_report,
    )

    result = load_run(run)
    files = write_report(result, output, templates)
    if format_ == "json":
        _emit_json(report_json(result), files)
    else:
        makers = {
            "html": lambda: html_of(result, templates),
            "md": lambda: markdown_of(result, templates),
            "csv": lambda: csv_of(result),
            "text": lambda: text_of(result, width_of(sys.stdout)),
        }
        _emit(makers[format_](), format_)
    note(f"report: {files.html}")
    if mlflow:
        from tritonsmith.perf.report.mlflow_export import export_sweep

        note(f"MLflow run: {export_sweep(result, files)}")


def _report_records(
    path: Path, output: Path | None, templates: Path | None, mlflow: bool, format_: str
) -> None:
    import tempfile

    from tritonsmith.builder.base.text.console import note
    from tritonsmith.perf.load.result import result_from_records
    from tritonsmith.perf.load.text import result_as_dict, text_of_result
    from tritonsmith.perf.records.record import load_records
    from tritonsmith.perf.records.schedule import load_from_dict, load_label
    from tritonsmith.perf.report.load.report import (
        load_csv_of,
        load_html_of,
        load_markdown_of,
        write_load_report,
    )

    records = load_records(path)
    result = result_from_records(records)
    summary = result.summary
    load = load_from_dict(records.header.load)
    files = None
    if output is not None:
        files = write_load_report(records, summary, result_as_dict(result), output, templates)
    if format_ == "json":
        _emit_json(result_as_dict(result), files)
    else:
        makers = {
            "html": lambda: load_html_of(records, summary, templates),
            "md": lambda: load_markdown_of(records, summary, templates),
            "csv": lambda: load_csv_of(summary),
            "text": lambda: text_of_result(result, load),
        }
        _emit(makers[format_](), format_)
    if files is not None:
        note(f"report: {files.html}")
    if mlflow:
        from tritonsmith.perf.report.load.view import rows_of
        from tritonsmith.perf.report.mlflow_export import export_load

        with tempfile.TemporaryDirectory(prefix="tritonsmith-report-") as directory:
            files = files or write_load_report(
                records, summary, result_as_dict(result), Path(directory), templates
            )
            verdict = summary.validity.verdict.value
            run_id = export_load(records.header.model, load_label(load), rows_of(summary), verdict, files)
        note(f"MLflow run: {run_id}")


def _emit(text: str, format_: str) -> None:
    from tritonsmith.builder.base.text.console import emit_document, emit_text

    emit = emit_text if format_ == "text" else emit_document
    emit(text.rstrip("\n"))


def _emit_json(data: dict[str, object], files: ReportFiles | None) -> None:
    from tritonsmith.builder.base.text.console import emit_json

    emit_json(data if files is None else data | {"files": files.names()})
