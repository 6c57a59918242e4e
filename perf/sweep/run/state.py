"""What happens in a sweep → its results and notes, each written to the journal as it comes, and the RunResult."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.records.record import RequestRecords, save_records
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.sweep.answers import ArmText
from tritonsmith.perf.sweep.judge.verdict import Verdict
from tritonsmith.perf.sweep.live.follow import STEP, Step
from tritonsmith.perf.sweep.plan import Arm, SweepSpec, Trial
from tritonsmith.perf.sweep.run.asked import Asked
from tritonsmith.perf.sweep.run.options import SweepOptions, SweepProgress
from tritonsmith.perf.sweep.run.preparation import Preparation
from tritonsmith.perf.sweep.run.resume import sentence
from tritonsmith.perf.sweep.run_record import RECORDS, Journal, RunResult, verdict_of
from tritonsmith.perf.sweep.trial import TrialResult


def first_line(spec: SweepSpec, prepared: Preparation, asked: Asked | None) -> dict[str, Any]:
    """The journal's `start`: all that a run cut short needs to be reported and resumed."""
    return {
        "spec": spec.model_dump(mode="json"),
        "environment": prepared.environment,
        "arms": [json_of(arm) for arm in prepared.arms],
        "notes": prepared.notes,
        "content": {} if prepared.content is None else dict(prepared.content.parts),
        "asked": None if asked is None else json_of(asked),
    }


@dataclass(slots=True)
class SweepState:
    """The state of a sweep that lasts: arms in order of joining, trials in order of measurement.

    arm_errors, dropped: arm id → why. stop_reason: why it ended, empty while it goes on.
    lost: the server is gone, or is not this sweep's alone any more.
    """

    spec: SweepSpec
    options: SweepOptions
    prepared: Preparation
    journal: Journal
    arms: tuple[Arm, ...]
    results: list[TrialResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    arm_errors: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    texts: dict[str, ArmText] = field(default_factory=dict)
    reused: int = 0
    stop_reason: str = ""
    interrupted: bool = False
    lost: bool = False

    def note(self, text: str) -> None:
        """A sentence for the report."""
        self.notes.append(text)
        self.journal.write("note", text=text)

    def begin(self, at: SweepProgress, trial: Trial | None, used_s: float) -> None:
        """What is done now, for those who look on: no report needs it."""
        step = Step(
            text=at.text,
            done=at.done,
            expected=at.expected,
            used_s=round(used_s, 3),
            unix_s=round(time.time(), 3),
            arm_id=None if trial is None else trial.arm_id,
            confirms=trial is not None and trial.confirms,
            settles=trial is not None and trial.settles,
        )
        self.journal.write(STEP, **json_of(step))

    def add(self, result: TrialResult) -> None:
        """A trial that ended, well or not."""
        result = replace(
            result, took_s=round(result.took_s, 4)
        )  # as it is read again: the same report comes of both
        self.results.append(result)
        self.journal.write("trial", **json_of(result))

    def keep(self, trial: Trial, records: RequestRecords) -> None:
        """The trial's requests."""
        if self.options.output is not None:
            save_records(records, self.options.output / RECORDS / f"{trial.number:04d}.npz")

    def join(self, arms: tuple[Arm, ...]) -> None:
        """Arms that the search has just thought of."""
        self.arms = (*self.arms, *arms)
        for arm in arms:
            self.journal.write("arm", **json_of(arm))

    def fail(self, arm_id: str, error: TritonsmithError) -> None:
        """An arm that Triton refuses."""
        self.arm_errors[arm_id] = error.message
        self.journal.write("arm_failed", arm_id=arm_id, error=error.message)

    def drop(self, dropped: Mapping[str, str]) -> None:
        """Arms that the race leaves behind."""
        for arm_id, why in dropped.items():
            self.dropped[arm_id] = why
            self.journal.write("arm_dropped", arm_id=arm_id, why=why)

    def tell_texts(self, texts: dict[str, ArmText]) -> None:
        """How a language model's arms answer."""
        self.texts = texts
        self.journal.write("texts", of_arms={arm_id: json_of(text) for arm_id, text in texts.items()})

    def lose(self, error: TritonsmithError) -> None:
        """The server."""
        self.lost = True
        shared = error.code == "server_shared"
        self.stop_reason = error.message if shared else f"the server is gone: {error.message}"
        self.note(self.stop_reason)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.interrupted = True
        self.stop_reason = "interrupted"

    @property
    def loadable(self) -> list[Arm]:
        """Arms that neither failed nor were dropped."""
        return [arm for arm in self.arms if arm.id not in self.arm_errors and arm.id not in self.dropped]

    def verdict(self) -> Verdict:
        """Over everything so far."""
        return verdict_of(self.spec, self.arms, self.results, self.arm_errors)

    def leader(self) -> Arm:
        """The arm that the verdict is about."""
        arm_id = self.verdict().arm_id
        return next(arm for arm in self.arms if arm.id == arm_id)

    def next_round(self) -> int:
        """The number of a round that none was yet."""
        return 1 + max((result.trial.round for result in self.results), default=-1)

    def close(self, wall_s: float) -> RunResult:
        """The result, and the journal's last line."""
        if self.options.resume and self.prepared.content is not None:
            self.note(sentence(self.prepared.earlier, self.prepared.changed, self.reused))
        result = RunResult(
            spec=self.spec,
            arms=self.arms,
            environment=self.prepared.environment,
            trials=tuple(self.results),
            verdict=self.verdict(),
            stop_reason=self.stop_reason,
            complete=not self.interrupted and not self.lost,
            arm_errors=self.arm_errors,
            dropped=self.dropped,
            texts=self.texts,
            notes=(*self.prepared.notes, *self.notes),
            wall_s=wall_s,
            interrupted=self.interrupted,
            directory=self.options.output,
        )
        self.journal.write(
            "end",
            stop_reason=result.stop_reason,
            complete=result.complete,
            interrupted=result.interrupted,
            wall_s=result.wall_s,
        )
        return result
