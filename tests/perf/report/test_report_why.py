"""Why the winner wins, and what to sweep next: each rule speaks on plain evidence and is silent short of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.perf.report.test_report import run_result
from tritonsmith.perf.report.cells import ServerTime
from tritonsmith.perf.report.columns import cells_of
from tritonsmith.perf.report.page.why import (
    Evidence,
    Rule,
    Side,
    cache,
    compute,
    fewer_instances,
    larger_batches,
    more_instances,
    shorter_delay,
    unfilled,
    what_next,
    why_winner,
)
from tritonsmith.perf.report.svg.pareto import pareto_front
from tritonsmith.perf.sweep.run_record import RunResult, verdict_of

MS = 1e6


def side(
    queue_ms: float = 1.0,
    infer_ms: float = 4.0,
    mean_batch: float = 1.0,
    instances: int = 1,
    delay_us: int | None = 500,
    cache_share: float = 0.0,
    max_batch_size: int = 32,
    preferred: bool = False,
) -> Side:
    server = ServerTime(queue_ms * MS, 0.0, infer_ms * MS, 0.0, {}, mean_batch, 0, 0)
    return Side(server, max_batch_size, instances, delay_us, cache_share, preferred)


def evidence(ours: dict[str, Any], base: dict[str, Any], in_flight: int = 16, cores: int = 2) -> Evidence:
    return Evidence(side(**ours), side(**base), in_flight, cores)


SPEAKS: list[tuple[Rule, Evidence, str]] = [
    (cache, evidence({"cache_share": 0.9}, {}), "90 % of its requests"),
    (
        more_instances,
        evidence({"instances": 2, "queue_ms": 1}, {"queue_ms": 6}),
        "2 instances instead of 1 shorten the wait in the queue from 6.00 ms (60 % of a request) to 1.00 ms, and 2 cores",
    ),
    (
        fewer_instances,
        evidence({"instances": 2, "infer_ms": 4}, {"instances": 8, "infer_ms": 16}),
        "8 instances share 2 cores in the current config and slow one another: an execution takes 16.0 ms, with 2",
    ),
    (
        larger_batches,
        evidence({"mean_batch": 8, "infer_ms": 8}, {"mean_batch": 2, "infer_ms": 4}),
        "batches of 8.0 on average (of 32) instead of 2.0, which makes an inference cost 1.00 ms of execution instead of 2.00",
    ),
    (
        shorter_delay,
        evidence({"delay_us": 0, "queue_ms": 0.1, "mean_batch": 1.0}, {"delay_us": 2000, "queue_ms": 2.1, "mean_batch": 1.1}),
        "the delay of 2000 µs does not pay",
    ),
    (compute, evidence({"infer_ms": 2}, {"infer_ms": 4}), "2.00 ms of execution instead of 4.00 ms"),
    (unfilled, evidence({"mean_batch": 2.1}, {}, in_flight=8), "2.1 of 32 on average; none can be larger than the 8"),
    (unfilled, evidence({"mean_batch": 2.1, "delay_us": 100}, {}, in_flight=64), "delay of 100 µs is shorter than"),
]  # fmt: skip

SILENT: list[tuple[str, Rule, Evidence]] = [
    ("both have the cache", cache, evidence({"cache_share": 0.9}, {"cache_share": 0.8})),
    ("nobody waited before", more_instances, evidence({"instances": 2, "queue_ms": 0.1}, {"queue_ms": 0.3})),
    ("the wait stayed", more_instances, evidence({"instances": 2, "queue_ms": 5}, {"queue_ms": 6})),
    ("as many instances as before", more_instances, evidence({"queue_ms": 1}, {"queue_ms": 6})),
    ("there were cores enough", fewer_instances, evidence({"instances": 1}, {"instances": 2, "infer_ms": 9})),
    ("cores are unknown", fewer_instances, evidence({"instances": 1}, {"instances": 8, "infer_ms": 9}, cores=0)),
    ("batches as before", larger_batches, evidence({"mean_batch": 2.1}, {"mean_batch": 2})),
    ("larger batches that cost as much", larger_batches, evidence({"mean_batch": 4, "infer_ms": 16}, {})),
    ("a longer delay", shorter_delay, evidence({"delay_us": 900, "queue_ms": 0.1}, {"queue_ms": 3})),
    ("the delay filled batches", shorter_delay, evidence({"delay_us": 0, "queue_ms": 0.1}, {"mean_batch": 4, "queue_ms": 3})),
    ("as long an execution", compute, evidence({"infer_ms": 3.9}, {})),
    ("batches are full enough", unfilled, evidence({"mean_batch": 9}, {})),
    ("no dynamic batching", unfilled, evidence({"mean_batch": 1, "delay_us": None}, {})),
    ("a delay longer than an execution", unfilled, evidence({"mean_batch": 2, "delay_us": 9000}, {}, in_flight=64)),
    ("one request at a time", unfilled, evidence({"mean_batch": 1}, {}, in_flight=1)),
    ("preferred sizes cut them", unfilled, evidence({"mean_batch": 4, "delay_us": 1, "preferred": True}, {}, in_flight=64)),
    ("all in flight is being executed", unfilled, evidence({"mean_batch": 6, "instances": 2, "delay_us": 1}, {})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "given_", "said"), SPEAKS, ids=[f"{r.__name__}{i}" for i, (r, _, _) in enumerate(SPEAKS)]
)
def test_a_rule_says_what_the_counters_show(rule: Rule, given_: Evidence, said: str) -> None:
    assert said in str(rule(given_))


@pytest.mark.parametrize(("rule", "given_"), [s[1:] for s in SILENT], ids=[s[0] for s in SILENT])
def test_a_rule_is_silent_without_plain_evidence(rule: Rule, given_: Evidence) -> None:
    assert rule(given_) is None


@pytest.mark.parametrize("rule", [r for r, _, _ in SPEAKS])
def test_two_sides_alike_explain_nothing(rule: Rule) -> None:
    alike = {"mean_batch": 12.0}
    assert rule(evidence(alike, alike)) is None


def with_counters(run: RunResult, **changes: Any) -> RunResult:
    """The third arm's counters changed."""
    trials = []
    for t in run.trials:
        assert t.server is not None
        trials.append(replace(t, server=replace(t.server, **changes)) if t.trial.arm_id == "arm02" else t)
    return replace(run, trials=tuple(trials))


