"""Intervals that cover, warm-up that is found, verdicts that say what is wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonsmith.perf.records.record import RecordHeader, RequestRecords
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.stats import (
    Summary,
    ValidityLevel,
    arm_level,
    arm_ratio,
    find_warmup,
    fit_rounds,
    mean_estimate,
    quantile_estimates,
    ratio_interval,
    summarise,
)
from tritonsmith.perf.stats.goodput import within_limits
from tritonsmith.perf.stats.intervals import Floats, requests_for_quantile, student_t

MS = 1_000_000
S = 1_000_000_000


def records(
    latency_ns: Any,
    *,
    concurrency: int = 4,
    kind: str = "closed",
    lag_ns: int = 1000,
    failed: Any = None,
    duration_s: float | None = None,
    spacing_ns: Any = None,
    cpu_s: float = 0.1,
    batch: int = 1,
    interrupted: bool = False,
) -> RequestRecords:
    """A closed loop of `concurrency` slots, or sends `spacing_ns` apart."""
    latency = np.asarray(latency_ns, np.int64)
    n = latency.size
    if spacing_ns is None:
        due = np.zeros(n, np.int64)
        for slot in range(concurrency):
            mine = latency[slot::concurrency]
            due[slot::concurrency] = np.concatenate(([0], np.cumsum(mine)[:-1])) if mine.size else mine
    else:
        due = np.arange(n) * int(spacing_ns)
    order = np.argsort(due, kind="stable")
    due, latency = due[order] + S, latency[order]
    status = np.zeros(n, np.uint16) if failed is None else np.asarray(failed, np.uint16)[order]
    stop = int(due[-1]) + 1 if n and duration_s is None else S + int((duration_s or 1.0) * S)
    header = RecordHeader(
        model="m",
        url="http://x",
        protocol="http",
        load={"kind": kind},
        reasons=("ok", "HTTP 503: busy"),
        batch_sizes=(batch,),
        start_ns=S,
        measure_start_ns=S,
        stop_ns=stop,
        client_cpu_s=cpu_s,
        client_wall_s=1.0,
        interrupted=interrupted,
    )
    end = due + latency
    return RequestRecords(header, due, due + lag_ns, end, end, status, np.zeros(n, np.int32))


def limited(rows: RequestRecords, most_in_flight: int) -> RequestRecords:
    return replace(rows, header=replace(rows.header, most_in_flight=most_in_flight))


def steady(n: int, seed: int = 0, mean_ms: float = 2.0) -> Any:
    return np.random.default_rng(seed).lognormal(math.log(mean_ms * MS), 0.2, n)


class TestIntervals:
    @pytest.mark.parametrize(
        ("probability", "df", "quantile"),
        [(0.975, 1, 12.706), (0.975, 2, 4.3027), (0.975, 3, 3.1824), (0.975, 8, 2.3060), (0.95, 30, 1.6973)],
    )
    def test_student_t_is_the_printed_table(self, probability: float, df: int, quantile: float) -> None:
        assert student_t(probability, df) == pytest.approx(quantile, rel=2e-4)

    @pytest.mark.parametrize(("p", "needed"), [(0.5, 6), (0.99, 368), (0.999, 3688)])
    def test_a_tail_needs_so_many_requests_for_an_interval(self, p: float, needed: int) -> None:
        assert requests_for_quantile(p) == needed

    def test_a_quantile_without_enough_requests_has_a_value_and_a_reason_but_no_interval(self) -> None:
        estimate = quantile_estimates(np.arange(1.0, 201.0), (0.99,))[0]
        assert estimate.value == 198.0
        assert estimate.interval is None
        assert estimate.why == "needs 368 requests, the run has 200"

    def test_nothing_measured_has_no_value_and_says_so(self) -> None:
        assert quantile_estimates(np.empty(0), (0.5,))[0].why == "no request was answered"
        assert mean_estimate(np.empty(0)).why == "nothing was measured"

    @pytest.mark.parametrize("memory", [0.0, 0.9])
    @pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
    def test_quantile_intervals_cover_the_truth_with_and_without_autocorrelation(
        self, p: float, memory: float
    ) -> None:
        rng = np.random.default_rng(5)
        from statistics import NormalDist

        truth, hits, runs = NormalDist().inv_cdf(p), 0, 0
        for _ in range(150):
            noise = rng.standard_normal(6000)
            series = np.empty(6000)
            series[0] = noise[0]
            for i in range(1, 6000):
                series[i] = memory * series[i - 1] + math.sqrt(1 - memory**2) * noise[i]
            interval = quantile_estimates(series, (p,))[0].interval
            if interval is not None:
                runs += 1
                hits += interval.contains(truth)
        assert runs >= 120
        assert hits / runs >= 0.90

    def test_mean_intervals_cover_the_truth_of_an_autocorrelated_series(self) -> None:
        rng = np.random.default_rng(6)
        hits = 0
        for _ in range(200):
            shocks = rng.standard_normal(2000)
            series = np.convolve(shocks, np.ones(20) / 20, "valid") + 10
            interval = mean_estimate(series.astype(np.float64)).interval
            assert interval is not None
            hits += interval.contains(10)
        assert hits / 200 >= 0.90

    @given(
        st.lists(st.floats(1, 1e6), min_size=8, max_size=400), st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999])
    )
    def test_an_interval_holds_its_quantile_and_the_quantile_is_a_value_that_occurred(
        self, values: list[float], p: float
    ) -> None:
        estimate = quantile_estimates(np.asarray(values), (p,))[0]
        assert estimate.value in values
        if estimate.interval is None:
            assert estimate.why
        else:
            assert estimate.value is not None
            assert estimate.interval.contains(estimate.value)


class TestWarmup:
    def test_a_slow_start_is_cut_off(self) -> None:
        latency = np.concatenate([steady(200, mean_ms=9.0), steady(3000)])
        found = find_warmup(latency)
        assert 180 <= found.requests <= 230
        assert found.settled

    def test_a_steady_series_loses_nothing(self) -> None:
        assert all(find_warmup(steady(1000, seed)).requests == 0 for seed in range(20))

    def test_one_stall_in_the_middle_is_not_a_warm_up(self) -> None:
        latency = steady(2000)
        latency[600:632] = 300 * MS
        assert find_warmup(latency).requests == 0

    def test_a_series_that_changes_late_has_not_settled(self) -> None:
        latency = np.concatenate([steady(1400, mean_ms=2.0), steady(600, mean_ms=6.0)])
        assert not find_warmup(latency).settled


class TestSummary:
    def test_a_steady_closed_loop_is_valid_and_its_throughput_is_concurrency_over_latency(self) -> None:
        summary = summarise(records(steady(8000), concurrency=8))
        assert summary.validity.verdict is ValidityLevel.VALID
        assert summary.validity.reasons == ()
        assert summary.throughput_per_s.value == pytest.approx(8 / 0.00204, rel=0.02)
        assert summary.throughput_per_s.interval is not None
        assert summary.latency_ns["p99"].interval is not None
        assert summary.latency_ns["p50"].value == pytest.approx(2 * MS, rel=0.02)

    def test_a_slow_start_of_most_of_the_time_is_no_warm_up_but_an_unsettled_run(self) -> None:
        whole = summarise(records(np.concatenate([steady(300, mean_ms=20.0), steady(1500)])))
        assert whole.warmup_requests == 0
        assert whole.validity.verdict is ValidityLevel.UNSETTLED
        short = summarise(records(np.concatenate([steady(50, mean_ms=20.0), steady(1500)])))
        assert short.warmup_requests >= 45

    def test_rows_of_the_stated_warm_up_are_left_out(self) -> None:
        whole = records(steady(4000), concurrency=4)
        header = replace(whole.header, measure_start_ns=whole.header.start_ns + S)
        late = RequestRecords(
            header,
            whole.scheduled_ns,
            whole.sent_ns,
            whole.first_byte_ns,
            whole.end_ns,
            whole.status,
            whole.payload_index,
        )
        assert summarise(late).requests == int((whole.scheduled_ns >= header.measure_start_ns).sum())

    def test_failed_requests_count_as_failures_and_nowhere_else(self) -> None:
        failed = np.zeros(4000, int)
        failed[::10] = 1
        summary = summarise(records(steady(4000), failed=failed))
        assert summary.failures == {"HTTP 503: busy": 400}
        assert summary.answered == 3600

    def test_batches_count_their_inferences(self) -> None:
        one, eight = summarise(records(steady(4000))), summarise(records(steady(4000), batch=8))
        assert one.throughput_per_s.value and eight.throughput_per_s.value
        assert eight.throughput_per_s.value == pytest.approx(8 * one.throughput_per_s.value)

    @pytest.mark.parametrize(
        ("what", "verdict", "reason", "advice"),
        [
            (
                lambda: records(steady(50)),
                ValidityLevel.TOO_SHORT,
                "50 answered requests; p99 with an interval needs 368",
                "measure for 0.2 s, or 368 requests",
            ),
            (lambda: records([]), ValidityLevel.TOO_SHORT, "no request was sent", "measure longer"),
            (
                lambda: records(steady(500), failed=np.ones(500)),
                ValidityLevel.FAILED,
                "all 500 requests failed, the first with: HTTP 503: busy",
                "see why it failed",
            ),
            (
                lambda: records(steady(4000), interrupted=True),
                ValidityLevel.TOO_SHORT,
                "interrupted before its time",
                "run it again to the end",
            ),
            (
                lambda: records(steady(4000), cpu_s=0.97),
                ValidityLevel.CLIENT_BOUND,
                "the client used 97% of a core",
                "more client processes",
            ),
            (
                lambda: records(steady(4000), lag_ns=MS, cpu_s=0.7),
                ValidityLevel.CLIENT_BOUND,
                "half of the requests left 1.00 ms late",
                "more client processes",
            ),
            (
                lambda: records(steady(4000), lag_ns=MS, cpu_s=0.1),
                ValidityLevel.CLIENT_BOUND,
                "half of the requests left 1.00 ms late",
                "a quieter machine",
            ),
            (
                lambda: limited(
                    records(
                        np.linspace(1, 2000, 4000) * MS,
                        kind="open",
                        spacing_ns=MS,
                        duration_s=4.0,
                        lag_ns=300 * MS,
                    ),
                    most_in_flight=500,
                ),
                ValidityLevel.UNSETTLED,
                "667 were answered: the queue grows; 500 requests were in flight, the most that the client has",
                "a request rate below 667/s, the most that the server holds",
            ),
            (
                lambda: records(np.linspace(1, 9, 4000) * MS),
                ValidityLevel.UNSETTLED,
                "latency rises over the run",
                "find what slows the server down",
            ),
            (
                lambda: records(np.linspace(1, 2000, 4000) * MS, kind="open", spacing_ns=MS, duration_s=4.0),
                ValidityLevel.UNSETTLED,
                "1,000 requests a second were due and 667 were answered: the queue grows",
                "a request rate below 667/s",
            ),
        ],
        ids=[
            "few",
            "none",
            "all failed",
            "Ctrl-C",
            "cpu",
            "lag",
            "starved",
            "full",
            "drift",
            "open loop overload",
        ],
    )
    def test_each_weakness_has_its_verdict_a_reason_and_an_advice(
        self, what: Callable[[], RequestRecords], verdict: ValidityLevel, reason: str, advice: str
    ) -> None:
        validity = summarise(what()).validity
        assert validity.verdict is verdict
        assert any(reason in r for r in validity.reasons), validity.reasons
        assert validity.recommendation is not None
        assert advice in validity.recommendation

    def test_a_stall_in_open_loop_shows_in_the_tail_because_latency_counts_from_the_schedule(self) -> None:
        latency = steady(2000)
        latency[1000:1200] = np.linspace(1.0, 0.0, 200) * S  # 200 requests/s meet a stall of one second
        summary = summarise(records(latency, kind="open", spacing_ns=5 * MS, duration_s=10.0))
        assert summary.latency_ns["p99"].value is not None
        assert summary.latency_ns["p99"].value >= 0.85 * S

    def test_a_hundred_thousand_rows_take_less_than_a_fifth_of_a_second(self) -> None:
        rows = records(steady(100_000), concurrency=32)
        best = min(_timed(lambda: summarise(rows)) for _ in range(5))
        assert best < 0.2

    def test_json_gives_the_same_summary_back(self) -> None:
        summary = summarise(records(steady(3000), failed=np.arange(3000) % 100 == 0))
        assert typed(Summary, json_of(summary)) == summary

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(1000, 10**9), max_size=300), st.integers(1, 16))
    def test_no_input_breaks_it_and_no_number_is_missing_without_a_reason(
        self, latencies: list[int], concurrency: int
    ) -> None:
        summary = summarise(records(latencies, concurrency=concurrency))
        for estimate in (summary.throughput_per_s, summary.mean_latency_ns, *summary.latency_ns.values()):
            assert estimate.interval is not None or estimate.why


def _timed(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


class TestRatios:
    def test_a_ratio_is_the_geometric_mean_over_rounds_whatever_the_rounds_share(self) -> None:
        ratio = ratio_interval([110, 220, 55], [100, 200, 50])
        assert ratio.value == pytest.approx(1.1)
        assert ratio.interval is not None
        assert ratio.interval.high - ratio.interval.low < 1e-9

    def test_one_round_has_a_ratio_and_no_interval(self) -> None:
        ratio = ratio_interval([2.0], [1.0])
        assert (ratio.value, ratio.interval) == (2.0, None)
        assert ratio.why == "an interval needs two rounds, one was measured"

    def test_a_failed_round_is_left_out_of_the_pairs(self) -> None:
        assert ratio_interval([2.0, 0.0, 2.0], [1.0, 1.0, 1.0]).value == pytest.approx(2.0)

    def test_arms_of_different_rounds_are_refused(self) -> None:
        with pytest.raises(ValueError, match="3 and 2 rounds"):
            ratio_interval([1, 2, 3], [1, 2])

    @given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=2, max_size=8))
    def test_swapping_the_arms_inverts_the_finding(self, rounds: list[tuple[float, float]]) -> None:
        a, b = zip(*rounds, strict=True)
        forth, back = ratio_interval(a, b), ratio_interval(b, a)
        assert forth.value is not None and back.value is not None
        assert forth.value * back.value == pytest.approx(1.0)
        assert forth.interval is not None and back.interval is not None
        if forth.interval.high < 1e300:
            assert forth.interval.low * back.interval.high == pytest.approx(1.0)

    @pytest.mark.parametrize("rounds", [3, 4, 8])
    @pytest.mark.parametrize("noise", ["normal", "heavy tails", "one noisy arm"])
    def test_ninety_of_a_hundred_intervals_hold_the_truth_at_few_rounds(
        self, rounds: int, noise: str
    ) -> None:
        rng = np.random.default_rng(11)
        paired = blocked = 0
        runs = 400
        for _ in range(runs):
            errors = (
                rng.standard_t(3, (5, rounds)) * 0.05
                if noise == "heavy tails"
                else rng.normal(0, 0.05, (5, rounds))
            )
            if noise == "one noisy arm":
                errors[2] *= 3
            values: Floats = 1000.0 * np.exp(
                errors + rng.normal(0, 0.3, rounds)
            )  # the rounds themselves drift by 30 %
            values[2] *= 1.2
            pair = ratio_interval(values[2], values[0]).interval
            table = arm_ratio(fit_rounds(values), 2, (0, 1)).interval
            assert pair is not None and table is not None
            paired += pair.contains(1.2)
            blocked += table.contains(1.2)
        assert paired / runs >= 0.92
        assert blocked / runs >= (0.88 if noise == "one noisy arm" else 0.93)

    def test_all_arms_together_give_narrower_intervals_than_pairs(self) -> None:
        rng = np.random.default_rng(12)
        narrower = 0
        for _ in range(100):
            values: Floats = np.exp(rng.normal(0, 0.05, (5, 3)))
            pair = ratio_interval(values[2], values[0]).interval
            table = arm_ratio(fit_rounds(values), 2, (0, 1)).interval
            assert pair is not None and table is not None
            narrower += table.high / table.low < pair.high / pair.low
        assert narrower >= 75

    def test_holes_of_failed_trials_do_not_bias_an_arm(self) -> None:
        rounds = np.array([1.0, 2.0, 4.0, 8.0])
        values = np.vstack([rounds, rounds, 1.5 * rounds]).astype(np.float64)
        values[2, 2:] = np.nan  # dropped before the fast rounds
        ratio = arm_ratio(fit_rounds(values), 2, (0, 1))
        assert ratio.value == pytest.approx(1.5)
        assert arm_level(fit_rounds(values), 2).value == pytest.approx(
            1.5 * float(np.exp(np.log(rounds).mean()))
        )

    def test_two_wild_rounds_among_thousands_of_comparisons_have_an_interval_all_the_same(self) -> None:
        values = np.array([[100.0, 101.0], [101.0, 100.0], [100.0, 300.0]])
        ratio = arm_ratio(fit_rounds(values), 2, (0, 1), comparisons=4000)
        assert ratio.interval is not None
        assert 0 < ratio.interval.low < 1e-99 and 1e99 < ratio.interval.high < math.inf

    def test_an_arm_that_was_never_measured_has_no_ratio_and_says_so(self) -> None:
        values = np.array([[1.0, 1.1], [1.0, 1.0], [np.nan, np.nan]])
        ratio = arm_ratio(fit_rounds(values), 2, (0, 1))
        assert (ratio.value, ratio.why) == (None, "an arm of the comparison has no measurement")


class TestGoodput:
    def test_every_limit_has_to_be_kept_and_a_failure_keeps_none(self) -> None:
        n = 4
        ends = np.array([10, 20, 30, 10]) * MS
        rows = RequestRecords(
            RecordHeader("m", "u", "grpc", {"kind": "closed", "concurrency": 1}),
            scheduled_ns=np.zeros(n, np.int64),
            sent_ns=np.zeros(n, np.int64),
            first_byte_ns=np.array([2, 8, 2, 2]) * MS,
            end_ns=ends,
            status=np.array([0, 0, 0, 1], np.uint16),
            payload_index=np.zeros(n, np.int32),
            responses=np.array([1, 4, 5, 1]),
            last_response_ns=np.array([2, 20, 30, 2]) * MS,
            longest_gap_ns=np.zeros(n, np.int64),
        )

        def kept(**limits_ms: int) -> list[bool]:
            return list(within_limits(rows, {name: ms * MS for name, ms in limits_ms.items()}))

        assert kept(latency=20) == [True, True, False, False]
        assert kept(first=2) == [True, False, True, False]
        assert kept(between=4) == [True, True, False, False], "a single response has nothing between"
        assert kept(latency=30, first=2, between=7) == [True, False, True, False]


@pytest.mark.parametrize("empty", [False, True], ids=["full", "an arm and a round without values"])
def test_a_table_without_holes_is_fitted_as_least_squares_fits_it(empty: bool) -> None:
    rng = np.random.default_rng(3)
    values = np.exp(rng.normal(0, 0.2, (5, 4)))
    if empty:
        values[3, :] = values[:, 1] = np.nan
    table = fit_rounds(values)
    row, column = np.nonzero(np.isfinite(values))
    design = np.zeros((row.size, 9))
    design[np.arange(row.size), row] = design[np.arange(row.size), 5 + column] = 1
    logs = np.log(values[row, column])
    solution, _, rank, _ = np.linalg.lstsq(design, logs, rcond=None)
    residual = logs - design @ solution
    assert table.df == row.size - rank
    assert table.pooled_variance == pytest.approx(float(residual @ residual) / table.df)
    inverse = np.linalg.pinv(design.T @ design)
    for arm, other in ((0, 1), (2, 4), (4, 0)):
        weights = np.zeros(9)
        weights[arm], weights[other] = 1, -1
        assert table.effect[arm] - table.effect[other] == pytest.approx(float(weights @ solution))
        assert weights[:5] @ table.unscaled @ weights[:5] == pytest.approx(float(weights @ inverse @ weights))
    assert np.isnan(table.effect[3]) == empty
