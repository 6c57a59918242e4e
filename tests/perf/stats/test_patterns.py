"""The course of a run: drift, modes and stalls are found, and steady runs of any shape are left alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tritonsmith.perf.stats.patterns.drift import find_drift
from tritonsmith.perf.stats.patterns.modes import find_modes
from tritonsmith.perf.stats.patterns.stalls import Stalls, find_stalls

MS = 1_000_000
Draw = Callable[[np.random.Generator, int], Any]

SHAPES: dict[str, Draw] = {
    "lognormal, narrow": lambda rng, n: rng.lognormal(0, 0.1, n),
    "lognormal, wide": lambda rng, n: rng.lognormal(0, 1.2, n),
    "exponential": lambda rng, n: rng.exponential(1, n),
    "gamma 2": lambda rng, n: rng.gamma(2, 1, n),
    "gamma 20": lambda rng, n: rng.gamma(20, 1, n),
    "a queue's waits": lambda rng, n: waits(rng, n, 0.8),
    "Pareto": lambda rng, n: 1 + rng.pareto(1.5, n),
}


def correlated(rng: np.random.Generator, n: int, memory: float) -> Any:
    """An autoregressive series of standard deviation 1."""
    value, series = 0.0, np.empty(n + 500)
    for i, shock in enumerate(rng.standard_normal(n + 500)):
        value = memory * value + math.sqrt(1 - memory**2) * shock
        series[i] = value
    return series[500:]


def many_correlated(rng: np.random.Generator, n: int, memory: float, runs: int) -> Any:
    """[runs, n] of the same, by its integrated autocorrelation time: (1 + r) / (1 - r) values."""
    each = (memory - 1) / (memory + 1)
    before, now = int(5 * memory) + 1, rng.standard_normal(runs)
    shocks = math.sqrt(1 - each**2) * rng.standard_normal((before + n, runs))
    series = np.empty_like(shocks)
    for i, shock in enumerate(shocks):
        now = series[i] = each * now + shock
    return series[before:].T


def waits(rng: np.random.Generator, n: int, load: float) -> Any:
    """Times in a queue with one server (M/M/1), one after the other."""
    waiting, series = 0.0, np.empty(n + 500)
    service, between = rng.exponential(1, n + 500), rng.exponential(1 / load, n + 500)
    for i in range(n + 500):
        series[i] = waiting + service[i]
        waiting = max(0.0, series[i] - between[i])
    return series[500:]


class TestDrift:
    def _share(self, runs: int, make: Callable[[np.random.Generator], Any]) -> float:
        rng = np.random.default_rng(17)
        return sum(find_drift(np.exp(make(rng)), logged=True) is not None for _ in range(runs)) / runs

    @pytest.mark.parametrize(("memory", "runs"), [(0.0, 100), (0.9, 300)])
    def test_a_steady_run_is_hardly_ever_said_to_drift_whatever_its_memory(
        self, memory: float, runs: int
    ) -> None:
        assert self._share(runs, lambda rng: 0.3 * correlated(rng, 400, memory)) <= 0.05

    @pytest.mark.nightly
    @pytest.mark.parametrize("n", [400, 1000, 4000])
    @pytest.mark.parametrize("kind", ["0", "0.5", "0.9", "queue 0.7"])
    def test_false_alarms_stay_below_one_in_twenty(self, n: int, kind: str) -> None:
        def make(rng: np.random.Generator) -> Any:
            if kind.startswith("queue"):
                return np.log(waits(rng, n, 0.7))
            return 0.3 * correlated(rng, n, float(kind))

        assert self._share(400, make) <= 0.05

    @pytest.mark.parametrize("memory", [1 / 6, 1.0])
    def test_a_memory_as_long_as_the_run_is_not_taken_for_a_drift(self, memory: float) -> None:
        """Of 400 values: the integrated autocorrelation time over the length of the run."""
        rng = np.random.default_rng(11)
        series = np.exp(0.3 * many_correlated(rng, 400, 400 * memory, runs=300))
        assert np.mean([find_drift(row, logged=True) is not None for row in series]) <= 0.05

    @pytest.mark.nightly
    @pytest.mark.parametrize("n", [200, 1000, 4000])
    @pytest.mark.parametrize("memory", [1 / 50, 1 / 12, 1 / 6, 1 / 3, 1.0])
    def test_no_memory_gives_more_false_alarms_than_one_in_twenty(self, n: int, memory: float) -> None:
        rng = np.random.default_rng(12)
        series = np.exp(0.3 * many_correlated(rng, n, n * memory, runs=1000))
        assert np.mean([find_drift(row, logged=True) is not None for row in series]) <= 0.055

    @pytest.mark.parametrize(
        ("n", "deviation", "memory"), [(400, 0.2, 0.0), (1000, 0.2, 0.0), (4000, 0.5, 0.0), (4000, 0.3, 0.5)]
    )
    def test_a_rise_by_a_fifth_over_the_run_is_found(self, n: int, deviation: float, memory: float) -> None:
        rise = np.linspace(0, math.log(1.2), n)
        assert self._share(60, lambda rng: rise + deviation * correlated(rng, n, memory)) >= 0.9

    @pytest.mark.parametrize("at", [0.25, 0.5, 0.8])
    def test_a_step_in_the_run_is_found(self, at: float) -> None:
        step = 0.2 * (np.arange(4000) >= at * 4000)
        assert self._share(20, lambda rng: step + 0.2 * rng.standard_normal(4000)) >= 0.9

    def test_what_is_told_is_the_first_quarter_and_the_last(self) -> None:
        found = find_drift(np.linspace(1, 9, 4000) * MS, logged=True)
        assert found is not None
        assert found.first == pytest.approx(1.9 * MS, rel=0.05)
        assert found.last == pytest.approx(8.0 * MS, rel=0.05)
        assert found.relative == pytest.approx(found.last / found.first - 1)

    def test_one_long_stall_is_no_drift(self) -> None:
        def stalled(rng: np.random.Generator) -> Any:
            series = 0.2 * rng.standard_normal(4000)
            series[3000:3040] += 4
            return series

        assert self._share(50, stalled) <= 0.05

    def test_a_change_too_small_to_matter_is_none(self) -> None:
        assert find_drift(np.linspace(100, 104, 1000)) is None


class TestModes:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_one_hump_is_not_taken_for_two(self, shape: str) -> None:
        rng = np.random.default_rng(3)
        found = [find_modes(MS * SHAPES[shape](rng, n)) for n in (400, 3000) for _ in range(25)]
        assert sum(map(bool, found)) <= 1

    @pytest.mark.nightly
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("n", [200, 400, 2000, 20_000])
    def test_false_alarms_stay_below_one_in_thirty(self, shape: str, n: int) -> None:
        rng = np.random.default_rng(4)
        runs = 300 if n <= 2000 else 30
        assert sum(bool(find_modes(MS * SHAPES[shape](rng, n))) for _ in range(runs)) / runs <= 1 / 30

    @pytest.mark.parametrize(
        ("share", "times", "deviation"), [(0.3, 20, 0.3), (0.1, 20, 0.3), (0.5, 2, 0.12)]
    )
    def test_two_humps_have_their_share_and_their_place(
        self, share: float, times: float, deviation: float
    ) -> None:
        rng = np.random.default_rng(5)
        for _ in range(20):
            slow = rng.random(2000) < share
            found = find_modes(2 * MS * rng.lognormal(0, deviation, 2000) * np.where(slow, times, 1))
            assert [mode.median_ns / MS for mode in found] == pytest.approx([2, 2 * times], rel=0.1)
            assert found[1].share == pytest.approx(slow.mean(), abs=0.02)

    def test_latencies_that_are_all_one_of_two_values_are_two_modes(self) -> None:
        found = find_modes(np.repeat([2.0, 40.0], [700, 300]) * MS)
        assert [(mode.share, mode.median_ns) for mode in found] == [(0.7, 2 * MS), (0.3, 40 * MS)]
        assert find_modes(np.full(1000, 2.0 * MS)) == ()

    def test_a_few_outliers_are_no_mode(self) -> None:
        latency = np.random.default_rng(6).lognormal(0, 0.2, 1000) * MS
        latency[::50] *= 30
        assert find_modes(latency) == ()


def pausing(period_s: float, length_s: float) -> Callable[[float, float], float]:
    """(begun, work) → ended, of a server that stands still for so long at the start of each period."""
    works = period_s - length_s

    def ended(begun: float, work: float) -> float:
        periods = int(begun // period_s)
        done = periods * works + max(0.0, min(begun - periods * period_s - length_s, works)) + work
        periods = int(done // works)
        return periods * period_s + length_s + done - periods * works

    return ended


def closed_loop(
    concurrency: int, seconds: float, work: Callable[[int], float], ended: Callable[[float, float], float]
) -> tuple[Any, Any, Any]:
    """scheduled_ns, end_ns and payload_index of answered requests, as they ended; 32 payloads in turn."""
    rows = []
    for slot in range(concurrency):
        now, number = 0.0, slot
        while now < seconds:
            payload = number % 32
            end = ended(now, work(payload))
            rows.append((now, end, payload))
            now, number = end, number + 7
    table = np.array(sorted(rows, key=lambda row: row[1]))
    times = (table[:, :2] * 1e9).astype(np.int64)
    return times[:, 0], times[:, 1], table[:, 2].astype(np.int64)


def _at_once(begun: float, work: float) -> float:
    return begun + work


class TestStalls:
    @pytest.mark.parametrize("concurrency", [1, 8])
    @pytest.mark.parametrize(("period_s", "length_s", "seconds"), [(1.0, 0.1, 6.0), (0.1, 0.04, 2.0)])
    def test_regular_pauses_have_their_period_and_length(
        self, concurrency: int, period_s: float, length_s: float, seconds: float
    ) -> None:
        rng = np.random.default_rng(7)
        rows = closed_loop(
            concurrency, seconds, lambda _: rng.lognormal(math.log(0.002), 0.3), pausing(period_s, length_s)
        )
        found = find_stalls(*rows)
        assert found is not None
        assert found.period_s == pytest.approx(period_s, rel=0.03)
        assert found.length_s == pytest.approx(length_s, rel=0.15)
        assert found.count == pytest.approx(seconds / period_s, abs=2)

    def test_an_open_loops_pauses_are_found_too(self) -> None:
        rng, ended, free = np.random.default_rng(8), pausing(1.0, 0.1), 0.0
        due = np.cumsum(rng.exponential(0.01, 800))
        end = np.array([free := ended(max(at, free), rng.exponential(0.002)) for at in due])
        found = find_stalls(
            (due * 1e9).astype(np.int64), (end * 1e9).astype(np.int64), np.zeros(800, np.int64)
        )
        assert found is not None and found.period_s == pytest.approx(1.0, rel=0.03)

    @pytest.mark.parametrize("shape", [shape for shape in SHAPES if "queue" not in shape])
    def test_long_requests_by_chance_are_no_stalls(self, shape: str) -> None:
        rng = np.random.default_rng(9)
        for concurrency in (1, 4):
            for _ in range(5):
                rows = closed_loop(
                    concurrency, 1.5, lambda _: 0.002 * float(SHAPES[shape](rng, 1)[0]), _at_once
                )
                assert find_stalls(*rows) is None

    def test_the_long_request_of_a_pool_is_no_stall_though_it_comes_at_regular_times(self) -> None:
        rows = closed_loop(1, 3.0, lambda payload: 0.03 if payload == 3 else 0.002, _at_once)
        assert find_stalls(*rows) is None
        same = (rows[0], rows[1], np.random.default_rng(1).integers(0, 32, rows[0].size))
        assert isinstance(find_stalls(*same), Stalls), "had they been different requests"

    def test_a_server_without_a_request_does_not_stall(self) -> None:
        due = np.concatenate([second * 1000 * MS + np.arange(220) * 3 * MS for second in range(10)])
        assert find_stalls(due, due + 2 * MS, np.zeros(2200, np.int64)) is None
