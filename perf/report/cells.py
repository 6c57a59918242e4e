"""RunResult → one Cell for each arm at each load point: every number that a report shows; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritonsmith.perf.stats import Estimate, Summary, arm_level, fit_rounds
from tritonsmith.perf.sweep.run_record import RunResult
from tritonsmith.perf.sweep.trial import TrialResult
from tritonsmith.perf.usage.counters import ServerCounters, sum_of

Metric = Callable[[Summary], float | None]
OfTrial = Callable[[TrialResult], float | None]


@dataclass(frozen=True, slots=True)
class ServerTime:
    """Mean parts of a request inside the server, ns, and the batches that it ran, over all rounds."""

    queue_ns: float
    input_ns: float
    infer_ns: float
    output_ns: float
    batches: Mapping[int, int]
    mean_batch: float | None
    cache_hits: int
    failed: int

    @property
    def total_ns(self) -> float:
        """Queue and compute together."""
        return self.queue_ns + self.input_ns + self.infer_ns + self.output_ns


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm at one load point over its rounds.

    estimates: metric → value in an average round with an interval for comparing arms at this load point.
    requests, failures: summed over the rounds; verdicts: how many trials got which verdict.
    errors: trials without numbers, and why.
    memory_bytes: the most of all rounds, of the server's process and the arm's instances.
    energy_j: of the GPUs for one inference, over all rounds.
    """

    arm_id: str
    concurrency: int
    rounds: int
    estimates: Mapping[str, Estimate]
    requests: int
    failures: Mapping[str, int]
    verdicts: Mapping[str, int]
    errors: tuple[str, ...]
    server: ServerTime | None
    memory_bytes: int | None = None
    energy_j: float | None = None


def cells_by(run: RunResult, metrics: Mapping[str, OfTrial]) -> dict[tuple[str, int], Cell]:
    """(arm, concurrency) → Cell with an estimate for each metric, for all that was measured or tried."""
    tables = {
        (name, point): fit_rounds(_table(run, point, metric))
        for point in run.spec.concurrency
        for name, metric in metrics.items()
    }
    grouped: dict[tuple[str, int], list[TrialResult]] = {}
    for trial in run.trials:
        grouped.setdefault((trial.trial.arm_id, trial.trial.concurrency), []).append(trial)
    rows = {arm.id: row for row, arm in enumerate(run.arms)}
    return {
        (arm, point): _cell(
            arm,
            point,
            trials,
            {name: arm_level(tables[name, point], rows[arm]) for name in metrics},
        )
        for (arm, point), trials in grouped.items()
    }


def _table(run: RunResult, point: int, metric: OfTrial) -> Any:
    rows = {arm.id: row for row, arm in enumerate(run.arms)}
    rounds = 1 + max((t.trial.round for t in run.trials), default=0)
    table = np.full((len(run.arms), rounds), np.nan)
    for trial in run.trials:
        if trial.summary is not None and not trial.interrupted and trial.trial.concurrency == point:
            value = metric(trial)
            table[rows[trial.trial.arm_id], trial.trial.round] = np.nan if value is None else value
    return table


def _cell(arm: str, point: int, trials: Sequence[TrialResult], estimates: Mapping[str, Estimate]) -> Cell:
    summaries = [t.summary for t in trials if t.summary is not None and not t.interrupted]
    failures: Counter[str] = Counter()
    for summary in summaries:
        failures.update(summary.failures)
    return Cell(
        arm_id=arm,
        concurrency=point,
        rounds=len(summaries),
        estimates=estimates,
        requests=sum(s.requests for s in summaries),
        failures=dict(failures.most_common()),
        verdicts=dict(Counter(s.validity.verdict.value for s in summaries)),
        errors=tuple(t.error for t in trials if t.error is not None),
        server=_server_time([t.server for t in trials if t.server is not None]),
        memory_bytes=max((t.memory_bytes for t in trials if t.memory_bytes is not None), default=None),
        energy_j=_energy_j(trials),
    )


def _energy_j(trials: Sequence[TrialResult]) -> float | None:
    told = [(t.energy_j, t.server.inferences) for t in trials if t.energy_j and t.server]
    inferences = sum(count for _, count in told)
    return sum(joules for joules, _ in told) / inferences if inferences else None


def _server_time(counters: Sequence[ServerCounters]) -> ServerTime | None:
    total = sum_of(counters)
    if total is None:
        return None
    return ServerTime(
        queue_ns=total.mean_queue_us * 1000,
        input_ns=total.mean_compute_input_us * 1000,
        infer_ns=total.mean_compute_infer_us * 1000,
        output_ns=total.mean_compute_output_us * 1000,
        batches=total.batch_executions,
        mean_batch=total.mean_batch_size,
        cache_hits=total.cache_hits,
        failed=total.failed,
    )


def common_reasons(run: RunResult) -> list[tuple[str, str]]:
    """The most frequent verdicts short of VALID with an example of their reason and what to do, one each."""
    seen: dict[str, str] = {}
    for trial in run.trials:
        if trial.summary is None or trial.interrupted:
            continue
        validity = trial.summary.validity
        if validity.reasons and validity.verdict.value not in seen:
            seen[validity.verdict.value] = f"{validity.reasons[0]}; {validity.recommendation}"
    return list(seen.items())
