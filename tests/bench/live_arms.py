"""A SweepSpec → its arms loaded side by side on an embedded server, and whole sweeps over them; for benchmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.tiny_server import write_model
from tritonsmith.perf.server.launch import ServerSpec, launch
from tritonsmith.perf.sweep.judge.confirmation import SETTLING_LOOKS, final_trials, is_worth_settling
from tritonsmith.perf.sweep.judge.search import Stop
from tritonsmith.perf.sweep.judge.strategy import GridStrategy
from tritonsmith.perf.sweep.judge.verdict import Verdict
from tritonsmith.perf.sweep.plan import Arm, SweepSpec, Trial, plan_arms, trials_of_round
from tritonsmith.perf.sweep.run.arm_server import ArmServer
from tritonsmith.perf.sweep.run_record import values_of, verdict_of
from tritonsmith.perf.sweep.trial import TrialResult, measure
from tritonsmith.perf.wire.payload import InferPayload

Payloads = Callable[[Arm, Trial], Sequence[InferPayload]]


@contextmanager
def live_arms(
    spec: SweepSpec, write: Callable[[Path], None] = write_model
) -> Iterator[tuple[ArmServer, tuple[Arm, ...]]]:
    """The arms of the sweep, loaded, on a server with the repository that `write` makes."""
    with tempfile.TemporaryDirectory() as directory:
        repository, scratch = Path(directory) / "model_repository", Path(directory) / "scratch"
        repository.mkdir()
        scratch.mkdir()
        write(repository)
        server_spec = ServerSpec(repositories=(repository, scratch), model_control="explicit")
        with launch(server_spec) as server:
            arm_server = ArmServer(spec, server, repository / spec.model, scratch)
            arm_server.placement = "side_by_side"
            arms = plan_arms(spec, arm_server.look().current).arms
            errors = arm_server.load(arms)
            if errors:
                raise next(iter(errors.values()))
            yield arm_server, arms


def measure_sweep(
    spec: SweepSpec, arm_server: ArmServer, arms: Sequence[Arm], payloads: Payloads
) -> tuple[Verdict, list[TrialResult]]:
    """One sweep over arms that are loaded: rounds, racing, confirmation and verdict as in perf.sweep.run."""
    strategy = GridStrategy(spec)
    results: list[TrialResult] = []
    racing = list(arms)
    by_id = {arm.id: arm for arm in arms}

    def run(trials: Sequence[Trial]) -> None:
        for trial in trials:
            arm = by_id[trial.arm_id]
            results.append(measure(arm_server.subject(arm), trial, spec, payloads(arm, trial)))

    while True:
        decision = strategy.next(racing, values_of(spec, results), float("inf"), 1.0)
        if isinstance(decision, Stop):
            break
        racing = list(decision.arms)
        run(trials_of_round(spec, racing, decision.number, len(results), "side_by_side"))

    def final(verdict: Verdict, confirms: bool) -> None:
        round_ = 1 + max(result.trial.round for result in results)
        run(final_trials(arms, verdict, round_, len(results), confirms=confirms))

    for _ in range(SETTLING_LOOKS):
        verdict = verdict_of(spec, arms, results)
        if is_worth_settling(verdict, 1 + max(r.trial.round for r in results)):
            final(verdict, confirms=False)
    verdict = verdict_of(spec, arms, results)
    if verdict.outcome == "winner":
        final(verdict, confirms=True)
    return verdict_of(spec, arms, results), results
