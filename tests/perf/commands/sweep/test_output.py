"""A sweep that ended → what it says on stderr of how to go on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from tests.perf.report.test_report import run_result
from tritonsmith.builder.base.text.text_layout import cells
from tritonsmith.perf.commands.sweep.output import emit_result
from tritonsmith.perf.report import text_of, write_report
from tritonsmith.perf.sweep.run_record import RunResult


def said(run: RunResult, directory: Path, capsys: pytest.CaptureFixture[str]) -> str:
    run = replace(run, directory=directory)
    with suppress(typer.Exit):
        emit_result(run, write_report(run, directory), as_json=False, going_on="go on")
    return capsys.readouterr().err


def test_a_winner_is_to_be_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = said(run_result(), tmp_path / "a run", capsys)
    assert f"next: Write the winner into models.yaml:\n    tritonsmith apply '{tmp_path / 'a run'}'\n" in err
    assert f"config: {tmp_path / 'a run' / 'config.pbtxt'}" in err


def test_an_undecided_run_goes_on_with_the_rounds_that_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_result(rounds=1)
    command = "tritonsmith sweep r -m minilm --set 'parameters.\"a b\"=1,2' --budget 9s --overwrite"
    err = said(replace(run, environment={**run.environment, "command": command}), tmp_path / "run", capsys)
    assert run.verdict.outcome == "undecided" and "config:" not in err
    again = "tritonsmith sweep r -m minilm --set 'parameters.\"a b\"=1,2' --resume"
    assert f"next: So few rounds decide nothing; what was measured is kept.\n    {again} " in err
    assert err.endswith(" --rounds 4\n")


def test_what_was_interrupted_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = replace(run_result(), complete=False, interrupted=True, stop_reason="interrupted")
    err = said(run, tmp_path / "run", capsys)
    assert err.endswith("\ngo on\n") and "next:" not in err


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_its_tables_fit_the_terminal(width: int) -> None:
    text = text_of(run_result(labels="count 2, max_queue_delay 5000 µs"), width)
    _, tables = text.split("\n\n", 1)
    assert all(cells(line) <= width for line in tables.split("\n")[1:]), tables
    assert "▲ 1.5" in tables and "inferences/s" in tables
    assert tables.startswith("× the current config's throughput, at concurrency:\n")
