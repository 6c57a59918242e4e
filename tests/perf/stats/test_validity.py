"""A weak measurement's cause is found, its advice alone is given, and the advice is right."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.load.text import text_of_result
from tritonsmith.perf.records.record import RecordHeader, RequestRecords
from tritonsmith.perf.records.schedule import load_from_dict
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.report.load.report import load_html_of, load_markdown_of
from tritonsmith.perf.stats import Summary, Validity, ValidityLevel, quantile_estimates, summarise

MS = 1_000_000
S = 1_000_000_000
QUEUE_FULL = "HTTP 503: [request id: <id_unknown>] Exceeds maximum queue size"
EXPIRED = "HTTP 503: Request timeout expired"


def rows(
    load: dict[str, Any],
    due_s: Any,
    end_s: Any,
    *,
    seconds: float,
    lag_s: Any = 0.0,
    status: Any = 0,
    reasons: Sequence[str] = ("ok",),
    cpu_share: float = 0.3,
) -> RequestRecords:
    """Records of a measurement without a warm-up."""
    order = np.argsort(due_s, kind="stable")
    due, end = (np.asarray(column)[order] * 1e9 + S for column in (due_s, end_s))
    lag = np.broadcast_to(np.asarray(lag_s) * 1e9, due.shape)
    header = RecordHeader(
        "m", "http://x", "http", load, reasons=tuple(reasons), start_ns=S, measure_start_ns=S,
        stop_ns=S + int(seconds * 1e9), client_cpu_s=cpu_share, client_wall_s=1.0,
    )  # fmt: skip
    due_ns, end_ns = due.astype(np.int64), end.astype(np.int64)
    codes = np.broadcast_to(np.asarray(status, np.uint16), due.shape)[order]
    return RequestRecords(
        header, due_ns, due_ns + lag.astype(np.int64), end_ns, end_ns, codes, np.zeros(due.size, np.int32)
    )


def open_loop(rate_per_s: float, holds_per_s: float, seconds: float, **more: Any) -> RequestRecords:
    """Poisson arrivals at one server that takes as long as its rate says, ± 20 %."""
    rng, free = np.random.default_rng(1), 0.0
    due = np.cumsum(rng.exponential(1 / rate_per_s, int(rate_per_s * seconds)))
    due = due[due < seconds]
    end = []
    for at in due:
        free = max(at, free) + rng.uniform(0.8, 1.2) / holds_per_s
        end.append(free)
    load = {"kind": "open", "request_rate_per_s": rate_per_s, "arrival": "poisson"}
    return rows(load, due, end, seconds=seconds, **more)


def closed_loop(
    concurrency: int, seconds: float, latency_s: Any, *, pause_s: float = 0.0, **more: Any
) -> RequestRecords:
    """So many slots until the time is over; latency_s(generator, seconds since the start) of each request."""
    rng, due, end = np.random.default_rng(2), [], []
    for _ in range(concurrency):
        now = 0.0
        while now < seconds:
            due.append(now)
            end.append(now + latency_s(rng, now))
            now = end[-1] + pause_s
    return rows({"kind": "closed", "concurrency": concurrency}, due, end, seconds=seconds, **more)


def steady(rng: np.random.Generator, now: float) -> float:
    return float(rng.lognormal(math.log(0.004), 0.2))


def validity_of(records: RequestRecords) -> Validity:
    return summarise(records).validity


class TestBeyondCapacity:
    @pytest.mark.parametrize("times", [1.3, 3.0])
    def test_the_rate_that_the_server_holds_is_told_and_nobody_is_sent_to_measure_longer(
        self, times: float
    ) -> None:
        found = validity_of(open_loop(100 * times, 100, 8.0))
        assert found.verdict is ValidityLevel.UNSETTLED
        assert f"{100 * times:.0f} requests a second were due" in _rounded(found.reasons[0], 100 * times)
        assert "the queue grows" in found.reasons[0]
        assert found.recommendation is not None and "measure" not in found.recommendation
        assert found.recommendation.startswith("a request rate below ")
        held = float(found.recommendation.split()[4].removesuffix("/s,"))
        assert held == pytest.approx(100, rel=0.03)
        assert any("latency rises over the run" in reason for reason in found.reasons[1:]), (
            "a reason, no advice"
        )
        assert found.notes == ()

    @pytest.mark.parametrize("rate", [50.0, 80.0])
    def test_a_rate_that_is_held_is_valid(self, rate: float) -> None:
        assert validity_of(open_loop(rate, 100, 10.0)) == Validity(ValidityLevel.VALID)

    def test_what_waits_in_the_client_is_the_clients_fault(self) -> None:
        late = np.linspace(0, 2, 1600)
        due = np.arange(1600) / 200
        found = validity_of(
            rows(
                {"kind": "open", "request_rate_per_s": 200.0},
                due,
                due + late + 0.004,
                seconds=8.0,
                lag_s=late,
            )
        )
        assert found.verdict is ValidityLevel.CLIENT_BOUND
        assert found.recommendation is not None and "client" in found.recommendation


def _rounded(reason: str, rate: float) -> str:
    """The reason with its Poisson rate as it was asked for."""
    first, rest = reason.split(" ", 1)
    assert float(first.replace(",", "")) == pytest.approx(rate, rel=0.1)
    return f"{rate:.0f} {rest}"


class TestFailures:
    def test_all_failed_is_the_worst_word_with_the_first_reason(self) -> None:
        status = np.full(500, 2)
        status[0] = 1
        reasons = ("ok", "HTTP 500: out of memory", "connect: Connection refused")
        due = np.arange(500) / 100
        found = validity_of(
            rows({"kind": "open"}, due, due + 0.001, seconds=5.0, status=status, reasons=reasons)
        )
        assert found.verdict is ValidityLevel.FAILED is next(iter(ValidityLevel))
        assert found.reasons == ("all 500 requests failed, the first with: HTTP 500: out of memory",)
        assert found.recommendation == "see why it failed: there is no number yet"

    @pytest.mark.parametrize(
        ("text", "field"), [(QUEUE_FULL, "max_queue_size"), (EXPIRED, "default_timeout_microseconds")]
    )
    def test_a_queue_policy_that_rejects_is_named_by_its_field_and_is_no_fault_of_the_client(
        self, text: str, field: str
    ) -> None:
        refused = np.arange(2000) % 5 < 3
        due = np.arange(2000) / 200
        records = rows(
            {"kind": "open"},
            due,
            due + 0.004,
            seconds=10.0,
            status=refused,
            reasons=("ok", text),
            cpu_share=0.97,
        )
        found = validity_of(records)
        assert found.reasons[0] == f"60% of the requests were rejected by the queue policy's {field}"
        assert found.verdict is ValidityLevel.UNSETTLED
        assert found.recommendation is not None
        assert found.recommendation.startswith(f"less than 80 requests a second, or a larger {field}")
        assert "the client used 97% of a core" in found.reasons[1:]

    def test_one_rejection_in_a_thousand_is_no_cause(self) -> None:
        refused = np.arange(3000) % 1000 == 0
        due = np.arange(3000) / 300
        records = rows(
            {"kind": "open"}, due, due + 0.004, seconds=10.0, status=refused, reasons=("ok", QUEUE_FULL)
        )
        assert validity_of(records).verdict is ValidityLevel.VALID

    def test_a_policy_that_rejects_everything_has_failed_and_is_named(self) -> None:
        due = np.arange(300) / 300
        records = rows({"kind": "open"}, due, due + 0.004, seconds=1.0, status=1, reasons=("ok", QUEUE_FULL))
        found = validity_of(records)
        assert found.verdict is ValidityLevel.FAILED
        assert found.recommendation is not None and "max_queue_size" in found.recommendation


class TestClient:
    @pytest.mark.parametrize(("late_share", "verdict"), [(0.001, "VALID"), (0.03, "CLIENT_BOUND")])
    def test_lag_at_p99_counts_against_p99(self, late_share: float, verdict: str) -> None:
        rng = np.random.default_rng(3)
        due = np.arange(4000) / 400
        lag = np.where(rng.random(4000) < late_share, 0.003, 0.00002)
        end = due + lag + rng.lognormal(math.log(0.004), 0.1, 4000)
        found = validity_of(rows({"kind": "open"}, due, end, seconds=10.0, lag_s=lag))
        assert found.verdict.value == verdict
        if verdict != "VALID":
            assert "one in a hundred of the requests left 3.00 ms late (p99 " in found.reasons[0]

    def test_a_closed_loops_pauses_between_an_answer_and_the_next_request_are_its_lag(self) -> None:
        found = validity_of(closed_loop(8, 4.0, steady, pause_s=0.001))
        assert found.verdict is ValidityLevel.CLIENT_BOUND
        assert (
            "of 8 requests were in flight: from an answer to the next request the client took 1.0"
            in found.reasons[0]
        )
        assert validity_of(closed_loop(8, 4.0, steady, pause_s=0.0001)).verdict is ValidityLevel.VALID


class TestCourse:
    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_a_run_whose_latency_climbs_by_half_is_not_valid_and_says_from_where_to_where(
        self, concurrency: int
    ) -> None:
        found = validity_of(closed_loop(concurrency, 8.0, lambda rng, now: steady(rng, now) * (1 + now / 16)))
        assert found.verdict is ValidityLevel.UNSETTLED
        assert re.match(r"latency rises over the run: typically 4\.[12]", found.reasons[0])
        assert found.recommendation is not None and "what slows the server down" in found.recommendation

    def test_one_that_gets_faster_is_sent_to_warm_up(self) -> None:
        found = validity_of(closed_loop(4, 8.0, lambda rng, now: steady(rng, now) * (1.5 - now / 16)))
        assert found.recommendation == "a longer warm-up, 4 s more: it still gets faster"

    def test_two_modes_are_told_with_their_numbers_and_are_no_reason_against_them(self) -> None:
        records = closed_loop(1, 40.0, lambda rng, now: 0.04 if rng.random() < 0.3 else steady(rng, now) / 2)
        found = validity_of(records)
        assert found.notes[0].startswith("latency has two modes: 69% of the requests around 2")
        assert "31% of the requests around 40 ms; no one number stands for all of them" in found.notes[0]
        assert all("mode" not in reason for reason in found.reasons)

    def test_two_speeds_one_after_the_other_are_a_drift_and_no_modes(self) -> None:
        found = validity_of(closed_loop(1, 8.0, lambda rng, now: steady(rng, now) * (1 if now < 4 else 5)))
        assert found.verdict is ValidityLevel.UNSETTLED and "latency rises" in found.reasons[0]
        assert found.notes == ()

    def test_long_answers_that_come_last_are_no_drift(self) -> None:
        """Where each slot has few requests, those sent at once end in the order of their length."""
        for seed in range(20):
            rng = np.random.default_rng(seed)
            records = closed_loop(100, 0.02, lambda _, now, rng=rng: rng.lognormal(math.log(0.004), 0.5))
            assert not any("over the run: typically" in reason for reason in validity_of(records).reasons)

    def test_regular_pauses_are_told_with_their_period_and_length(self) -> None:
        def paused(rng: np.random.Generator, now: float) -> float:
            end = now + steady(rng, now)
            return end - now + (0.1 if math.floor(end) > math.floor(now) else 0.0)

        found = validity_of(closed_loop(4, 10.0, paused))
        assert any(note.startswith("every 1 s nothing is answered for about 10") for note in found.notes)
        assert validity_of(closed_loop(4, 10.0, steady)).notes == ()


class TestTooFew:
    @pytest.mark.parametrize("seconds", [0.4, 2.0])
    def test_the_time_that_is_named_is_enough_and_hardly_more(self, seconds: float) -> None:
        found = validity_of(closed_loop(1, seconds, lambda rng, now: 5 * steady(rng, now)))
        assert found.verdict is ValidityLevel.TOO_SHORT
        assert found.recommendation is not None
        named = float(found.recommendation.split()[2])
        assert found.recommendation.endswith(" s, or 368 requests")
        again = summarise(closed_loop(1, named, lambda rng, now: 5 * steady(rng, now)))
        assert again.validity.verdict is not ValidityLevel.TOO_SHORT
        assert again.answered < 1.15 * 368

    def test_requests_that_fail_are_counted_in(self) -> None:
        due = np.arange(100) / 100
        records = rows(
            {"kind": "open"},
            due,
            due + 0.004,
            seconds=1.0,
            status=np.arange(100) % 2,
            reasons=("ok", "HTTP 500"),
        )
        assert validity_of(records).recommendation == "measure for 7.8 s, or 736 requests"


def test_higher_percentiles_intervals_lie_no_lower_at_either_end() -> None:
    """A long stall makes the tail's requests count as few, so that its interval is far wider than that of p90."""
    crossed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        series = rng.lognormal(0, 0.1, 8000)
        for at in rng.integers(0, 7800, 12):
            series[at : at + 90] *= 3
        shares = (0.5, 0.9, 0.95, 0.99, 0.999)
        alone = [quantile_estimates(series, (p,))[0].interval for p in shares]
        together = quantile_estimates(series, shares)
        lows = [e.interval.low for e in together if e.interval]
        highs = [e.interval.high for e in together if e.interval]
        assert lows == sorted(lows) and highs == sorted(highs)
        for estimate, single in zip(together, alone, strict=True):
            assert (estimate.interval is None) == (single is None)
            if estimate.interval is not None and estimate.value is not None and single is not None:
                assert estimate.interval.contains(estimate.value)
                assert single.low <= estimate.interval.low and estimate.interval.high <= single.high
        kept = [interval for interval in alone if interval is not None]
        crossed += any(b.low < a.low or b.high < a.high for a, b in pairwise(kept))
    assert crossed > 0, "else this shows nothing"


def test_text_and_reports_give_the_cause_its_advice_and_the_rest_after_it() -> None:
    records = open_loop(300, 100, 4.0)
    summary = summarise(records)
    text = text_of_result(LoadTestResult(records, summary, None), load_from_dict(records.header.load))
    labels = [line.split()[0] for line in text.splitlines()[1:]]
    assert labels[:2] == ["because", "try"] and labels.count("try") == 1 and "also" in labels
    noted = replace(summary, validity=replace(summary.validity, notes=("every 1 s nothing",)))
    page, pull = load_html_of(records, noted), load_markdown_of(records, noted)
    for told in (*noted.validity.reasons, noted.validity.recommendation, "every 1 s nothing"):
        assert told is not None and told in page and told in pull
    assert typed(Summary, json_of(noted)).validity == noted.validity
