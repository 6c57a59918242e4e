"""The course of one sweep on a live server: arms loaded, rounds and finals run, a dead server replaced."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tritonsmith.builder.base.errors import ServerError, TrialError, TritonsmithError
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import Server
from tritonsmith.perf.sweep.judge.confirmation import (
    SETTLING_LOOKS,
    SETTLING_ROUNDS,
    final_trials,
    is_worth_settling,
)
from tritonsmith.perf.sweep.judge.constraints import meets
from tritonsmith.perf.sweep.judge.search import Stop
from tritonsmith.perf.sweep.judge.strategy import SearchStrategy, strategy_of
from tritonsmith.perf.sweep.plan import DEFAULT_ROUNDS, Arm, SweepSpec, Trial, round_cost_s, trials_of_round
from tritonsmith.perf.sweep.repeats import cache_notes, repeating_of
from tritonsmith.perf.sweep.run import scratch
from tritonsmith.perf.sweep.run.answers_check import TextCheck
from tritonsmith.perf.sweep.run.arm_server import ArmServer
from tritonsmith.perf.sweep.run.budget import Budget
from tritonsmith.perf.sweep.run.options import SweepOptions, SweepProgress
from tritonsmith.perf.sweep.run.preparation import Preparation, prepare, words_for_space
from tritonsmith.perf.sweep.run.resume import reusable
from tritonsmith.perf.sweep.run.state import SweepState, first_line
from tritonsmith.perf.sweep.run_record import Journal, RunResult, facts_of, values_of, write_run
from tritonsmith.perf.sweep.trial import TrialResult, failed, measure, why_unanswered

# A config whose trials the server did not survive so often is out; once may be chance.
MOST_DEATHS = 2

# When the winner does not win again, the next one is seen to, or not.
MOST_CONFIRMED = 2

# A server that neither answers nor ends for so long counts as dead.
PATIENCE_S = 10.0


class SweepRunner:
    """One sweep under way; `state` holds what came of it so far."""

    state: SweepState
    prepared: Preparation

    def __init__(self, spec: SweepSpec, server: Server, options: SweepOptions) -> None:
        self.spec = spec
        self.options = options
        self.budget = Budget(spec, time.monotonic() if options.started_s is None else options.started_s)
        source = scratch.model_directory(options.repositories, spec.model) if options.repositories else None
        self.arm_server = ArmServer(spec, server, source, options.scratch, options.changes)
        self.number = 0
        self.load_arm_s = 0.0  # side by side, as it took the last time
        self.deaths: Counter[str] = Counter()  # of the server, in trials of an arm
        self.first_requests: dict[str, int] = {}

    def run(self) -> RunResult:
        """See run_sweep."""
        left: list[str] = []
        try:
            self._begin()
            try:
                self._load(self.state.arms)
                self._rounds()
                self._finals()
            except KeyboardInterrupt:
                self.state.interrupt()
            except ServerError as error:
                self.state.lose(error)
        finally:  # at once, whatever it was: what is worked out and written can wait
            left = self._leave_as_found()
        answers = self.prepared.answers
        self.state.journal.write("answers", held=answers.held)
        if isinstance(answers, TextCheck):
            self.state.tell_texts(answers.of_arms(self.state.arms))
        told = (*answers.notes(), *cache_notes(self.state.arms, self.state.results))
        for text in (*told, *left):
            self.state.note(text)
        result = self.state.close(self.budget.used_s())
        self.state.journal.close()
        if self.options.output is not None:
            write_run(result, self.options.output)
        return result

    def _begin(self) -> None:
        """Nothing is on disk until all is prepared: before, a run that is there already stays as it is."""
        self._tell("loading the model as it is")
        self.prepared = prepared = prepare(self.spec, self.arm_server, self.options)
        if self.spec.space != prepared.spec.space:
            self._tell(f"no settings were named; trying {words_for_space(prepared.spec)}")
        if prepared.changed:
            self.options.on_note(f"changed since the earlier run: {'; '.join(prepared.changed)}")
        self.spec = self.arm_server.spec = self.budget.spec = prepared.spec
        kept = tuple(prepared.earlier.finished.values())
        start = first_line(self.spec, prepared, self.options.asked)
        journal = Journal(self.options.output, kept, start=start)
        self.state = SweepState(self.spec, self.options, prepared, journal, prepared.arms)
        self.number = prepared.earlier.next_number

    def _tell(self, text: str) -> None:
        if self.options.on_progress is not None:
            self.options.on_progress(SweepProgress(text, 0, 0))

    def _leave_as_found(self) -> list[str]:
        """Ends the load beside. A server of ours ends after the sweep and needs no tidying; nor does a dead one."""
        if (prepared := getattr(self, "prepared", None)) is not None and prepared.beside is not None:
            prepared.beside.stop()
        if self.options.restart is not None:
            return []
        try:
            self.arm_server.leave_as_found()
        except TritonsmithError as error:
            told = f"The server was not left as it was found: {error.message}"
            if self.options.changes is not None:
                told += f"; tritonsmith sweep --restore {self.options.kind} does it when it answers"
            return [told]
        return []

    def _load(self, arms: Sequence[Arm]) -> None:
        state = self.state
        for arm in arms:
            if arm.variant in self.prepared.refused and arm.id not in state.arm_errors:
                state.fail(arm.id, self.prepared.refused[arm.variant])
        arms = [arm for arm in arms if arm.id not in state.arm_errors]
        if self.prepared.placement != "in_place":
            self._say(f"loading {len(arms)} arms side by side")
        begun_s = time.monotonic()
        for arm_id, error in self.arm_server.load(arms).items():
            state.fail(arm_id, error)
        self.load_arm_s = (time.monotonic() - begun_s) / max(1, len(arms))
        if not any(arm.baseline and arm.id not in state.arm_errors for arm in state.arms):
            raise TrialError(
                f"the current config of '{self.spec.model}' could not be loaded: {state.arm_errors['arm00']}",
                code="baseline_refused",
            )
        if self.prepared.placement != "in_place":
            self._say("comparing answers")
            for arm in arms:
                self._hold(arm)

    def _hold(self, arm: Arm) -> None:
        """Out with an arm whose answers are not the current config's; see AnswersCheck."""
        try:
            if arm.id not in self.state.arm_errors:
                self.prepared.answers.hold(arm)
        except ServerError as error:
            self._server_died(error, arm)
        except TrialError as error:
            self._after_refusal(arm, error)

    # Rounds.

    def _rounds(self) -> None:
        spec, state, placement = self.spec, self.state, self.prepared.placement
        strategy = strategy_of(spec, self.prepared.planner)
        while True:
            if isinstance(strategy, SearchStrategy):
                strategy.load_arm_s = self.load_arm_s
            values = values_of(spec, state.results)
            if not spec.is_grid:
                facts = facts_of(state.results)
                values = {key: v for key, v in values.items() if meets(spec, facts.get(key[:2]))}
            racing = state.loadable
            round_s = round_cost_s(spec, len(racing), placement, self._trial_s())
            decision = strategy.next(racing, values, self.budget.left_s() - self._reserve_s(), round_s)
            if isinstance(decision, Stop):
                state.stop_reason = decision.reason
                return
            if decision.dropped:
                state.drop(decision.dropped)
                self.arm_server.unload(arm for arm in state.arms if arm.id in decision.dropped)
            if decision.joining:
                state.join(decision.joining)
                self._load(decision.joining)
            arms = [arm for arm in decision.arms if arm.id not in state.arm_errors]
            if not self._measure(trials_of_round(spec, arms, decision.number, self.number, placement)):
                return

    def _finals(self) -> None:
        """Rounds of the arm that is ahead alone: to settle whether it is, and to see it win again."""
        # In place every trial of these is a reload.
        for look in range(1 if self.prepared.placement == "in_place" else SETTLING_LOOKS):
            state = self.state
            if state.interrupted or not is_worth_settling(state.verdict(), state.next_round()):
                break
            leader = state.leader().label
            if not self._final(confirms=False, room_for=1 + look):
                break
            state.note(f"{leader} was ahead, and was measured {SETTLING_ROUNDS} rounds more to settle it.")
        seen: set[str | None] = set()
        while not self.state.interrupted and len(seen) < MOST_CONFIRMED:
            verdict = self.state.verdict()
            if verdict.outcome != "winner" or verdict.arm_id in seen:
                return
            seen.add(verdict.arm_id)
            if not self._final(confirms=True):
                self.state.note("The budget had no room to see the winner win again.")
                return

    def _final(self, *, confirms: bool, room_for: int = 1) -> bool:
        """False when the budget has no room for as many finals."""
        state = self.state
        trials = final_trials(state.arms, state.verdict(), state.next_round(), self.number, confirms=confirms)
        if self.budget.left_s() < len(trials) * self._trial_s() * room_for:
            return False
        reason = state.stop_reason
        if self._measure(trials):
            state.stop_reason = reason
        return True

    def _measure(self, trials: Sequence[Trial]) -> bool:
        """Measure or reuse each; False when the sweep is over."""
        state, content, earlier = self.state, self.prepared.content, self.prepared.earlier
        self.number += len(trials)
        arms = {arm.id: arm for arm in state.arms}
        reused: dict[int, TrialResult] = {}
        if content is not None and earlier.finished:
            reused = reusable(
                trials, lambda t: content.key(arms[t.arm_id], t), earlier, self.prepared.placement
            )
        for place, trial in enumerate(trials):
            if trial.number in reused:
                self._hold(arms[trial.arm_id])
                if trial.arm_id in state.arm_errors:
                    continue
                known = reused[trial.number]
                state.add(replace(known, trial=replace(trial, number=known.trial.number)))
                state.reused += 1
                continue
            reserve_s = 0.0 if trial.confirms or trial.settles else self._reserve_s()
            if self.budget.left_s() - reserve_s < 0.9 * self._trial_s():
                state.stop_reason = f"the budget of {self.spec.budget_s:g} s is used"
                return False
            if trial.arm_id not in state.arm_errors:
                self._trial(trial, arms[trial.arm_id], len(state.results) + len(trials) - place)
            if state.interrupted:
                return False
        return True

    def _trial_s(self) -> float:
        return self.budget.trial_s(self.state.results)

    def _reserve_s(self) -> float:
        return self.budget.reserve_s(self.state.results)

    def _trial(self, trial: Trial, arm: Arm, expected: int) -> None:
        state, prepared = self.state, self.prepared
        where = self.spec.where_words(trial.concurrency).removeprefix("at ")
        self._say(f"round {trial.round + 1}, {where}: {arm.label}", expected, trial)
        begun_s = time.monotonic()
        unanswered: list[str] = []

        def keep(records: RequestRecords) -> None:
            state.keep(trial, records)
            unanswered.extend(why_unanswered(records))

        try:
            if prepared.beside is not None:
                prepared.beside.ensure(self.arm_server.url)
            prepared.answers.hold(arm)
            self.arm_server.apply(arm)
            self.arm_server.check_stubs(arm)
            result = measure(
                self.arm_server.subject(arm),
                trial,
                self.spec,
                prepared.payloads[arm.batch_size or self.spec.batch_size]
                if prepared.fresh is None
                else prepared.fresh(trial.number),
                keep,
                self._known_rate(arm),
                repeating_of(self.spec, trial, self.first_requests),
            )
            if not result.interrupted:
                self.arm_server.check_stubs(arm)
                self.arm_server.check_unchanged()
        except ServerError as error:
            state.add(failed(trial, error, time.monotonic() - begun_s))
            if error.code == "server_shared":
                raise
            self._server_died(error, arm)
            return
        except TrialError as error:
            state.add(failed(trial, error, time.monotonic() - begun_s))
            self._after_refusal(arm, error)
            return
        key = "" if prepared.content is None else prepared.content.key(arm, trial)
        state.add(replace(result, took_s=time.monotonic() - begun_s, key=key))
        if result.interrupted:
            state.interrupt()
        elif unanswered and not arm.baseline:
            state.fail(arm.id, TrialError(unanswered[0], code="arm_unanswered"))

    def _known_rate(self, arm: Arm) -> float | None:
        """Of the objective rate: what this arm's last search found."""
        rates = [r.slo.rate_per_s for r in self.state.results if r.slo and r.trial.arm_id == arm.id]
        return rates[-1] if rates else None

    # When things go wrong.

    def _after_refusal(self, arm: Arm, error: TrialError) -> None:
        """An arm that Triton refuses once is out; the others go on."""
        if not arm.baseline:
            self.state.fail(arm.id, error)
        elif all(result.error is not None for result in self.state.results):
            raise error

    def _server_died(self, error: ServerError, arm: Arm) -> None:
        if self._answers_again():
            self.state.note(f"The server did not answer and lives on: {error.message}.")
            return
        if self.options.restart is None:
            raise error
        self.deaths[arm.id] += 1
        number = len(self.state.results)
        self.state.note(f"The server died in trial {number}, of {arm.label}, and was started again.")
        if self.deaths[arm.id] == MOST_DEATHS:
            if arm.baseline:
                raise error
            why = f"the server died in {MOST_DEATHS} of its trials: {error.message}"
            self.state.fail(arm.id, TrialError(why, code="arm_kills_server"))
        self.arm_server.server.stop()
        self.arm_server.restarted(self.options.restart())
        self._load(self.state.loadable)

    def _answers_again(self) -> bool:
        """Whether the server is well after all. A process that was killed may seem alive for a moment."""
        server = self.arm_server.server
        deadline_s = time.monotonic() + PATIENCE_S
        while server.alive() and time.monotonic() < deadline_s:
            if control.is_ready(server.http_url):
                return True
            time.sleep(0.1)
        return False

    def _say(self, text: str, expected: int = 0, trial: Trial | None = None) -> None:
        state, spec = self.state, self.spec
        done = len(state.results)
        planned = len(state.arms) * len(spec.concurrency) * (spec.rounds or DEFAULT_ROUNDS)
        last = state.results[-1] if done else None
        at = SweepProgress(text, done, max(expected, done, planned), last)
        state.begin(at, trial, self.budget.used_s())
        if self.options.on_progress is not None:
            self.options.on_progress(at)