def test_a_winners_reason_is_made_from_its_own_trials() -> None:
    run = with_counters(run_result(), mean_compute_infer_us=450.0)
    assert why_winner(run, cells_of(run)) == (
        "Why: an inference costs 0.113 ms of execution instead of 0.225 ms."
    )


def test_without_a_winner_or_counters_or_a_plain_reason_there_is_none() -> None:
    same, tie = run_result(), with_counters(run_result(gain=1.0), mean_compute_infer_us=450.0)
    blind = replace(same, trials=tuple(replace(t, server=None) for t in same.trials))
    for run in (same, tie, blind):
        assert why_winner(run, cells_of(run)) is None
    empty = replace(same, trials=(), verdict=verdict_of(same.spec, same.arms, ()))
    assert what_next(empty, cells_of(empty)) is None


POINTS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12)


@settings(deadline=None)
@given(POINTS)
def test_the_front_is_what_nothing_beats_in_both(values: list[tuple[int, int]]) -> None:
    points = [(i, float(more), float(less)) for i, (more, less) in enumerate(values)]

    def beaten(i: int) -> bool:
        _, m, s = points[i]
        return any(a >= m and b <= s and (a > m or b < s) for _, a, b in points)

    front = pareto_front(points)
    assert sorted(front) == [i for i in range(len(points)) if not beaten(i)]
    assert [points[i][1] for i in front] == sorted(points[i][1] for i in front)
