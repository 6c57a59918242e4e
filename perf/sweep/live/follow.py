"""run.jsonl as it grows → the run so far, and what was begun last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.files.untrusted import json_value
from tritonsmith.perf.records.typed import MALFORMED, typed
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import JOURNAL, KEPT, RunResult, run_from_journal
from tritonsmith.perf.sweep.trial import TrialResult

STEP = "step"
"""The event that says what is begun: it is for those who look on, and tells a report nothing."""
_MOST_BYTES = 1 << 26  # read at once, and of one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What was begun.

    text: for people. done, expected: trials, as planned then. used_s: of the sweep's time, at `unix_s` of the clock.
    arm_id: of the trial that begins; None of any other step. confirms, settles: of it, see perf.sweep.plan.Trial.
    """

    text: str
    done: int
    expected: int
    used_s: float
    unix_s: float
    arm_id: str | None = None
    confirms: bool = False
    settles: bool = False


class Follower:
    """Reads what was added to a run's journal since it last looked; it changes nothing there.

    run:  what is known, without a verdict of its own: perf.sweep.live.race judges it. None before its start.
    step: what was begun last. news: the last note of the run's own. is_over: the journal's last line was read.
    """

    def __init__(self, directory: Path, earlier: tuple[int, int] | None = None) -> None:
        """earlier: journal_identity() before the run began, where it is yet to begin: that journal is not its own."""
        self.directory = directory
        self._path = directory / JOURNAL
        self._earlier = earlier
        self._begin_anew(None)

    def _begin_anew(self, identity: tuple[int, int] | None) -> None:
        self._identity = identity
        self._read_bytes = 0
        self._rest = b""
        self.run: RunResult | None = None
        self.step: Step | None = None
        self.news = ""
        self.is_over = False

    def read(self) -> bool:
        """Whether anything was added. UsageError for what is no journal."""
        if not self._path.is_file():
            return False
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                identity = (found.st_dev, found.st_ino)
                if identity == self._earlier:
                    return False
                if identity != self._identity or found.st_size < self._read_bytes:
                    self._begin_anew(identity)
                file.seek(self._read_bytes)
                added = file.read(_MOST_BYTES)
        except OSError as error:
            raise self._damaged(error) from error
        self._read_bytes += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        try:
            if len(self._rest) > _MOST_BYTES:
                raise ValueError("a line without an end")
            for line in lines:
                self._fold(json_value(line, infinite=True), line)
        except MALFORMED as error:
            raise self._damaged(error) from error
        return bool(lines)

    def _damaged(self, error: Exception) -> UsageError:
        return UsageError(
            f"the run cannot be read: {type(error).__name__}: {error!s:.300}",
            code="run_damaged",
            where=Where(self._path),
        )

    def _fold(self, event: Mapping[str, Any], line: bytes) -> None:
        kind, run = event["event"], self.run
        if kind == KEPT:
            return
        if kind == "start":
            self.run = run_from_journal([line.decode()], self.directory)
            return
        if run is None:
            raise ValueError("the journal does not begin with a start")
        if kind == "trial":
            trial = typed(TrialResult, event)
            if trial.trial.arm_id not in {arm.id for arm in run.arms}:
                raise ValueError(f"trial {trial.trial.number} is of no arm: {trial.trial.arm_id!r:.80}")
            self.run = replace(run, trials=(*run.trials, trial))
        elif kind == "arm":
            self.run = replace(run, arms=(*run.arms, typed(Arm, event)))
        elif kind == "arm_failed":
            self.run = replace(run, arm_errors={**run.arm_errors, event["arm_id"]: str(event["error"])})
        elif kind == "arm_dropped":
            self.run = replace(run, dropped={**run.dropped, event["arm_id"]: str(event["why"])})
        elif kind == "note":
            self.news = str(event["text"])
            self.run = replace(run, notes=(*run.notes, self.news))
        elif kind == STEP:
            self.step = typed(Step, event)
        elif kind == "end":
            self.run = replace(
                run,
                stop_reason=str(event["stop_reason"]),
                complete=event["complete"] is True,
                interrupted=event["interrupted"] is True,
                wall_s=float(event["wall_s"]),
            )
            self.is_over = True


def journal_identity(directory: Path) -> tuple[int, int] | None:
    """Device and inode of the journal that lies there; a new run puts another in its place. None where there is none."""
    try:
        found = (directory / JOURNAL).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
