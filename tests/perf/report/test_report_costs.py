"""What configs cost beside time: columns, charts and CSV where it was measured, and nothing where it was not."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest

from tests.perf.report.test_report import Page, run_result
from tritonsmith.perf.report import csv_of, html_of, markdown_of, numbers
from tritonsmith.perf.report.columns import cells_of, columns, measured_columns
from tritonsmith.perf.stats import Interval, Ratio
from tritonsmith.perf.sweep.run_record import RunResult


def costly(memory: bool = True, energy: bool = True, price: float | None = 1.8) -> RunResult:
    """arm02 holds 30 MiB more and takes twice the energy."""
    run = run_result()
    trials = tuple(
        replace(
            trial,
            memory_bytes=((120 if trial.trial.arm_id == "arm02" else 90) << 20) if memory else None,
            energy_j=(40.0 if trial.trial.arm_id == "arm02" else 20.0) if energy else None,
        )
        for trial in run.trials
    )
    return replace(run, trials=trials, spec=run.spec.model_copy(update={"dollars_per_hour": price}))


def test_every_cost_that_was_measured_has_its_column_its_chart_and_its_csv_field() -> None:
    run = costly()
    page = Page(html_of(run))
    assert page.stack == []
    for text in ("MiB", "$ / million", "J / inference", "Memory", "Energy of an inference", "120", "40 mJ"):
        assert text in page.text
    assert "| MiB | $ / million | J / inference |" in markdown_of(run)
    rows = list(csv.DictReader(io.StringIO(csv_of(run))))
    row = next(r for r in rows if r["arm"] == "arm02")
    assert row["memory_bytes"] == str(120 << 20) and float(row["joules_per_inference"]) == pytest.approx(0.04)
    dollars = 1.8 / 3600 / float(row["throughput_per_s"]) * 1e6
    assert float(row["dollars_per_million_inferences"]) == pytest.approx(dollars)


def test_a_table_in_markdown_has_as_many_cells_in_each_row() -> None:
    tables = [part for part in re.split(r"\n{2,}", markdown_of(costly())) if part.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") - line.count("\\|") for line in table.splitlines()}) == 1


def test_what_was_not_measured_is_not_mentioned() -> None:
    run = costly(memory=False, energy=False, price=None)
    costs = {column.name for column in columns().values() if column.measured}
    assert costs.isdisjoint(column.name for column in measured_columns(run, cells_of(run), "page"))
    assert not any(text in html_of(run) for text in ("MiB</th>", "$ / million", "J / inference"))


def test_bars_that_are_all_alike_are_left_out() -> None:
    run = costly(energy=False, price=None)
    alike = replace(run, trials=tuple(replace(t, memory_bytes=90 << 20) for t in run.trials))
    assert "<h2>Memory</h2>" in html_of(run) and "<h2>Memory</h2>" not in html_of(alike)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.2134, "$0.213"), (1.2, "$1.20"), (1234.5, "$1,234")]
)
def test_dollars_have_three_digits(value: float | None, text: str) -> None:
    assert numbers.dollars(value) == text


@pytest.mark.parametrize(("high", "text"), [(1.474, "0.90–1.47"), (174_382_112_224.04, "0.90–>99")])
def test_an_interval_that_tells_nothing_is_not_spelt_out(high: float, text: str) -> None:
    assert numbers.times_span(Ratio(1.1, Interval(0.9, high, 0.95))) == text
