"""RequestRecords of one load test → its report as HTML, Markdown, CSV, and as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.report import ReportFiles, render, write_text
from tritonsmith.perf.stats import Summary
from tritonsmith.perf.sweep.run_record import write_json

HTML_TEMPLATE = "load_report.html.j2"
MARKDOWN_TEMPLATE = "load_report.md.j2"


def load_html_of(records: RequestRecords, summary: Summary, templates: Path | None = None) -> str:
    """One self-contained page, as of a sweep."""
    from markupsafe import Markup

    from tritonsmith.perf.report.load.view import load_view

    view = load_view(records, summary)
    view["charts"] = {name: None if svg is None else Markup(svg) for name, svg in view["charts"].items()}  # noqa: S704
    return render(HTML_TEMPLATE, view, templates)


def load_markdown_of(records: RequestRecords, summary: Summary, templates: Path | None = None) -> str:
    """A summary for a pull request's comment."""
    from tritonsmith.perf.report.load.view import load_view

    return render(MARKDOWN_TEMPLATE, load_view(records, summary), templates)


def load_csv_of(summary: Summary) -> str:
    """A row an estimate: metric, value, low, high, unit."""
    from tritonsmith.perf.report.load.view import csv_rows

    text = io.StringIO()
    writer = csv.DictWriter(text, ("metric", "value", "low", "high", "unit"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows(summary))
    return text.getvalue()


def write_load_report(
    records: RequestRecords,
    summary: Summary,
    data: Mapping[str, Any],
    directory: Path,
    templates: Path | None = None,
) -> ReportFiles:
    """The files, each whole or not at all; data goes to report.json."""
    directory.mkdir(parents=True, exist_ok=True)
    files = ReportFiles(*(directory / f"report.{ending}" for ending in ("html", "md", "json", "csv")))
    write_text(files.html, load_html_of(records, summary, templates))
    write_text(files.md, load_markdown_of(records, summary, templates))
    write_json(files.json, data)
    write_text(files.csv, load_csv_of(summary))
    return files
