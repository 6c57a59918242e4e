"""(SweepSpec, a live server, payloads) → RunResult: load the arms, run the rounds, keep every trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from builder.errors import ServerError, TrialError, TritonsmithError
from perf import scratch
from perf.data import DataOptions, interface_from_metadata, payloads_from_options
from perf.record import RequestRecords, save_records
from perf.run_record import (
    RECORDS,
    RESULT,
    Journal,
    RunResult,
    arm_as_dict,
    values_of,
    verdict_of,
    write_json,
)
from perf.search import Stop, next_round
from perf.server import control
from perf.server.launch import Server
from perf.sweep import (
    DEFAULT_ROUNDS,
    END_S,
    Arm,
    Placement,
    SweepSpec,
    Trial,
    check_budget,
    plan_arms,
    round_cost_s,
    trial_cost_s,
    trials_of_round,
)
from perf.trial import TrialResult, apply_config, failed, instance_count, measure
from perf.wire.payload import InferPayload

# A server that neither answers nor ends for so long counts as dead.
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """How far a sweep is. text: what is going on, a few words; expected: trials in all, as planned now."""

    text: str
    done: int
    expected: int
    last: TrialResult | None = None


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """What surrounds a sweep.

    repositories: the server's model repositories, for the model's files; empty when they are elsewhere.
    scratch:      one of the server's repositories that the sweep may write scratch models into; without it
                  the arms are loaded in place, one after the other.
    output:       run directory; None keeps nothing on disk.
    payloads:     the requests; None draws them from `data`.
    restart:      makes a new server after the old one died; None ends the sweep instead. A sweep that may
                  do this owns its server, and leaves the tidying to the server's end.
    started_s:    time.monotonic() from which the budget counts; None: when the sweep begins.
    kind:         what the server is, for the report: embedded, binary:…, docker:…, a URL.
    """

    repositories: tuple[Path, ...] = ()
    scratch: Path | None = None
    output: Path | None = None
    payloads: Sequence[InferPayload] | None = None
    data: DataOptions = field(default_factory=DataOptions)
    restart: Callable[[], Server] | None = None
    started_s: float | None = None
    on_progress: Callable[[SweepProgress], None] | None = None
    kind: str = "embedded"
    command: str = ""


def run_sweep(spec: SweepSpec, server: Server, options: SweepOptions | None = None) -> RunResult:
    """Run the sweep on a server started with --model-control-mode=explicit.

    The model may be loaded or not; it is left as it was found, with its own config. Ctrl-C ends the sweep at
    once with everything measured so far, `interrupted` set. A server that dies is a failed trial, a note and
    a restart. Raises UsageError for a space, model or budget that cannot be swept, TrialError when Triton
    refuses the current config, ServerError when the server is gone before anything was measured.
    """
    return _Sweep(spec, server, options or SweepOptions()).run()


class _Sweep:
    """The state of one sweep under way."""

    def __init__(self, spec: SweepSpec, server: Server, options: SweepOptions) -> None:
        self.spec = spec
        self.server = server
        self.options = options
        self.started_s = time.monotonic() if options.started_s is None else options.started_s
        self.results: list[TrialResult] = []
        self.notes: list[str] = []
        self.arm_errors: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self.racing: tuple[Arm, ...] = ()
        self.applied: str | None = None  # in place: the arm that serves
        self.number = 0
        self.stop_reason = ""
        self.interrupted = False
        self.was_loaded = False

    def run(self) -> RunResult:
        self._prepare()
        self.journal = Journal(self.options.output)
        try:
            self.journal.write(
                "start",
                spec=self.spec.model_dump(mode="json"),
                environment=self.environment,
                arms=[arm_as_dict(arm) for arm in self.arms],
                notes=self.plan_notes,
            )
            try:
                self._load_arms(self.arms)
                self._rounds()
            except KeyboardInterrupt:
                self._interrupt()
            except ServerError as error:
                self.stop_reason = f"the server is gone: {error.message}"
                self._note(self.stop_reason)
            result = self._result()
            self.journal.write(
                "end",
                stop_reason=result.stop_reason,
                complete=result.complete,
                interrupted=result.interrupted,
                wall_s=result.wall_s,
            )
        finally:
            self.journal.close()
            self._leave_as_found()
        if self.options.output is not None:
            write_json(self.options.output / RESULT, result.as_dict())
        return result

    # Before the first trial.

    def _prepare(self) -> None:
        """The plan: nothing is written and no config changed until it stands."""
        spec, url = self.spec, self.server.http_url
        self.source = (
            scratch.model_directory(self.options.repositories, spec.model)
            if self.options.repositories
            else None
        )
        self._say("loading the model as it is")
        self.was_loaded = control.is_model_ready(url, spec.model)
        control.load_model(url, spec.model)
        current = control.model_config(url, spec.model)
        interface = interface_from_metadata(control.model_metadata(url, spec.model), current)
        plan = plan_arms(spec, current)
        self.arms, self.plan_notes = plan.arms, list(plan.notes)
        self.placement, why = scratch.choose_placement(
            spec.placement, self.arms, self.source, self.options.scratch
        )
        check_budget(spec, len(self.arms), self.placement)
        self.payloads = self.options.payloads or payloads_from_options(interface, self._data_options())
        self.plan_notes.append(f"Arms {_PLACEMENT_WORDS[self.placement]}: {why}.")
        self.environment = scratch.environment(
            {
                "server": self.options.kind,
                "server_version": self.server.version,
                "model": spec.model,
                "model_version": ", ".join(
                    str(v) for v in control.model_metadata(url, spec.model).get("versions", [])
                ),
                "backend": current.get("backend") or current.get("platform"),
                "placement": self.placement,
                "payloads": len(self.payloads),
                "protocol": "http",
                "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "command": self.options.command,
            }
        )

    def _data_options(self) -> DataOptions:
        from dataclasses import replace

        data = self.options.data
        batch = self.spec.batch_size if data.file is None or self.spec.batch_size > 1 else data.batch_size
        return replace(data, batch_size=batch, seed=self.spec.seed)

    # Arms.

    def name_of(self, arm: Arm) -> str:
        """The model's name on the server that stands for the arm."""
        if self.placement == "in_place":
            return self.spec.model
        return scratch.scratch_name(self.spec.model, arm)

    def _load_arms(self, arms: Sequence[Arm]) -> None:
        """Side by side: load all, two at a time. In place there is nothing to do before a trial."""
        if self.placement == "in_place":
            return
        assert self.source is not None and self.options.scratch is not None
        control.unload_model(self.server.http_url, self.spec.model)
        for arm in arms:
            scratch.make_scratch_model(self.source, self.options.scratch, self.name_of(arm))
        self._say(f"loading {len(arms)} arms side by side")
        with ThreadPoolExecutor(2) as pool:
            for arm, error in zip(arms, pool.map(self._load_arm, arms), strict=True):
                if error is not None:
                    self._fail_arm(arm, error)
        if not any(arm.baseline and arm.id not in self.arm_errors for arm in self.arms):
            raise TrialError(
                f"the current config of '{self.spec.model}' could not be loaded: {self.arm_errors['arm00']}",
                code="baseline_refused",
            )

    def _load_arm(self, arm: Arm) -> TritonsmithError | None:
        try:
            apply_config(self.server, self.server.http_url, self.name_of(arm), arm)
        except TritonsmithError as error:
            return error
        return None

    def _fail_arm(self, arm: Arm, error: TritonsmithError) -> None:
        self.arm_errors[arm.id] = error.message
        self.journal.write("arm_failed", arm_id=arm.id, error=error.message)

    # Rounds.

    def _rounds(self) -> None:
        round_ = 0
        racing = tuple(arm for arm in self.arms if arm.id not in self.arm_errors)
        while True:
            trial_s = self._trial_s()
            decision = next_round(
                self.spec,
                racing,
                values_of(self.spec, self.results),
                round_,
                self._left_s(),
                round_cost_s(self.spec, len(racing), self.placement, trial_s),
            )
            if isinstance(decision, Stop):
                self.stop_reason = decision.reason
                return
            for arm_id, why in decision.dropped.items():
                self.dropped[arm_id] = why
                self.journal.write("arm_dropped", arm_id=arm_id, why=why)
            racing = tuple(arm for arm in decision.arms if arm.id not in self.arm_errors)
            trials = trials_of_round(self.spec, racing, round_, self.number, self.placement)
            self.number += len(trials)
            for trial in trials:
                if self._left_s() < 0.9 * self._trial_s():
                    self.stop_reason = f"the budget of {self.spec.budget_s:g} s is used"
                    return
                if trial.arm_id not in self.arm_errors:
                    self._trial(trial, trials[-1].number + 1)
                if self.interrupted:
                    return
            round_ += 1

    def _left_s(self) -> float:
        if self.spec.budget_s is None:
            return float("inf")
        return self.spec.budget_s - END_S - (time.monotonic() - self.started_s)

    def _trial_s(self) -> float:
        took = [r.took_s for r in self.results if r.error is None]
        return sum(took) / len(took) if took else trial_cost_s(self.spec)

    def _trial(self, trial: Trial, expected: int) -> None:
        arm = next(arm for arm in self.arms if arm.id == trial.arm_id)
        self._say(f"round {trial.round + 1}, concurrency {trial.concurrency}: {arm.label}", expected)
        begun_s = time.monotonic()
        try:
            self._apply_in_place(arm)
            summary, counters, stopped = measure(
                self.server.http_url,
                self.name_of(arm),
                trial,
                self.spec,
                self.payloads,
                lambda records: self._keep(trial, records),
            )
        except ServerError as error:
            self._add(failed(trial, error, time.monotonic() - begun_s))
            self._server_died(error)
            return
        except TrialError as error:
            self._add(failed(trial, error, time.monotonic() - begun_s))
            self._after_refusal(arm, error)
            return
        took_s = time.monotonic() - begun_s
        self._add(TrialResult(trial, summary, counters, None, took_s, stopped))
        if stopped:
            self._interrupt()

    def _apply_in_place(self, arm: Arm) -> None:
        if self.placement != "in_place" or self.applied == arm.id:
            return
        known = {a.id: a for a in self.arms}
        same = self.applied is not None and known[self.applied].config == arm.config
        if not same:
            self.applied = None
            apply_config(
                self.server, self.server.http_url, self.spec.model, arm, before=instance_count(arm.config)
            )
        self.applied = arm.id

    def _after_refusal(self, arm: Arm, error: TrialError) -> None:
        """An arm that Triton refuses once is out; the others go on."""
        if not arm.baseline:
            self._fail_arm(arm, error)
        elif all(result.error is not None for result in self.results):
            raise error

    def _add(self, result: TrialResult) -> None:
        self.results.append(result)
        self.journal.write("trial", **result.as_dict())

    def _keep(self, trial: Trial, records: RequestRecords) -> None:
        if self.options.output is not None:
            save_records(records, self.options.output / RECORDS / f"{trial.number:04d}.npz")

    # When things go wrong.

    def _server_died(self, error: ServerError | None) -> None:
        if self._answers_again():
            self._note(f"The server did not answer and lives on: {error.message if error else 'no reason'}.")
            return
        if self.options.restart is None:
            raise error or ServerError("the server died under the load", code="server_died")
        self._note(f"The server died in trial {len(self.results)} and was started again.")
        self.server.stop()
        self.server = self.options.restart()
        self.applied = None
        out = self.arm_errors.keys() | self.dropped.keys()
        self._load_arms([arm for arm in self.arms if arm.id not in out])

    def _answers_again(self) -> bool:
        """Whether the server is well after all. A process that was killed may seem alive for a moment."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.server.alive() and time.monotonic() < deadline_s:
            if control.is_ready(self.server.http_url):
                return True
            time.sleep(0.1)
        return False

    def _interrupt(self) -> None:
        self.interrupted = True
        self.stop_reason = "interrupted"

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.journal.write("note", text=text)

    def _leave_as_found(self) -> None:
        """Unload the scratch models and give the model its own config back; a dead server needs neither."""
        url, model = self.server.http_url, self.spec.model
        if self.options.restart is not None:
            return
        try:
            if not self.server.alive():
                return
            names = [model] if self.placement == "in_place" else [self.name_of(arm) for arm in self.arms]
            loaded = {row.name for row in control.repository_index(url) if row.state == "READY"}
            with ThreadPoolExecutor(8) as pool:  # a stub takes a second or two to end
                list(pool.map(lambda n: control.unload_model(url, n), [n for n in names if n in loaded]))
            if self.was_loaded:
                control.load_model(url, model)
        except TritonsmithError as error:
            self.notes.append(f"The server was not left as it was found: {error.message}")

    # Telling.

    def _say(self, text: str, expected: int = 0) -> None:
        if self.options.on_progress is not None:
            last = self.results[-1] if self.results else None
            done = len(self.results)
            self.options.on_progress(SweepProgress(text, done, max(expected, done, self._expected()), last))

    def _expected(self) -> int:
        arms = getattr(self, "arms", ())
        return len(arms) * len(self.spec.concurrency) * (self.spec.rounds or DEFAULT_ROUNDS)

    def _result(self) -> RunResult:
        return RunResult(
            spec=self.spec,
            arms=self.arms,
            environment=self.environment,
            trials=tuple(self.results),
            verdict=verdict_of(self.spec, self.arms, self.results),
            stop_reason=self.stop_reason,
            complete=not self.interrupted and not self.stop_reason.startswith("the server is gone"),
            arm_errors=self.arm_errors,
            dropped=self.dropped,
            notes=(*self.plan_notes, *self.notes),
            wall_s=time.monotonic() - self.started_s,
            interrupted=self.interrupted,
            directory=self.options.output,
        )


_PLACEMENT_WORDS: dict[Placement, str] = {
    "side_by_side": "stood side by side",
    "in_place": "were loaded in place, one after the other",
    "auto": "",
}
