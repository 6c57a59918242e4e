"""A measurement at any request rate → the highest rate at which p99 stays within a limit, safe against noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, computed_field

from tritonsmith.perf.records.schedule import Open
from tritonsmith.perf.stats import Summary

T = TypeVar("T")

GROW = 1.6
TOLERANCE = 0.05
MOST_PROBES = 40
LEAST_REQUESTS = 400
"""What p99 needs for an interval (perf.stats.intervals.requests_for_quantile says 368)."""
LONGEST_PROBE_S = 20.0
MOST_FAILED_SHARE = 0.01
LEAST_ANSWERED_SHARE = 0.9
STEADY_SHARE = 0.05
FLOOR_SHARE = 0.8
"""A median that falls by less when the rate is halved waits for no queue."""

Outcome = Literal["met", "missed", "client"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement at one rate.

    outcome: `client` when the client could not send at this rate, which says nothing of the server.
    clear:   the interval of p99 lies on one side of the limit, or the server fell behind.
    p50_ms:  of a server that kept up; else None.
    """

    rate_per_s: float
    outcome: Outcome
    clear: bool
    p99_ms: float | None
    why: str
    p50_ms: Annotated[float | None, Field(exclude=True)] = None


@dataclass(frozen=True, slots=True)
class SloResult:
    """What the search found.

    rate_per_s:   the highest rate that met the limit and was confirmed; None when none did.
    missed_per_s: the lowest rate above it that did not; None when the client was the limit.
    limited_by:   `server`, or `client` when it could send no more: the server may take more.
    interrupted:  the search was stopped before its end, so that the rates are only what was known then.
    """

    limit_ms: float
    rate_per_s: float | None
    missed_per_s: float | None
    limited_by: Literal["server", "client"]
    probes: tuple[Probe, ...]
    interrupted: bool = False

    @computed_field  # type: ignore[prop-decorator]
    @property
    def sentence(self) -> str:
        """The finding for people."""
        limit = f"p99 ≤ {self.limit_ms:g} ms"
        if self.interrupted:
            so_far = "none was found" if self.rate_per_s is None else f"{self.rate_per_s:,.4g}/s does"
            return f"The search for the highest rate that keeps {limit} was interrupted; so far {so_far}."
        if self.rate_per_s is None:
            known = [probe for probe in self.probes if probe.p99_ms is not None]
            if not known:
                return f"No request rate keeps {limit}: no request was answered."
            nearest = min(known, key=lambda probe: probe.p99_ms or math.inf)
            above = beyond_words((nearest.p99_ms or 0.0) / self.limit_ms)
            shown = f"{nearest.rate_per_s:,.4g}/s has {nearest.p99_ms:.1f} ms"
            return f"No request rate keeps {limit}: the nearest, {shown}, {above}."
        text = f"{self.rate_per_s:,.4g} requests/s keep {limit}"
        if self.missed_per_s is None and self.limited_by == "server":
            return f"{text}; no higher rate was tried."
        if self.limited_by == "client":
            return f"{text}; the client could send no more, the server may take more."
        return f"{text}; {self.missed_per_s:,.4g}/s do not."


def beyond_words(times: float) -> str:
    """`12% above`, `890 times the limit`: how far beyond a limit a value is."""
    return f"{times - 1:.0%} above" if times < 5 else f"{times:.3g} times the limit"


def probe_from_summary(rate_per_s: float, summary: Summary, limit_ms: float) -> Probe:
    """An open-loop summary → on which side of the limit the rate is."""
    p99 = summary.latency_ns["p99"]
    p99_ms = None if p99.value is None else p99.value / 1e6
    p50_ns = summary.latency_ns["p50"].value
    # Where the server falls behind, the median is a share of the measurement and says nothing of the server.
    is_steady = p50_ns is not None and p50_ns < STEADY_SHARE * 1e9 * summary.duration_s
    p50_ms = p50_ns / 1e6 if p50_ns is not None and is_steady else None

    def probe(outcome: Outcome, clear: bool, why: str) -> Probe:
        return Probe(rate_per_s, outcome, clear, p99_ms, why, p50_ms)

    failed = sum(summary.failures.values())
    if failed > MOST_FAILED_SHARE * max(1, summary.requests):
        return probe("missed", True, f"{failed} of {summary.requests} requests failed")
    if p99_ms is None:
        return probe("missed", False, "no request was answered")
    if summary.overloaded:
        return probe("missed", True, f"the server fell behind, p99 {p99_ms:,.0f} ms")
    if summary.sent_per_s < LEAST_ANSWERED_SHARE * summary.scheduled_per_s:
        return probe("client", True, f"only {summary.sent_per_s:.0f}/s were sent")
    if p99.interval is None:
        return probe("met" if p99_ms <= limit_ms else "missed", False, f"p99 {p99_ms:.2f} ms ({p99.why})")
    low_ms, high_ms = p99.interval.low / 1e6, p99.interval.high / 1e6
    why = f"p99 {p99_ms:.2f} ms ({low_ms:.2f} to {high_ms:.2f})"
    if p99_ms <= limit_ms:
        return probe("met", high_ms <= limit_ms, why)
    return probe("missed", low_ms > limit_ms, why)


def probe_duration_s(rate_per_s: float, least_s: float) -> float:
    """Long enough for a p99 with an interval, within reason."""
    return max(least_s, min(LONGEST_PROBE_S, LEAST_REQUESTS / rate_per_s))


class _Ended(Exception):
    """The search is to end with what it has."""


