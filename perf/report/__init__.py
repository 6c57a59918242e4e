"""RunResult → report.html, report.md, report.json and report.csv in the run's directory."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import Where
from tritonsmith.builder.base.files.disk import delete_written, write_atomically
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.sweep.run_record import RunResult, load_run, write_json

TEMPLATE = "report.html.j2"
CONFIG = "config.pbtxt"
MEMBERS = "members.csv"
MARKDOWN_TEMPLATE = "report.md.j2"

__all__ = [
    "Report",
    "ReportFiles",
    "csv_of",
    "csv_text",
    "html_of",
    "load_run",
    "markdown_of",
    "render",
    "report_json",
    "report_of",
    "text_of",
    "write_report",
]


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report was written. config: the winner's config.pbtxt, of a sweep that has one. members: what each model of an
    ensemble did, of a sweep of one."""

    html: Path
    md: Path
    json: Path
    csv: Path
    config: Path | None = None
    members: Path | None = None

    def names(self) -> list[str]:
        """As the JSON output lists them."""
        paths = (self.html, self.md, self.json, self.csv, self.config, self.members)
        return [str(path) for path in paths if path is not None]


@dataclass(frozen=True, slots=True)
class Report:
    """One report in each form, made when it is asked for. data: of report.json."""

    html: Callable[[], str]
    md: Callable[[], str]
    csv: Callable[[], str]
    text: Callable[[int | None], str]
    data: Callable[[], dict[str, Any]]

    def write(self, directory: Path) -> ReportFiles:
        """The files, each whole or not at all."""
        directory.mkdir(parents=True, exist_ok=True)
        html, md, json, csv = (directory / f"report.{ending}" for ending in ("html", "md", "json", "csv"))
        write_atomically(html, self.html())
        write_atomically(md, self.md())
        write_json(json, self.data())
        write_atomically(csv, self.csv())
        return ReportFiles(html, md, json, csv)


def report_of(run: RunResult, templates: Path | None = None) -> Report:
    """A sweep's report. templates: a directory that may override report.*.j2."""
    return Report(
        html=lambda: html_of(run, templates),
        md=lambda: markdown_of(run, templates),
        csv=lambda: csv_of(run),
        text=lambda width: text_of(run, width),
        data=lambda: report_json(run),
    )


def write_report(run: RunResult, directory: Path, templates: Path | None = None) -> ReportFiles:
    """The sweep's report as files, and the winner's config.pbtxt where there is one."""
    from tritonsmith.perf.report.page.members import FIELDS, member_rows
    from tritonsmith.perf.report.winner_pbtxt import winner_pbtxt

    directory.mkdir(parents=True, exist_ok=True)
    members = member_rows(run)
    more = {
        CONFIG: winner_pbtxt(run),
        MEMBERS: csv_text(FIELDS, members) if members else None,
    }
    written = {}
    for name, text in more.items():
        if text is not None:
            written[name] = directory / name
            write_atomically(directory / name, text)
        elif run.directory == directory:
            delete_written(directory / name)  # of an earlier verdict
    files = report_of(run, templates).write(directory)
    return replace(files, config=written.get(CONFIG), members=written.get(MEMBERS))


def html_of(run: RunResult, templates: Path | None = None) -> str:
    """One self-contained page: styles and charts inline, nothing from the network, no script but that of the copy buttons."""
    from markupsafe import Markup

    from tritonsmith.perf.report.page.configs import details_of
    from tritonsmith.perf.report.view import view_of

    view = view_of(run)
    # Charts escape their own texts; everything else is escaped by Jinja.
    view["charts"] = {name: None if svg is None else Markup(svg) for name, svg in view["charts"].items()}  # noqa: S704
    view["cost_charts"] = [(cost, Markup(svg)) for cost, svg in view["cost_charts"]]  # noqa: S704
    view["legend"] = [(Markup(key), *others) for key, *others in view["legend"]]  # noqa: S704
    view["configs"] = [
        {
            "label": config.label,
            "legend": [(Markup(key), label) for key, label in config.legend],  # noqa: S704
            "charts": [(heading, Markup(svg)) for heading, svg in config.charts],  # noqa: S704
        }
        for config in details_of(run)
    ]
    return render(TEMPLATE, view, templates)


