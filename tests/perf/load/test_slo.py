"""The search for the highest rate within a limit, on a simulated server whose true answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tritonsmith.perf.load.slo import Probe, find_rate

LIMIT_MS = 20.0
CAPACITY_PER_S = 1000.0


def true_p99_ms(rate_per_s: float) -> float:
    """An M/M/1-like queue of 2 ms service time at p99: reaches the limit at 90 % of the capacity."""
    return 2.0 / max(1e-9, 1 - rate_per_s / CAPACITY_PER_S) if rate_per_s < CAPACITY_PER_S else math.inf


TRUE_RATE = 900.0


def simulated(
    seed: int, noise: float = 0.03, stalls: float = 0.0, client_per_s: float = math.inf
) -> Callable[[float], Probe]:
    rng = np.random.default_rng(seed)

    def measure(rate_per_s: float) -> Probe:
        if rate_per_s > client_per_s:
            return Probe(rate_per_s, "client", True, None, "")
        p99_ms = true_p99_ms(rate_per_s) * float(np.exp(rng.normal(0, noise)))
        if rng.random() < stalls:
            p99_ms += 100.0
        half = 2 * noise * p99_ms
        clear = abs(p99_ms - LIMIT_MS) > half
        return Probe(rate_per_s, "met" if p99_ms <= LIMIT_MS else "missed", clear, p99_ms, "")

    return measure


@pytest.mark.parametrize("start", [1.0, 50.0, 450.0, 5000.0])
def test_the_true_rate_is_found_from_anywhere(start: float) -> None:
    found = find_rate(simulated(1, noise=1e-6), LIMIT_MS, start)
    assert found.rate_per_s is not None and found.missed_per_s is not None
    assert found.rate_per_s <= TRUE_RATE <= found.missed_per_s
    assert found.missed_per_s / found.rate_per_s < 1.06
    assert len(found.probes) < 30


def test_noise_and_stalls_leave_the_answer_within_a_tenth_in_nearly_all_searches() -> None:
    rates = [find_rate(simulated(seed, 0.05, 0.05), LIMIT_MS, 300.0).rate_per_s for seed in range(100)]
    near = sum(rate is not None and abs(rate / TRUE_RATE - 1) < 0.1 for rate in rates)
    assert near >= 95, sorted(rate or 0 for rate in rates)


def test_an_earlier_answer_saves_most_of_the_search() -> None:
    first = find_rate(simulated(1), LIMIT_MS, 10.0)
    again = find_rate(simulated(2), LIMIT_MS, 10.0, known_per_s=first.rate_per_s)
    assert again.rate_per_s == pytest.approx(TRUE_RATE, rel=0.1)
    assert len(again.probes) <= len(first.probes) - 5


def test_when_no_rate_keeps_the_limit_the_nearest_is_told() -> None:
    impossible = find_rate(lambda rate: Probe(rate, "missed", True, 30.0, ""), LIMIT_MS, 300.0)
    assert impossible.rate_per_s is None
    assert impossible.sentence.startswith("No request rate keeps p99 ≤ 20 ms: the nearest")
    assert impossible.sentence.endswith("30.0 ms, 50% above.")


def test_a_client_that_cannot_send_more_is_said_and_not_held_against_the_server() -> None:
    found = find_rate(simulated(1, client_per_s=400.0), LIMIT_MS, 100.0)
    assert found.limited_by == "client" and found.missed_per_s is None
    assert found.rate_per_s == pytest.approx(400.0, rel=0.06)
    assert "the server may take more" in found.sentence


def test_an_interrupted_search_tells_what_it_knows() -> None:
    probes = iter([Probe(100.0, "met", True, 3.0, ""), None])
    found = find_rate(lambda rate: next(probes), LIMIT_MS, 100.0)
    assert (found.rate_per_s, found.missed_per_s) == (100.0, None)
    assert "no higher rate was tried" in found.sentence


def test_a_limit_below_the_models_own_time_is_given_up_after_a_few_probes() -> None:
    def measure(rate_per_s: float) -> Probe:
        p99_ms = true_p99_ms(rate_per_s) + 50.0
        steady = rate_per_s < CAPACITY_PER_S
        return Probe(rate_per_s, "missed", True, p99_ms, "", 0.8 * p99_ms if steady else None)

    found = find_rate(measure, LIMIT_MS, 5000.0)
    assert found.rate_per_s is None and len(found.probes) <= 14
    assert "No request rate keeps p99 ≤ 20 ms: the nearest" in found.sentence


def test_a_start_far_beyond_what_the_server_can_do_is_not_taken_for_its_floor() -> None:
    found = find_rate(simulated(3), LIMIT_MS, 50_000.0)
    assert found.rate_per_s == pytest.approx(TRUE_RATE, rel=0.1)
