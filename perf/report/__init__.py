"""RunResult → report.html, report.json and report.csv in the run's directory."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import Where
from perf.run_record import RunResult, load_run, write_json

TEMPLATE = "report.html.j2"

__all__ = ["ReportFiles", "html_of", "load_run", "report_json", "text_of", "write_report"]


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report was written."""

    html: Path
    json: Path
    csv: Path

    def names(self) -> list[str]:
        """As the JSON output lists them."""
        return [str(self.html), str(self.json), str(self.csv)]


def write_report(run: RunResult, directory: Path, templates: Path | None = None) -> ReportFiles:
    """The three files, each whole or not at all. templates: a directory that may override report.html.j2."""
    directory.mkdir(parents=True, exist_ok=True)
    files = ReportFiles(directory / "report.html", directory / "report.json", directory / "report.csv")
    _write(files.html, html_of(run, templates))
    write_json(files.json, report_json(run))
    _write(files.csv, _csv_of(run))
    return files


def html_of(run: RunResult, templates: Path | None = None) -> str:
    """One self-contained page: styles and charts inline, no script, nothing from the network."""
    from jinja2 import TemplateError
    from markupsafe import Markup

    from builder.errors import ConfigError
    from builder.templates import environment, template_path
    from perf.report.view import view_of

    view = view_of(run)
    # Charts escape their own texts; everything else is escaped by Jinja.
    view["charts"] = {name: None if svg is None else Markup(svg) for name, svg in view["charts"].items()}  # noqa: S704
    view["legend"] = [(Markup(key), label) for key, label in view["legend"]]  # noqa: S704
    try:
        return environment(templates, autoescape=True).get_template(TEMPLATE).render(view)
    except TemplateError as error:
        raise ConfigError(
            f"the report's template failed: {error}",
            code="template_failed",
            where=Where(template_path(TEMPLATE, templates), getattr(error, "lineno", None)),
        ) from None


def report_json(run: RunResult) -> dict[str, Any]:
    """The verdict and every cell; the run's own run.json has the trials behind them."""
    from perf.report.view import csv_rows

    return {
        "format": "tritonsmith.report/1",
        "model": run.spec.model,
        "verdict": run.verdict.as_dict(),
        "complete": run.complete,
        "stop_reason": run.stop_reason,
        "notes": list(run.notes),
        "wall_s": round(run.wall_s, 3),
        "environment": dict(run.environment),
        "arms": [{"id": a.id, "label": a.label, "settings": dict(a.settings)} for a in run.arms],
        "points": csv_rows(run),
    }


def text_of(run: RunResult) -> str:
    """The verdict and a small table for a terminal."""
    from perf.report.view import alarms, text_table

    rows = text_table(run)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"! {alarm}" for alarm in alarms(run)] + [run.verdict.sentence, *run.verdict.notes, ""]
    for row in rows:
        cells = [
            text.ljust(width) if column in (0, 1, 3) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(" ".join(cells[:2]) + "  " + "  ".join(cells[2:]))
    return "\n".join(line.rstrip() for line in lines)


def _csv_of(run: RunResult) -> str:
    from perf.report.view import CSV_COLUMNS, csv_rows

    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows(run))
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