class _Search:
    """One search: low is the highest rate known to meet the limit, high the lowest above it known not to."""

    def __init__(self, measure: Callable[[float], Probe | None], limit_ms: float) -> None:
        self._measure, self._limit_ms = measure, limit_ms
        self.probes: list[Probe] = []
        self.low: float | None = None
        self.high: float | None = None
        self.not_sent: set[float] = set()

    def bracket(self, rate: float, step: float, down: float | None = None) -> None:
        """From `rate` up by growing steps, or down by `down` (None: by the same steps), until both sides are known."""
        median_ms: float | None = None
        while self.low is None or self.high is None:
            if self._meets(rate):
                self.low, rate = rate, rate * step
            else:
                above_ms, median_ms = median_ms, self._median_ms(rate)
                if self.low is None and self._is_floor(median_ms, above_ms):
                    raise _Ended
                self.high, rate = rate, rate / (down or step)
            step = GROW if step == GROW else step**2
            if self.low is None and rate < LEAST_REQUESTS / LONGEST_PROBE_S / 40:
                raise _Ended

    def bisect(self) -> None:
        """Until the two sides are within the tolerance."""
        assert self.low is not None and self.high is not None
        while self.high / self.low > 1 + TOLERANCE:
            middle = math.sqrt(self.low * self.high)
            if self._meets(middle):
                self.low = middle
            else:
                self.high = middle

    def confirm(self) -> None:
        """The answer passes twice, or the next lower rate has to."""
        assert self.low is not None
        while not self._meets(self.low, confirm=True):
            self.high, self.low = self.low, self.low / (1 + TOLERANCE)

    def _meets(self, rate: float, confirm: bool = False) -> bool:
        votes = {"met": 0, "missed": 0}
        for _ in range(3):
            found = self._probe(rate)
            if found.outcome == "client":
                self.not_sent.add(rate)
                return False
            if found.outcome == "met" and found.clear and not confirm and not votes["missed"]:
                return True
            votes[found.outcome] += 1
            if max(votes.values()) == 2:
                break
        return votes["met"] >= 2

    def _probe(self, rate: float) -> Probe:
        found = self._measure(rate) if len(self.probes) < MOST_PROBES else None
        if found is None:
            raise _Ended
        self.probes.append(found)
        return found

    def _median_ms(self, rate: float) -> float | None:
        return min(
            (p.p50_ms for p in self.probes if p.rate_per_s == rate and p.p50_ms is not None), default=None
        )

    def _is_floor(self, here_ms: float | None, above_ms: float | None) -> bool:
        """Whether the median is beyond the limit as it was at the rate above: no queue is left to shorten, and no
        lower rate will do."""
        if here_ms is None or above_ms is None:
            return False
        return here_ms > self._limit_ms and here_ms > FLOOR_SHARE * above_ms


def find_rate(
    measure: Callable[[float], Probe | None],
    limit_ms: float,
    start_per_s: float,
    known_per_s: float | None = None,
) -> SloResult:
    """Bracket, bisect to 5 %, confirm.

    measure:     one probe at this rate; None ends the search with what is known (Ctrl-C, a spent budget).
    known_per_s: an earlier answer, beside which the search begins.

    A rate is decided by one clear pass, else by two probes that agree out of at most three: one stall of the
    machine makes one probe miss, rarely two. The answer itself must pass twice; where it does not, the next
    lower rate has to.
    """
    search = _Search(measure, limit_ms)
    with suppress(_Ended):
        if known_per_s:
            search.bracket(known_per_s * 0.97, 1.12)
        else:
            search.bracket(start_per_s, GROW, down=2.0)
        search.bisect()
        search.confirm()
    by_client = search.high in search.not_sent
    return SloResult(
        limit_ms,
        search.low,
        None if by_client else search.high,
        "client" if by_client else "server",
        tuple(search.probes),
    )


@dataclass(slots=True)
class RateSearch(Generic[T]):
    """find_rate over whole measurements, which are kept: Poisson arrivals, each probe's from a seed of its own.

    run:      (load, seconds) → what came of it, its summary, and whether Ctrl-C cut it short.
    least_s:  of a probe. seed: the first probe has the arrivals of the next one.
    floor_per_s: rates below are hopeless and not tried. whole: rate → what came of those that ran to their end.
    """

    run: Callable[[Open, float], tuple[T, Summary, bool]]
    limit_ms: float
    least_s: float
    seed: int
    floor_per_s: float = 0.0
    on_probe: Callable[[Probe], None] | None = None
    whole: dict[float, T] = field(default_factory=dict)
    last: T | None = None
    interrupted: bool = False

    def find(self, start_per_s: float, known_per_s: float | None = None) -> SloResult:
        """See find_rate."""
        found = find_rate(self._probe, self.limit_ms, start_per_s, known_per_s)
        return replace(found, interrupted=self.interrupted)

    def _probe(self, rate_per_s: float) -> Probe | None:
        if self.interrupted or rate_per_s < self.floor_per_s:
            return None
        self.seed += 1  # two probes that agree are to be two findings
        load = Open(rate_per_s, "poisson", self.seed)
        self.last, summary, self.interrupted = self.run(load, probe_duration_s(rate_per_s, self.least_s))
        if self.interrupted:
            return None
        self.whole[rate_per_s] = self.last
        probe = probe_from_summary(rate_per_s, summary, self.limit_ms)
        if self.on_probe is not None:
            self.on_probe(probe)
        return probe

    def best(self, found: SloResult) -> T | None:
        """What was measured at the rate that was found, else at the lowest one tried; None when none was to its end."""
        if found.rate_per_s in self.whole:
            return self.whole[found.rate_per_s]
        return self.whole[min(self.whole)] if self.whole else None
