"""A load (concurrency | request rate × arrival, seed | timestamps) → intended send times in ns; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.records.typed import json_of, typed

Arrival = Literal["constant", "poisson"]
NS_PER_S = 1_000_000_000
MOST_REQUESTS = 100_000_000
"""Of one open loop: some 5 GB of rows."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Closed loop: `concurrency` requests in flight, each answer sends the next request.

    ramp_s: the slots start one after the other, spread over this time.
    steps:  further (concurrency, duration_s) pieces that precede the concurrency above.
    """

    concurrency: int
    ramp_s: float = 0.0
    steps: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        _positive("concurrency", self.concurrency)
        _not_negative("ramp_s", self.ramp_s)
        for concurrency, duration_s in self.steps:
            _positive("a step's concurrency", concurrency)
            _positive("a step's duration_s", duration_s)

    @property
    def most(self) -> int:
        """Requests in flight at most."""
        return max(self.concurrency, *(concurrency for concurrency, _ in self.steps), 0)


@dataclass(frozen=True, slots=True)
class Open:
    """Open loop: requests are due at a rate, answered or not.

    arrival: `constant`, evenly spaced; `poisson`, independent exponential gaps drawn from `seed`.
    ramp_s:  the rate climbs linearly from 0 to request_rate_per_s over this time.
    steps:   further (request_rate_per_s, duration_s) pieces that precede the rate above.
    """

    request_rate_per_s: float
    arrival: Arrival = "constant"
    seed: int = 0
    ramp_s: float = 0.0
    steps: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        _positive("request_rate_per_s", self.request_rate_per_s)
        _not_negative("ramp_s", self.ramp_s)
        if self.arrival not in ("constant", "poisson"):
            raise UsageError(
                "unknown arrival", code="bad_load", seen=self.arrival, valid=["constant", "poisson"]
            )
        for rate_per_s, duration_s in self.steps:
            _positive("a step's request rate", rate_per_s)
            _positive("a step's duration_s", duration_s)


@dataclass(frozen=True, slots=True)
class Replay:
    """Open loop: requests are due at these offsets from the start, in nanoseconds, in any order."""

    timestamps_ns: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.timestamps_ns or min(self.timestamps_ns) < 0:
            raise UsageError(
                "a replay needs at least one timestamp, none before 0",
                code="bad_load",
                seen=min(self.timestamps_ns, default="no timestamp"),
            )


Load = Closed | Open | Replay
"""What is asked of the generator."""

_KINDS: dict[str, type[Load]] = {"closed": Closed, "open": Open, "replay": Replay}


def load_as_dict(load: Load) -> dict[str, Any]:
    """The load as JSON, with its kind."""
    kind = type(load).__name__.lower()
    data = {"kind": kind, **json_of(load)}
    if kind == "closed" and not data["steps"]:
        del data["steps"]
    return data


def load_from_dict(data: Mapping[str, Any]) -> Load:
    """The inverse of load_as_dict."""
    return typed(_KINDS[data["kind"]], data)


def load_label(load: Load) -> str:
    """A few words for people: `concurrency 8`, `200 requests/s poisson`."""
    if isinstance(load, Closed):
        return "concurrency " + " → ".join(str(c) for c in (*(c for c, _ in load.steps), load.concurrency))
    if isinstance(load, Replay):
        return f"replay of {len(load.timestamps_ns)} requests"
    rates = " → ".join(f"{rate:g}" for rate in (*(rate for rate, _ in load.steps), load.request_rate_per_s))
    return f"{rates} requests/s {load.arrival}"


def intended_send_times_ns(
    load: Open | Replay, *, duration_s: float | None = None, requests: int | None = None
) -> npt.NDArray[np.int64]:
    """int64 (n,), ascending offsets from the start at which requests are due.

    duration_s: only what is due before this offset; requests: at most this many. An open load needs one of
    the two. The arrivals of unit rate (0, 1, 2 … or sums of exponential gaps) are mapped through the inverse
    of the expected count Λ(t) = ∫ rate, which gives an (in)homogeneous Poisson process when the gaps are
    exponential (Çinlar, Introduction to Stochastic Processes, 1975: time change of a Poisson process).
    """
    limit_ns = None if duration_s is None else round(duration_s * NS_PER_S)
    if isinstance(load, Replay):
        times = np.sort(np.asarray(load.timestamps_ns, np.int64))
    else:
        times = _open_times_ns(load, duration_s, requests)
    if limit_ns is not None:
        times = times[: np.searchsorted(times, limit_ns, side="left")]
    return times if requests is None else times[:requests]


def _open_times_ns(load: Open, duration_s: float | None, requests: int | None) -> npt.NDArray[np.int64]:
    pieces = _pieces(load)
    if requests is None:
        if duration_s is None:
            raise ValueError("an open load needs duration_s or requests")
        expected = _expected_count(pieces, duration_s)
        # Ten standard deviations above the mean: the chance of drawing too few gaps is below 1e-20.
        requests = int(expected + 10 * np.sqrt(expected) + 16)
    if requests > MOST_REQUESTS:
        raise UsageError(
            "more requests than one record can hold",
            code="bad_load",
            seen=f"{requests:,}",
            valid=[f"up to {MOST_REQUESTS:,}"],
            fix="a lower rate, or a shorter time",
        )
    if load.arrival == "constant":
        counts = np.arange(requests, dtype=np.float64)
    else:
        counts = np.cumsum(np.random.default_rng(load.seed).standard_exponential(requests))
    return np.asarray(np.rint(_time_of_count_s(pieces, counts) * NS_PER_S), np.int64)


Piece = tuple[float, float, float]
"""(duration_s, rate at its start, rate at its end); the rate is linear in between."""


def _pieces(load: Open) -> list[Piece]:
    first_rate = load.steps[0][0] if load.steps else load.request_rate_per_s
    pieces: list[Piece] = [(load.ramp_s, 0.0, first_rate)] if load.ramp_s >= 1 / NS_PER_S else []
    pieces += [(duration_s, rate, rate) for rate, duration_s in load.steps]
    return [*pieces, (np.inf, load.request_rate_per_s, load.request_rate_per_s)]


def _expected_count(pieces: list[Piece], duration_s: float) -> float:
    total = 0.0
    for piece_s, start_rate, end_rate in pieces:
        part_s = min(piece_s, duration_s)
        reached = end_rate if np.isinf(piece_s) else start_rate + (end_rate - start_rate) * part_s / piece_s
        total += part_s * (start_rate + reached) / 2
        duration_s -= part_s
        if duration_s <= 0:
            break
    return total


def _time_of_count_s(pieces: list[Piece], counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse of the expected count: when Λ(t) reaches each of the ascending counts."""
    times = np.empty_like(counts)
    begin_s, begin_count, done = 0.0, 0.0, 0
    for piece_s, start_rate, end_rate in pieces:
        end_count = np.inf if np.isinf(piece_s) else begin_count + piece_s * (start_rate + end_rate) / 2
        upto = int(np.searchsorted(counts, end_count, side="left"))
        wanted = counts[done:upto] - begin_count
        if start_rate == end_rate:
            offsets = wanted / start_rate
        else:
            slope = (end_rate - start_rate) / piece_s
            offsets = (np.sqrt(start_rate**2 + 2 * slope * wanted) - start_rate) / slope
        times[done:upto] = begin_s + offsets
        begin_s, begin_count, done = begin_s + piece_s, end_count, upto
    return times


def _positive(name: str, value: float) -> None:
    if not (value > 0 and np.isfinite(value)):
        raise UsageError(f"{name} must be above 0", code="bad_load", seen=value)


def _not_negative(name: str, value: float) -> None:
    if not (value >= 0 and np.isfinite(value)):
        raise UsageError(f"{name} must not be negative", code="bad_load", seen=value)
