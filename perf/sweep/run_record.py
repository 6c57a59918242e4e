"""A sweep as it happens → lines of run.jsonl, and run.json at its end; either → RunResult."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.files.disk import delete_written, replacing, write_atomically
from tritonsmith.builder.base.files.untrusted import json_value, read_bounded
from tritonsmith.builder.base.text.tabular import Tabular
from tritonsmith.perf.records.typed import MALFORMED, Seconds, json_of, typed
from tritonsmith.perf.stats.summary import QUANTILES, Summary
from tritonsmith.perf.sweep.answers import ArmText
from tritonsmith.perf.sweep.judge.objective import OBJECTIVES
from tritonsmith.perf.sweep.judge.search import Values
from tritonsmith.perf.sweep.judge.verdict import CellFacts, Verdict, decide
from tritonsmith.perf.sweep.plan import Arm, SweepSpec
from tritonsmith.perf.sweep.trial import TrialResult

FORMAT = "tritonsmith.run/1"
JOURNAL = "run.jsonl"
RESULT = "run.json"
RECORDS = "records"
REPORTS = ("report.html", "report.md", "report.json", "report.csv", "config.pbtxt", "members.csv")
"""What perf.report writes there."""
WRONG = "wrong answer"
_RECORDS_NAME = re.compile(r"([0-9]{4,})\.npz")
_FIRST_BYTES = b'{"event": "'
_MOST_BYTES = 1 << 30
_NONE_YET = {"outcome": "undecided", "sentence": ""}
"""The verdict of a file is made again from its trials: it may have been written by a version that told it otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult(Tabular):
    """A sweep, whole or as far as it came: all that a report needs.

    environment:  where it was measured and what was served.
    arm_errors:   arm id → why it could not be loaded, or was dropped from the race.
    texts:        arm id → of a language model, how it answers.
    notes:        what people must know: combinations left out, servers that died.
    stop_reason:  why it ended; complete is False when it was interrupted or died.
    directory:    where it lies, None when it was not kept; request records are in RECORDS there.
    """

    verdict: Verdict
    stop_reason: str
    complete: bool
    interrupted: bool = False
    wall_s: Seconds = 0.0
    notes: tuple[str, ...] = ()
    spec: SweepSpec
    environment: Mapping[str, Any]
    arms: tuple[Arm, ...]
    arm_errors: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, ArmText] = field(default_factory=dict)
    trials: tuple[TrialResult, ...]
    directory: Annotated[Path | None, Field(exclude=True)] = None

    def caption(self) -> str:
        """The verdict's sentence, after why it is not the last word, where it is not."""
        return (
            self.verdict.sentence
            if self.complete
            else f"Not complete: {self.stop_reason}. {self.verdict.sentence}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row a trial, in the order in which they were measured; no numbers where it failed."""
        labels = {arm.id: arm.label for arm in self.arms}
        return [
            {
                "arm": labels.get(t.trial.arm_id, t.trial.arm_id),
                "concurrency": t.trial.concurrency,
                "round": t.trial.round,
                **_numbers(t.summary),
                "memory_bytes": t.memory_bytes,
                "energy_j": t.energy_j,
                "error": t.error,
            }
            for t in self.trials
        ]


def _numbers(summary: Summary | None) -> dict[str, Any]:
    if summary is None:
        return {}
    return {
        "throughput_per_s": summary.throughput_per_s.value,
        **{f"{name}_ns": estimate.value for name, estimate in summary.latency_ns.items()},
        "requests": summary.requests,
        "failed_requests": sum(summary.failures.values()),
        "verdict": summary.validity.verdict.value,
    }


# From trials to what search and verdict look at.


def values_of(spec: SweepSpec, trials: Sequence[TrialResult]) -> Values:
    """(arm, concurrency, round) → the objective, larger is better."""
    values: dict[tuple[str, int, int], float] = {}
    for result in trials:
        if result.summary is None or result.interrupted:
            continue
        value = OBJECTIVES[spec.objective].value(spec, result)
        if value is not None and value > 0 and math.isfinite(value):
            values[result.trial.arm_id, result.trial.concurrency, result.trial.round] = value
    return values


def facts_of(trials: Sequence[TrialResult]) -> dict[tuple[str, int], CellFacts]:
    """(arm, concurrency) → what the constraints look at, over all rounds."""
    cells: dict[tuple[str, int], list[TrialResult]] = {}
    for result in trials:
        if result.summary is not None and not result.interrupted:
            cells.setdefault((result.trial.arm_id, result.trial.concurrency), []).append(result)
    facts = {}
    for cell, results in cells.items():
        summaries = [r.summary for r in results if r.summary is not None]
        p99s = [s.latency_ns["p99"].value for s in summaries]
        known = [p for p in p99s if p is not None]
        requests = sum(s.requests for s in summaries)
        answered = sum(s.answered for s in summaries)
        checked = sum(s.checked for s in summaries)
        wrong = sum(n for s in summaries for reason, n in s.failures.items() if reason.startswith(WRONG))
        share = (requests - answered - wrong) / requests if requests else 1.0
        memory = [r.memory_bytes for r in results if r.memory_bytes is not None]
        facts[cell] = CellFacts(
            p99_ms=float(np.median(known)) / 1e6 if known else None,
            failure_share=share,
            wrong_share=wrong / checked if checked else None,
            memory_mib=max(memory) / 2**20 if memory else None,
            failure=_most_frequent(summaries),
        )
    return facts


def _most_frequent(summaries: Sequence[Summary]) -> str | None:
    counts: Counter[str] = Counter()
    for summary in summaries:
        counts.update(summary.failures)
    return counts.most_common(1)[0][0] if counts else None


def verdict_of(
    spec: SweepSpec,
    arms: Sequence[Arm],
    trials: Sequence[TrialResult],
    errors: Mapping[str, str] | None = None,
) -> Verdict:
    """The verdict over everything measured. errors: arm id → why it is out of the race."""
    return decide(spec, arms, values_of(spec, trials), facts_of(trials), *final_rounds(trials), errors)


def final_rounds(trials: Sequence[TrialResult]) -> tuple[frozenset[int], frozenset[int]]:
    """(rounds that were run to see a winner win again, rounds that were run to settle a lead)."""
    confirming = frozenset(result.trial.round for result in trials if result.trial.confirms)
    settling = frozenset(result.trial.round for result in trials if result.trial.settles)
    return confirming, settling


# The run directory.


KEPT = "kept"


class Journal:
    """run.jsonl: one event a line, each written in one piece, so that a crash loses at most the last line."""

    def __init__(
        self,
        directory: Path | None,
        kept: Sequence[TrialResult] = (),
        *,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes the place of the run that is in this directory; what is not of a run is left alone.

        kept:  trials of that run that may still be reused; a crash loses none.
        start: its first event, there from the beginning.
        """
        self._file: FileIO | None = None
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / JOURNAL
        earlier = is_run(directory)
        delete_written(directory / RESULT)  # it speaks for the earlier run, whose journal says the same
        with replacing(path) as temporary:
            self._file = FileIO(temporary, "w")
            for result in kept:
                self.write(KEPT, **json_of(result))
            if start is not None:
                self.write("start", **start)
        if earlier:
            _delete_files_of_run(directory, {result.trial.number for result in kept})

    def write(self, event: str, **fields: Any) -> None:
        """Append one event."""
        if self._file is not None:
            line = f"{json.dumps({'event': event, **fields}, default=str)}\n".encode()
            # One call: a Ctrl-C comes before or after it.
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def close(self) -> None:
        """Nothing is written after this."""
        if self._file is not None:
            self._file.close()


def is_run(directory: Path) -> bool:
    """Whether a sweep of ours has written here: its journal, whole or cut off in its first line."""
    try:
        with (directory / JOURNAL).open("rb") as file:
            head = file.read(len(_FIRST_BYTES))
    except OSError:
        return False
    return _FIRST_BYTES.startswith(head)


def _delete_files_of_run(directory: Path, kept: Set[int]) -> None:
    """What sweep and report write under these very names; a run that goes on keeps its report, and its trials' requests."""
    for name in () if kept else REPORTS:
        delete_written(directory / name)
    records = directory / RECORDS
    if records.is_symlink() or not records.is_dir():
        return
    for path in records.iterdir():
        number = _RECORDS_NAME.fullmatch(path.name)
        if number is not None and int(number[1]) not in kept and path.is_file():
            delete_written(path)


def write_json(path: Path, data: Any) -> None:
    """Whole or not at all."""
    write_atomically(path, json.dumps(data, indent=1, default=str) + "\n")


def write_run(run: RunResult, directory: Path) -> None:
    """The run's file; the inverse of load_run."""
    write_json(directory / RESULT, {"format": FORMAT, **json_of(run)})


def load_run(directory: Path) -> RunResult:
    """A run directory → RunResult: from run.json, or from the journal of a run that never came to its end."""
    try:
        if (directory / RESULT).is_file():
            data = json_value(read_bounded(directory / RESULT, _MOST_BYTES), infinite=True)
            if data.get("format") != FORMAT:
                raise UsageError(
                    "this run was written by another version",
                    code="run_format",
                    where=Where(directory / RESULT),
                    seen=data.get("format"),
                    valid=[FORMAT],
                )
            run = _checked(replace(typed(RunResult, data | {"verdict": _NONE_YET}), directory=directory))
            return replace(run, verdict=verdict_of(run.spec, run.arms, run.trials, run.arm_errors))
        if (directory / JOURNAL).is_file():
            return _checked(run_from_journal(journal_lines(directory / JOURNAL), directory))
    except (OSError, *MALFORMED) as error:
        raise UsageError(
            f"the run cannot be read: {type(error).__name__}: {error!s:.300}",
            code="run_damaged",
            where=Where(directory),
        ) from error
    raise UsageError(
        "there is no run here",
        code="no_run",
        where=Where(directory),
        fix="give the --output directory of `tritonsmith sweep`",
    )


def journal_lines(path: Path) -> list[str]:
    """The lines of a journal; ValueError or OSError when it cannot be read."""
    return read_bounded(path, _MOST_BYTES).decode().splitlines()


def _checked(run: RunResult) -> RunResult:
    """The run, whose every trial is of one of its arms; ValueError for any other."""
    ids = Counter(arm.id for arm in run.arms)
    twin = next((arm for arm, times in ids.items() if times > 1), None)
    if twin is not None:
        raise ValueError(f"two arms are {twin!r:.80}")
    stray = next((t.trial for t in run.trials if t.trial.arm_id not in ids), None)
    if stray is not None:
        raise ValueError(f"trial {stray.number} is of no arm: {stray.arm_id!r:.80}")
    for result in run.trials:
        if result.summary is not None and not QUANTILES.keys() <= result.summary.latency_ns.keys():
            raise ValueError(f"trial {result.trial.number} lacks one of {', '.join(QUANTILES)}")
    return run


def _is_json(line: str) -> bool:
    try:
        json_value(line, infinite=True)
    except ValueError:
        return False
    return True


def events_of(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The events of a journal; a last line that a crash cut off is left out."""
    whole = lines if not lines or _is_json(lines[-1]) else lines[:-1]
    return [json_value(line, infinite=True) for line in whole]


def run_from_journal(lines: Sequence[str], directory: Path | None = None) -> RunResult:
    """The events of a run → what it came to. A last line that a crash cut off is left out."""
    events: dict[str, list[Any]] = {}
    for event in events_of(lines):
        if event["event"] != KEPT:
            events.setdefault(event["event"], []).append(event)
    if next(iter(events), None) != "start":
        raise ValueError("the journal does not begin with a start")
    start = events["start"][0]
    arms, trials = [*start["arms"], *events.get("arm", ())], events.get("trial", [])
    run = {
        "stop_reason": "the sweep ended without a word: killed, or the machine stopped",
        "complete": False,
        "wall_s": sum(trial["took_s"] for trial in trials),
        **events.get("end", [{}])[0],
        "spec": start["spec"],
        "environment": start["environment"],
        "arms": arms,
        "trials": trials,
        "verdict": _NONE_YET,
        "arm_errors": {e["arm_id"]: e["error"] for e in events.get("arm_failed", ())},
        "dropped": {e["arm_id"]: e["why"] for e in events.get("arm_dropped", ())},
        "texts": events.get("texts", [{}])[-1].get("of_arms", {}),
        "notes": [*start["notes"], *(e["text"] for e in events.get("note", ()))],
    }
    result = replace(typed(RunResult, run), directory=directory)
    return replace(result, verdict=verdict_of(result.spec, result.arms, result.trials, result.arm_errors))
