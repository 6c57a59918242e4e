"""A sweep under way or ended → progress on stderr, the result on stdout, the exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import typer

from tritonsmith.builder.base.errors import GateError, TrialError, TritonsmithError
from tritonsmith.builder.base.text.console import emit_json, emit_text, is_drawable, note, progress, width_of
from tritonsmith.builder.base.text.text_layout import command_lines
from tritonsmith.builder.commands.failures import show_error
from tritonsmith.perf.report import ReportFiles, report_json, text_of
from tritonsmith.perf.sweep.run import SweepProgress
from tritonsmith.perf.sweep.run_record import RunResult


@contextmanager
def progress_on_stderr(directory: Path) -> Iterator[Callable[[SweepProgress], None]]:
    """On a terminal a bar, and from the first trial on a table of the race; else a line for each round.

    directory: where the run's journal comes to lie.
    """
    if is_drawable(sys.stderr):
        with _table_on_stderr(directory) as draw:
            yield draw
        return
    said = ""

    def tell(step: SweepProgress) -> None:
        nonlocal said
        head = step.text.partition(", ")[0]
        if head != said:
            said = head
            note(f"{head}: {step.done} of {step.expected} trials" if step.expected else head)

    yield tell


@contextmanager
def _table_on_stderr(directory: Path) -> Iterator[Callable[[SweepProgress], None]]:
    from tritonsmith.builder.base.text.progress import pictured
    from tritonsmith.perf.commands.sweep.live_table import live_lines
    from tritonsmith.perf.sweep.live.follow import Follower, journal_identity
    from tritonsmith.perf.sweep.live.race import RaceWatch

    follower = Follower(directory, journal_identity(directory))
    watch = RaceWatch(follower)

    def lines(columns: int, lines: int) -> Sequence[str]:
        race = watch.look()
        return [] if race is None else live_lines(race, columns, lines)

    with ExitStack() as shown:
        bar, draw = shown.enter_context(progress("starting the server")), None

        def tell(step: SweepProgress) -> None:
            nonlocal draw
            follower.read()
            if draw is None and follower.step is not None and follower.step.arm_id is not None:
                shown.close()
                draw = shown.enter_context(pictured(lines))
            if draw is None:
                bar(step.text, step.done, step.expected or None)
            else:
                draw()

        yield tell


def error_of(result: RunResult) -> TritonsmithError | None:
    """Why the exit code is not 0: not to be completed or nothing to compare (1), nothing meets the constraints (4)."""
    if result.interrupted:
        return None
    if not result.complete:
        return TrialError(f"the sweep did not come to its end: {result.stop_reason}", code="sweep_incomplete")
    if result.verdict.outcome == "nothing_fits":
        return GateError(
            result.verdict.sentence.rstrip("."),
            code="nothing_meets_constraints",
            fix="loosen the constraint, or sweep other settings",
        )
    if not result.trials:
        return TrialError(
            "the budget was spent before a trial could begin",
            code="budget_too_small",
            fix="a larger --budget, or fewer settings and load points",
        )
    if not any(trial.summary for trial in result.trials):
        return TrialError("every trial failed", code="all_trials_failed", seen=result.trials[-1].error)
    if result.verdict.outcome == "failed":
        return TrialError(
            result.verdict.sentence.removeprefix("Failed: ").rstrip("."),
            code="nothing_to_compare",
            fix="the report names what each config met; tritonsmith load shows one by itself",
        )
    return None


def _tell_next(result: RunResult) -> None:
    """The commands that may come next, each ready to be copied."""
    from tritonsmith.perf.report.page.next_step import next_steps

    width = width_of(sys.stderr)
    for step in next_steps(result):
        if step.command:
            note(f"next: {step.text}")
            for line in command_lines(step.command, None if width is None else width - 4):
                note(f"    {line}")


def emit_result(
    result: RunResult, files: ReportFiles, *, as_json: bool, going_on: str = "--resume goes on from here"
) -> None:
    """The result on stdout, one document, and the way out: typer.Exit or the error that says the exit code.

    going_on: said of a sweep that did not come to its end.
    """
    error = error_of(result)
    if as_json:
        emit_json(report_json(result) | {"files": files.names(), "error": error and error.as_dict()})
    else:
        emit_text(text_of(result, width_of(sys.stdout)))
    note(f"report: {files.html}")
    if files.config is not None:
        note(f"config: {files.config}, the winner's")
    if error is None and result.complete:
        _tell_next(result)
    if result.interrupted:
        note(going_on)
        raise typer.Exit(130)
    if error is None:
        return
    if not result.complete:
        note(going_on)
    if as_json:  # the error is part of the document; raised, it would become a second one
        show_error(error)
        raise typer.Exit(error.exit_code)
    raise error
