"""RunResult → what to do with it: a sentence and the exact command, quoted for a shell; pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tritonsmith.perf.report.page.members import member_to_sweep
from tritonsmith.perf.sweep.judge.confirmation import FEWEST_ROUNDS
from tritonsmith.perf.sweep.plan import DEFAULT_ROUNDS, MOST_ROUNDS
from tritonsmith.perf.sweep.run_record import RunResult, final_rounds

_REPLACED = ("--rounds", "--budget", "--output", "-o")
"""Flags of the run's own command that take a value and are given anew, or would end it before its rounds."""
_OF_MODEL = (
    "--model",
    "-m",
    "--load-model",
    "--set",
    "-s",
    "--variant",
    "--variants",
    "--output",
    "-o",
    "--sweep-spec",
    "--spec",
)
"""Those that are of the model that was swept, or of its run."""


@dataclass(frozen=True, slots=True)
class Step:
    """text: why, and what it does. command: empty where nothing is to be run."""

    text: str
    command: str = ""


def next_steps(run: RunResult) -> tuple[Step, ...]:
    """The first is the one to take; commands are for the directory in which the sweep was run."""
    if run.directory is None:
        return (
            Step("The run was not kept: `tritonsmith sweep --output DIR` keeps one that can be applied."),
        )
    directory = str(run.directory)
    steps = _steps(run, f"./{directory}" if directory.startswith("-") else directory)
    return (*steps, *(_sweep_of_member(run) if run.complete else ()))


def _sweep_of_member(run: RunResult) -> Iterator[Step]:
    """Of an ensemble most of whose time goes to a model that this sweep left as it is."""
    found = member_to_sweep(run)
    if found is not None:
        yield Step(
            f"Most of {run.spec.target}'s time goes to {found.name}, which this sweep did not change; sweep it next:",
            _sweep_member(run, found.name),
        )


def _steps(run: RunResult, directory: str) -> Iterator[Step]:
    verdict = run.verdict
    if not run.complete:
        yield Step(
            "Go on where it ended; what was measured is kept:", sweep_again(run, directory, rounds=None)
        )
    if verdict.outcome == "winner":
        yield Step("Write the winner into models.yaml:", _command("apply", directory))
    elif verdict.outcome == "depends":
        shares = ",".join(f"{point.concurrency}:1" for point in verdict.points)
        yield Step(
            f"If the load is always {run.spec.where_words(verdict.concurrency or 0).removeprefix('at ')}:",
            _command("apply", directory, "--load", str(verdict.concurrency)),
        )
        yield Step(
            "For a mix of loads, with your own share of each in place of the 1:",
            _command("apply", directory, "--weights", shares),
        )
    elif not run.complete:
        return
    elif verdict.outcome == "undecided":
        yield _more_rounds(run, directory)
    elif verdict.outcome == "failed":
        yield Step(
            "When the cause is mended, measure again what has no result:",
            sweep_again(run, directory, rounds=None),
        )
    elif verdict.outcome == "nothing_fits":
        yield Step(
            "Nothing to apply: allow more than this limit, or sweep settings that hold fewer requests."
        )
    else:
        yield Step("Nothing to apply: the current config stays as it is.")


def _more_rounds(run: RunResult, directory: str) -> Step:
    """As many as decide the config that the verdict is about, within what a sweep takes."""
    found = (
        None if run.verdict.arm_id is None else run.verdict.of(run.verdict.arm_id, run.verdict.concurrency)
    )
    more = None if found is None else found.more_rounds
    if more is None and len({t.trial.round for t in run.trials}) < FEWEST_ROUNDS:
        return Step(
            "So few rounds decide nothing; what was measured is kept.",
            sweep_again(run, directory, DEFAULT_ROUNDS),
        )
    if more is None:
        return Step(
            "More rounds would hardly decide it. Longer measurements on a quieter machine may:",
            sweep_again(run, directory, None, "--duration", f"{5 * run.spec.duration_s:g}s"),
        )
    final = final_rounds(run.trials)
    needed = len({t.trial.round for t in run.trials} - final[0] - final[1]) + more
    told = f"About {more:,} more round{'s' if more > 1 else ''} would decide"
    if needed <= MOST_ROUNDS:
        return Step(f"{told}; what was measured is kept.", sweep_again(run, directory, needed))
    longer_s = run.spec.duration_s * math.ceil(needed / MOST_ROUNDS)
    return Step(
        f"{told}; a sweep has {MOST_ROUNDS} at most, so measure longer in each:",
        sweep_again(run, directory, MOST_ROUNDS, "--duration", f"{longer_s:g}s"),
    )


def sweep_again(run: RunResult, directory: str, rounds: int | None, *more: str) -> str:
    """The command that the run was made with, going on in its directory; where it is not known, the shortest that does."""
    given = _words(str(run.environment.get("command") or ""))
    words = ["tritonsmith", "sweep"]
    if given[:2] == words:
        replaced = (*_REPLACED, *(word for word in more if word.startswith("-")))
        if rounds is None and not more:
            replaced = ("--output", "-o")
        words += list(_without(given[2:], replaced))
    words += ["--resume", "--output", directory]
    words += [] if rounds is None else ["--rounds", str(rounds)]
    return shlex.join([*words, *more])


def _sweep_member(run: RunResult, member: str) -> str:
    """The run's own command for another model of its ensemble, with the settings that are tried by default."""
    given = _words(str(run.environment.get("command") or ""))
    words = ["tritonsmith", "sweep"]
    if given[:2] == words:
        words += _without(given[2:], _OF_MODEL)
    return shlex.join([*words, "-m", member, "--load-model", run.spec.target])


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a record may say anything
        return []


def _without(words: list[str], flags: tuple[str, ...]) -> Iterator[str]:
    """The words of a command line without these flags and their values, and without what says how to begin."""
    rest = iter(words)
    for word in rest:
        if word in flags:
            next(rest, None)
        elif word not in ("--resume", "--overwrite") and word.partition("=")[0] not in flags:
            yield word


def _command(*words: str) -> str:
    return shlex.join(["tritonsmith", *words])
