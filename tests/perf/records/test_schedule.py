from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.records.schedule import (
    NS_PER_S,
    Closed,
    Load,
    Open,
    Replay,
    intended_send_times_ns,
    load_as_dict,
    load_from_dict,
    load_label,
)

rates = st.floats(0.5, 5000, allow_nan=False)
steps = st.lists(st.tuples(rates, st.floats(0.01, 2)), max_size=3).map(tuple)


def test_a_constant_rate_is_evenly_spaced_from_zero() -> None:
    times = intended_send_times_ns(Open(200), duration_s=1.0)
    assert len(times) == 200
    assert times[0] == 0
    assert set(np.diff(times)) == {NS_PER_S // 200}


def test_a_ramp_sends_half_as_many_as_the_full_rate_would() -> None:
    times = intended_send_times_ns(Open(100, ramp_s=2.0), duration_s=2.0)
    assert len(times) == 100
    assert times[25] == NS_PER_S  # a quarter of the ramp's area lies in its first half


def test_steps_precede_the_last_rate() -> None:
    times = intended_send_times_ns(Open(100, steps=((10, 1.0), (50, 1.0))), duration_s=3.0)
    per_second = np.histogram(times, bins=3, range=(0, 3 * NS_PER_S))[0]
    assert per_second.tolist() == [10, 50, 100]


def test_poisson_gaps_have_the_exponential_mean_and_spread() -> None:
    gaps = np.diff(intended_send_times_ns(Open(1000, "poisson", seed=7), requests=20_000)) / NS_PER_S
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert gaps.std() == pytest.approx(1e-3, rel=0.05)


def test_a_replay_is_sorted_and_cut_at_the_duration() -> None:
    times = intended_send_times_ns(Replay((30, 10, 20, 2 * NS_PER_S)), duration_s=1.0)
    assert times.tolist() == [10, 20, 30]


@settings(max_examples=60, deadline=None)
@given(
    rate=rates,
    arrival=st.sampled_from(["constant", "poisson"]),
    seed=st.integers(0, 2**32 - 1),
    ramp_s=st.floats(0, 2),
    steps=steps,
    duration_s=st.floats(0.01, 5),
)
def test_send_times_ascend_within_the_duration_and_come_from_the_seed(
    rate: float,
    arrival: str,
    seed: int,
    ramp_s: float,
    steps: tuple[tuple[float, float], ...],
    duration_s: float,
) -> None:
    load = Open(rate, "poisson" if arrival == "poisson" else "constant", seed, ramp_s, steps)
    times = intended_send_times_ns(load, duration_s=duration_s)
    assert (np.diff(times) >= 0).all()
    assert times.size == 0 or (times[0] >= 0 and times[-1] < duration_s * NS_PER_S + 1)
    assert np.array_equal(times, intended_send_times_ns(load, duration_s=duration_s))
    shorter = intended_send_times_ns(load, duration_s=duration_s / 2)
    assert np.array_equal(shorter, times[: len(shorter)]), "a longer run begins as the shorter one"


@settings(max_examples=60, deadline=None)
@given(rate=rates, ramp_s=st.floats(0, 2), steps=steps, duration_s=st.floats(0.1, 5))
@example(rate=1.0, ramp_s=0.0, steps=((1202.0, 0.01),), duration_s=2.0)
def test_a_constant_arrival_counts_the_area_under_the_rate(
    rate: float, ramp_s: float, steps: tuple[tuple[float, float], ...], duration_s: float
) -> None:
    times = intended_send_times_ns(Open(rate, ramp_s=ramp_s, steps=steps), duration_s=duration_s)
    starts = np.cumsum([ramp_s, *(length for _, length in steps)])
    values = np.array([*(r for r, _ in steps), rate])
    # A triangle, and a rectangle for each step and what follows them; exact, as a grid is not at a short step.
    ramped_s = min(ramp_s, duration_s)
    area = values[0] * ramped_s**2 / (2 * ramp_s) if ramp_s else 0.0
    area += float(values @ np.diff(np.minimum([*starts, np.inf], duration_s)))
    assert abs(len(times) - area) <= 1 + 0.002 * area


@pytest.mark.parametrize(
    "load",
    [
        Closed(8),
        Closed(3, 1.5),
        Closed(3, 0.0, ((2, 1.0),)),
        Open(10.5, "poisson", 3, 0.5, ((1.0, 2.0),)),
        Replay((1, 2)),
    ],
    ids=str,
)
def test_a_load_round_trips_through_json(load: Load) -> None:
    import json

    assert load_from_dict(json.loads(json.dumps(load_as_dict(load)))) == load
    assert load_label(load)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Closed(0),
        lambda: Closed(1, steps=((0, 1.0),)),
        lambda: Open(0),
        lambda: Open(float("nan")),
        lambda: Open(float("inf")),
        lambda: Open(1, "burst"),  # type: ignore[arg-type]
        lambda: Open(1, ramp_s=-1),
        lambda: Open(1, steps=((0, 1),)),
        lambda: Replay(()),
        lambda: Replay((-1,)),
    ],
)
def test_a_load_that_cannot_be_sent_is_refused(make: object) -> None:
    with pytest.raises(UsageError) as error:
        make()  # type: ignore[operator]
    assert error.value.code == "bad_load"
