"""One load test → its report."""

from __future__ import annotations

from pathlib import Path

from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.schedule import load_from_dict
from tritonsmith.perf.report import Report, csv_text, render
from tritonsmith.perf.report.load.view import csv_rows, load_view
from tritonsmith.perf.stats import Summary
from tritonsmith.perf.tokens.text import any_result_as_dict, text_of_any

HTML_TEMPLATE = "load_report.html.j2"
MARKDOWN_TEMPLATE = "load_report.md.j2"


def load_html_of(records: RequestRecords, summary: Summary, templates: Path | None = None) -> str:
    """One self-contained page, as of a sweep."""
    from markupsafe import Markup

    view = load_view(records, summary)
    view["charts"] = {name: None if svg is None else Markup(svg) for name, svg in view["charts"].items()}  # noqa: S704
    return render(HTML_TEMPLATE, view, templates)


def load_markdown_of(records: RequestRecords, summary: Summary, templates: Path | None = None) -> str:
    """A summary for a pull request's comment."""
    return render(MARKDOWN_TEMPLATE, load_view(records, summary), templates)


def load_report(result: LoadTestResult, templates: Path | None = None) -> Report:
    """A load test's report."""
    records, summary = result.records, result.summary
    return Report(
        html=lambda: load_html_of(records, summary, templates),
        md=lambda: load_markdown_of(records, summary, templates),
        csv=lambda: csv_text(("metric", "value", "low", "high", "unit"), csv_rows(records, summary)),
        text=lambda width: text_of_any(result, load_from_dict(records.header.load)),
        data=lambda: any_result_as_dict(result),
    )
