"""(SweepSpec, a live server, payloads) → RunResult: load the arms, run the rounds, keep every trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from builder.errors import ServerError, TrialError, TritonsmithError, UsageError
from perf import scratch
from perf.beside import BesideLoad
from perf.constraints import meets
from perf.content import Content, content_of
from perf.data import DataOptions, payloads_from_options
from perf.propose import words_for
from perf.race import CONFIRMING_ROUNDS, GENERATION, confirming_trials, race_of
from perf.record import RequestRecords, save_records
from perf.resume import Earlier, earlier_run, reusable, sentence
from perf.run_record import (
    RECORDS,
    RESULT,
    Journal,
    RunResult,
    arm_as_dict,
    facts_of,
    values_of,
    verdict_of,
    write_json,
)
from perf.search import Stop
from perf.server import control
from perf.server.launch import Server
from perf.stage import Found, Stage, widest
from perf.sweep import (
    CLIENT_BATCH,
    DEFAULT_ROUNDS,
    END_S,
    Arm,
    ArmPlanner,
    Placement,
    SweepSpec,
    Trial,
    check_budget,
    plan_arms,
    round_cost_s,
    trial_cost_s,
    trials_of_round,
)
from perf.trial import TrialResult, failed, measure
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
    resume:       reuse the finished trials of an earlier run in `output` that were measured on the same content.
    restart:      makes a new server after the old one died; None ends the sweep instead. A sweep that may
                  do this owns its server, and leaves the tidying to the server's end.
    started_s:    time.monotonic() from which the budget counts; None: when the sweep begins.
    kind:         what the server is, for the report: embedded, binary:…, docker:…, a URL.
    """

    repositories: tuple[Path, ...] = ()
    scratch: Path | None = None
    output: Path | None = None
    payloads: Sequence[InferPayload] | None = None
    resume: bool = False
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
        self.options = options
        self.started_s = time.monotonic() if options.started_s is None else options.started_s
        source = scratch.model_directory(options.repositories, spec.model) if options.repositories else None
        self.stage = Stage(spec, server, source, options.scratch)
        self.beside: BesideLoad | None = None
        self.results: list[TrialResult] = []
        self.notes: list[str] = []
        self.arm_errors: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self.number = 0
        self.reused = 0
        self.stop_reason = ""
        self.interrupted = False

    def run(self) -> RunResult:
        try:
            self._prepare()
        except TritonsmithError:
            self._leave_as_found()
            raise
        self.journal = Journal(self.options.output, tuple(self.earlier.finished.values()))
        try:
            self.journal.write(
                "start",
                spec=self.spec.model_dump(mode="json"),
                environment=self.environment,
                arms=[arm_as_dict(arm) for arm in self.arms],
                notes=self.plan_notes,
                content={} if self.content is None else dict(self.content.parts),
            )
            try:
                self._load_arms(self.arms)
                if self.beside is not None:
                    self.beside.ensure(self.stage.url)
                self._rounds()
                self._confirm()
            except KeyboardInterrupt:
                self._interrupt()
            except ServerError as error:
                self.stop_reason = f"the server is gone: {error.message}"
                self._note(self.stop_reason)
            if self.options.resume and self.content is not None:
                self._note(sentence(self.earlier, self.content, self.reused))
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
            if self.beside is not None:
                self.beside.stop()
            self._leave_as_found()
        if self.options.output is not None:
            write_json(self.options.output / RESULT, result.as_dict())
        return result

    # Before the first trial.

    def _prepare(self) -> None:
        """The plan: nothing is written and no config changed until it stands."""
        spec = self.spec
        self._say("loading the model as it is")
        found = self.stage.look()
        self.planner = ArmPlanner(spec, found.current, found.variants)
        plan = plan_arms(spec, found.current, found.variants)
        self.arms, self.plan_notes = plan.arms, list(plan.notes)
        # Of a search, what stands on the server at once.
        self.expected_arms = self.arms if spec.is_grid else self.arms * (1 + GENERATION // 2)
        if not spec.is_grid:
            self.plan_notes.append(words_for(spec))
        self.placement, why = self._choose_placement()
        self.stage.placement = self.placement
        check_budget(spec, len(self.expected_arms), self.placement)
        self._make_payloads(found)
        self.plan_notes.append(f"Arms {_PLACEMENT_WORDS[self.placement]}: {why}.")
        server = self.stage.server
        self.content = self._content() if self.options.output is not None else None
        self.earlier = self._earlier()
        self.number = self.earlier.next_number
        self.environment = scratch.environment(
            {
                "server": self.options.kind,
                "server_version": server.version,
                "model": spec.model,
                "model_version": ", ".join(str(v) for v in found.metadata.get("versions", [])),
                "backend": found.current.get("backend") or found.current.get("platform"),
                "placement": self.placement,
                "payloads": len(self.payloads[spec.batch_size]),
                "protocol": "http",
                "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "command": self.options.command,
            }
        )

    def _choose_placement(self) -> tuple[Placement, str]:
        if self.spec.load_model is not None:
            if self.spec.placement == "side_by_side":
                raise UsageError(
                    "the arms of a composing model cannot stand side by side: its ensemble names one model",
                    code="no_scratch",
                    fix="--placement in_place",
                )
            return "in_place", f"the ensemble {self.spec.load_model} names one model"
        in_process = self.spec.max_memory_mib is not None and self.options.kind != "embedded"
        if in_process and self.spec.placement == "auto":
            return "in_place", "so that the server's memory is that of one arm"
        return scratch.choose_placement(
            self.spec.placement, self.expected_arms, self.stage.source, self.options.scratch
        )

    def _make_payloads(self, found: Found) -> None:
        """A pool for each batch size of the arms, and one for each model beside."""
        interface = widest(found.interface, self.arms)
        sizes = {self.spec.batch_size, *self.spec.space.get(CLIENT_BATCH, ())}
        if self.options.payloads is not None:
            self.payloads = {self.spec.batch_size: self.options.payloads}
            if sizes != {self.spec.batch_size}:
                raise UsageError(f"{CLIENT_BATCH} needs data that can be drawn", code="bad_setting")
        else:
            self.payloads = {
                size: payloads_from_options(
                    found.interface if size == self.spec.batch_size else interface, self._data_options(size)
                )
                for size in sorted(sizes)
            }
        pool = [payload for payloads in self.payloads.values() for payload in payloads]
        if self.spec.max_wrong is not None and all(payload.expected is None for payload in pool):
            raise UsageError(
                "answers cannot be checked: the data hold no outputs",
                code="no_expected",
                fix="--data SAMPLES.npz with the right outputs, as `tritonsmith build` keeps them",
            )
        if self.spec.beside:
            self.beside = BesideLoad(
                {
                    name: payloads_from_options(model, DataOptions(seed=self.spec.seed))
                    for name, model in found.beside.items()
                },
                self.spec.beside,
            )

    def _data_options(self, batch: int) -> DataOptions:
        data = self.options.data
        own = data.file is not None and batch == 1 and CLIENT_BATCH not in self.spec.space
        return replace(data, batch_size=data.batch_size if own else batch, seed=self.spec.seed)

    def _content(self) -> Content | None:
        """None where the model's files cannot be read, which leaves nothing to know a trial again by."""
        if self.stage.source is None:
            return None
        others = [*([self.spec.load_model] if self.spec.load_model else []), *self.spec.beside]
        directories = {name: scratch.model_directory(self.options.repositories, name) for name in others}
        return content_of(
            self.spec,
            f"{self.options.kind} {self.stage.server.version}",
            {"": self.stage.source, **directories},
            [payload for payloads in self.payloads.values() for payload in payloads],
        )

    def _earlier(self) -> Earlier:
        if not self.options.resume or self.options.output is None:
            return Earlier()
        if self.content is None:
            raise UsageError(
                "only a sweep that sees the model's files can be resumed: trials are known by content",
                code="no_content",
                seen=self.options.kind,
                fix="begin anew without --resume",
            )
        return earlier_run(self.options.output)

    # Arms.

    def _load_arms(self, arms: Sequence[Arm]) -> None:
        if self.placement != "in_place":
            self._say(f"loading {len(arms)} arms side by side")
        for arm_id, error in self.stage.load(arms).items():
            self._fail_arm(arm_id, error)
        if not any(arm.baseline and arm.id not in self.arm_errors for arm in self.arms):
            raise TrialError(
                f"the current config of '{self.spec.model}' could not be loaded: {self.arm_errors['arm00']}",
                code="baseline_refused",
            )

    def _fail_arm(self, arm_id: str, error: TritonsmithError) -> None:
        self.arm_errors[arm_id] = error.message
        self.journal.write("arm_failed", arm_id=arm_id, error=error.message)

    # Rounds.

    def _rounds(self) -> None:
        race = race_of(self.spec, self.planner)
        while True:
            values = values_of(self.spec, self.results)
            if not self.spec.is_grid:
                facts = facts_of(self.results)
                values = {key: v for key, v in values.items() if meets(self.spec, facts.get(key[:2]))}
            racing = [
                arm for arm in self.arms if arm.id not in self.arm_errors and arm.id not in self.dropped
            ]
            round_s = round_cost_s(self.spec, len(racing), self.placement, self._trial_s())
            decision = race.next(racing, values, self._left_s() - self._reserve_s(), round_s)
            if isinstance(decision, Stop):
                self.stop_reason = decision.reason
                return
            self._drop(decision.dropped)
            self._join(decision.joining)
            trials = trials_of_round(
                self.spec,
                [arm for arm in decision.arms if arm.id not in self.arm_errors],
                decision.number,
                self.number,
                self.placement,
            )
            self.number += len(trials)
            if not self._round(trials):
                return

    def _drop(self, dropped: Mapping[str, str]) -> None:
        for arm_id, why in dropped.items():
            self.dropped[arm_id] = why
            self.journal.write("arm_dropped", arm_id=arm_id, why=why)
        if dropped:
            self.stage.unload(arm for arm in self.arms if arm.id in dropped)

    def _join(self, arms: Sequence[Arm]) -> None:
        """Arms that the search has just thought of."""
        if not arms:
            return
        self.arms = (*self.arms, *arms)
        for arm in arms:
            self.journal.write("arm", **arm_as_dict(arm))
        self._load_arms(arms)

    def _round(self, trials: Sequence[Trial]) -> bool:
        """Measure or reuse each; False when the sweep is over."""
        arms = {arm.id: arm for arm in self.arms}
        reused: dict[int, TrialResult] = {}
        if self.content is not None and self.earlier.finished:
            content = self.content
            reused = reusable(trials, lambda t: content.key(arms[t.arm_id], t), self.earlier, self.placement)
        for trial in trials:
            if trial.number in reused:
                earlier = reused[trial.number]
                self._add(replace(earlier, trial=replace(trial, number=earlier.trial.number)))
                self.reused += 1
                continue
            reserve_s = 0.0 if trial.confirms else self._reserve_s()
            if self._left_s() - reserve_s < 0.9 * self._trial_s():
                self.stop_reason = f"the budget of {self.spec.budget_s:g} s is used"
                return False
            if trial.arm_id not in self.arm_errors:
                self._trial(trial, arms[trial.arm_id], len(self.results) + len(trials))
            if self.interrupted:
                return False
        return True

    def _confirm(self) -> None:
        """See a winner win again, in rounds that had no part in picking it."""
        verdict = verdict_of(self.spec, self.arms, self.results)
        if self.interrupted or verdict.outcome != "winner" or verdict.arm_id is None:
            return
        assert verdict.concurrency is not None
        round_ = 1 + max(result.trial.round for result in self.results)
        trials = confirming_trials(self.arms, verdict.arm_id, verdict.concurrency, round_, self.number)
        if self._left_s() < len(trials) * self._trial_s():
            self._note("The budget had no room to see the winner win again.")
            return
        self.number += len(trials)
        reason = self.stop_reason
        if self._round(trials):
            self.stop_reason = reason

    def _reserve_s(self) -> float:
        """Of the budget, kept for confirming a winner when it is a small part of it."""
        if self.spec.budget_s is None:
            return 0.0
        needed_s = 3 * CONFIRMING_ROUNDS * self._trial_s()
        return needed_s if needed_s <= self.spec.budget_s / 5 else 0.0

    def _left_s(self) -> float:
        if self.spec.budget_s is None:
            return float("inf")
        return self.spec.budget_s - END_S - (time.monotonic() - self.started_s)

    def _trial_s(self) -> float:
        took = [r.took_s for r in self.results if r.error is None]
        return sum(took) / len(took) if took else trial_cost_s(self.spec)

    def _trial(self, trial: Trial, arm: Arm, expected: int) -> None:
        where = self.spec.where_words(trial.concurrency).removeprefix("at ")
        self._say(f"round {trial.round + 1}, {where}: {arm.label}", expected)
        begun_s = time.monotonic()
        if self.beside is not None:
            self.beside.ensure(self.stage.url)
        try:
            self.stage.apply(arm)
            payloads = self.payloads[arm.batch_size or self.spec.batch_size]
            result = measure(
                self.stage.subject(arm),
                trial,
                self.spec,
                payloads,
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
        key = "" if self.content is None else self.content.key(arm, trial)
        self._add(replace(result, took_s=time.monotonic() - begun_s, key=key))
        if result.interrupted:
            self._interrupt()

    def _known_rate(self, arm: Arm) -> float | None:
        """Of the objective rate: what this arm's last search found."""
        rates = [r.slo.get("rate_per_s") for r in self.results if r.slo and r.trial.arm_id == arm.id]
        return rates[-1] if rates else None

    def _after_refusal(self, arm: Arm, error: TrialError) -> None:
        """An arm that Triton refuses once is out; the others go on."""
        if not arm.baseline:
            self._fail_arm(arm.id, error)
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
        self.stage.server.stop()
        self.stage.restarted(self.options.restart())
        out = self.arm_errors.keys() | self.dropped.keys()
        self._load_arms([arm for arm in self.arms if arm.id not in out])

    def _answers_again(self) -> bool:
        """Whether the server is well after all. A process that was killed may seem alive for a moment."""
        server = self.stage.server
        deadline_s = time.monotonic() + PATIENCE_S
        while server.alive() and time.monotonic() < deadline_s:
            if control.is_ready(server.http_url):
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
        """A server of ours ends after the sweep and needs no tidying; nor does a dead one."""
        if self.options.restart is not None:
            return
        try:
            self.stage.leave_as_found()
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