def markdown_of(run: RunResult, templates: Path | None = None) -> str:
    """A summary for a pull request's comment: verdict, a small table, details folded away."""
    from tritonsmith.perf.report.view import view_of

    return render(MARKDOWN_TEMPLATE, view_of(run), templates)


def render(name: str, view: Mapping[str, Any], templates: Path | None) -> str:
    """A report template over its variables; HTML escapes what it prints, and control characters are shown as such.

    ConfigError names the template's line.
    """
    from jinja2 import TemplateError

    from tritonsmith.builder.base.errors import ConfigError
    from tritonsmith.builder.base.text.markdown import cell, fenced
    from tritonsmith.builder.base.text.shown import visible
    from tritonsmith.builder.model_config.templates import environment, template_path

    html = name.endswith(".html.j2")
    jinja = environment(templates, autoescape=html)
    jinja.trim_blocks = not html
    jinja.filters |= {"cell": cell, "fenced": fenced, "sha256": _sha256}
    try:
        return visible(jinja.get_template(name).render(view))
    except TemplateError as error:
        raise ConfigError(
            f"the report's template failed: {error}",
            code="template_failed",
            where=Where(template_path(name, templates), getattr(error, "lineno", None)),
        ) from None


def _sha256(text: str) -> str:
    """As a Content-Security-Policy names a script that may run."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def report_json(run: RunResult) -> dict[str, Any]:
    """The verdict and every cell; the run's own run.json has the trials behind them."""
    from tritonsmith.perf.report.columns import cells_of
    from tritonsmith.perf.report.page.members import held_up_by, member_rows
    from tritonsmith.perf.report.page.next_step import next_steps
    from tritonsmith.perf.report.page.why import what_next, why_winner
    from tritonsmith.perf.report.view import all_settings, csv_rows

    cells, members = cells_of(run), member_rows(run)
    return {
        "format": "tritonsmith.report/1",
        "model": run.spec.model,
        "verdict": json_of(run.verdict),
        "why": why_winner(run, cells),
        "next": what_next(run, cells),
        "steps": [{"text": step.text, "command": step.command or None} for step in next_steps(run)],
        "complete": run.complete,
        "stop_reason": run.stop_reason,
        "notes": list(run.notes),
        "wall_s": round(run.wall_s, 3),
        "environment": dict(run.environment),
        "arms": [
            {"id": a.id, "label": a.label, "variant": a.variant, "settings": all_settings(a)}
            for a in run.arms
        ],
        "points": csv_rows(run),
        **({"held_up": held_up_by(run), "members": members} if members else {}),
    }


def text_of(run: RunResult, width: int | None = None) -> str:
    """The verdict and a small table. width: of the terminal; None where there is none."""
    from tritonsmith.perf.report.columns import cells_of
    from tritonsmith.perf.report.page.members import held_up_by
    from tritonsmith.perf.report.page.why import what_next, why_winner
    from tritonsmith.perf.report.text_table import text_table
    from tritonsmith.perf.report.view import alarms

    measured = cells_of(run)
    reasons = [
        text for text in (why_winner(run, measured), what_next(run, measured), held_up_by(run)) if text
    ]
    lines = [f"! {alarm}" for alarm in alarms(run)]
    lines += [run.verdict.sentence, *reasons, *run.verdict.notes, ""]
    lines += text_table(run, width)
    return "\n".join(line.rstrip() for line in lines)


def csv_of(run: RunResult) -> str:
    """A header and one row an arm and load point."""
    from tritonsmith.perf.report.columns import columns_in
    from tritonsmith.perf.report.view import csv_rows

    names = [name for column in columns_in("csv", run) for name in column.fields()]
    return csv_text(names, csv_rows(run))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A header and the rows; control characters are shown as such."""
    from tritonsmith.builder.base.text.shown import visible

    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return visible(text.getvalue())
