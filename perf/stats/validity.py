"""What a measurement looked like → whether its numbers may be believed, why not, and what to do; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from tritonsmith.perf.stats.intervals import Estimate, Floats, batch_means, requests_for_quantile

LEAST_ANSWERS = 100
MOST_HALF_WIDTH = 0.10
MOST_DRIFT = 0.10
MOST_CPU_SHARE = 0.90
LEAST_LAG_NS = 200_000
MOST_LAG_SHARE = 0.20
LEAST_SENT_SHARE = 0.95
IDLE_CPU_SHARE = 0.5


class Verdict(str, Enum):
    """One word on a measurement; the worst that holds, in the order written here."""

    TOO_SHORT = "TOO_SHORT"
    CLIENT_BOUND = "CLIENT_BOUND"
    UNSETTLED = "UNSETTLED"
    VALID = "VALID"


@dataclass(frozen=True, slots=True)
class Validity:
    """The verdict, every reason behind it, and what to do about it; VALID has neither."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    recommendation: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rules below look at; latencies in order of completion, the rest as in Summary."""

    answered: int
    requests: int
    duration_s: float
    latencies_ns: Floats
    rates_per_s: Floats
    throughput: Estimate
    p50_ns: float | None
    p99: Estimate
    level: float
    warmup_settled: bool
    open_loop: bool
    send_lag_ns: Mapping[str, float]
    scheduled_per_s: float
    sent_per_s: float
    client_cpu_share: float | None
    interrupted: bool
    changes: bool = False
    """The load changes by steps, so its numbers are to change, too."""
    full_at: int = 0
    """An open loop had so many requests in flight, the most that it ever has; 0 when it did not come to that."""


Complaint = tuple[Verdict, str, str]
"""(verdict, reason, recommendation)"""


def judge(evidence: Evidence) -> Validity:
    """Every rule that complains, the worst verdict among them, and that one's recommendation."""
    complaints = [*_too_short(evidence), *_client_bound(evidence)]
    if not evidence.changes:
        complaints += _unsettled(evidence)
    if not complaints:
        return Validity(Verdict.VALID)
    order = list(Verdict)
    complaints.sort(key=lambda c: order.index(c[0]))
    return Validity(complaints[0][0], tuple(c[1] for c in complaints), complaints[0][2])


def _too_short(e: Evidence) -> Iterator[Complaint]:
    if e.answered == 0:
        what = "no request was sent" if e.requests == 0 else f"all {e.requests} requests failed"
        fix = "measure longer" if e.requests == 0 else "see the failures first"
        yield Verdict.TOO_SHORT, what, fix
        return
    needed = max(LEAST_ANSWERS, requests_for_quantile(0.99, e.level))
    if e.answered < needed:
        seconds = 1.2 * e.duration_s * needed / e.answered
        yield (
            Verdict.TOO_SHORT,
            f"{e.answered} answered requests; p99 with an interval needs {needed}",
            f"measure for {_round_up(seconds)} s or longer",
        )
    if e.interrupted:
        yield Verdict.TOO_SHORT, "interrupted before its time", "run it again to the end"


def _client_bound(e: Evidence) -> Iterator[Complaint]:
    more = "give the client a machine of its own, or more client processes"
    share = e.client_cpu_share
    if share is not None and share > MOST_CPU_SHARE:
        yield Verdict.CLIENT_BOUND, f"the client used {share:.0%} of a core", more
    if e.full_at:
        return  # what was due waited for the server, not for the client
    if share is not None and share < IDLE_CPU_SHARE:
        more = "a quieter machine, or one of its own for the client: it was kept from running"
    lag_ns = e.send_lag_ns["p50"]
    if e.p50_ns and lag_ns > max(LEAST_LAG_NS, MOST_LAG_SHARE * e.p50_ns):
        yield (
            Verdict.CLIENT_BOUND,
            f"half of the requests left {lag_ns / 1e6:.2f} ms late (p50 {e.p50_ns / 1e6:.2f} ms)",
            more,
        )
    if e.open_loop and e.sent_per_s < LEAST_SENT_SHARE * e.scheduled_per_s:
        yield (
            Verdict.CLIENT_BOUND,
            f"{e.sent_per_s:.0f} of {e.scheduled_per_s:.0f} requests a second were sent",
            more,
        )


def _unsettled(e: Evidence) -> Iterator[Complaint]:
    longer = f"measure for {_round_up(2 * e.duration_s)} s or longer"
    if e.full_at:
        full = f"{e.full_at:,} requests in flight, the most at once: the server does not keep up"
        yield Verdict.UNSETTLED, full, "lower the request rate: the queue grows"
    if not e.warmup_settled:
        yield Verdict.UNSETTLED, "latency still changes in the second half", longer
    width = e.throughput.relative_half_width
    if width is not None and width > MOST_HALF_WIDTH:
        seconds = e.duration_s * (width / MOST_HALF_WIDTH) ** 2
        yield (
            Verdict.UNSETTLED,
            f"throughput is only known to ± {width:.0%}",
            f"measure for {_round_up(min(seconds, 10 * e.duration_s))} s or longer, on a quiet machine",
        )
    for name, series in (("throughput", e.rates_per_s), ("latency", np.log(np.maximum(e.latencies_ns, 1)))):
        drift = _drift(series, logged=name == "latency")
        if drift is not None:
            fix = "lower the request rate: the queue grows" if e.open_loop and drift > 0 else longer
            yield Verdict.UNSETTLED, f"{name} of the second half is {drift:+.0%} off the first", fix


def _drift(series: Floats, logged: bool) -> float | None:
    """Relative change from the first half to the second, if beyond 10 % and beyond three standard errors."""
    if series.size < 16:
        return None
    middle = series.size // 2
    first, second = batch_means(series[:middle]), batch_means(series[middle:])
    change = float(second.mean() - first.mean())
    error = math.sqrt(float(first.var(ddof=1)) / first.size + float(second.var(ddof=1)) / second.size)
    relative = math.expm1(change) if logged else change / max(float(first.mean()), 1e-9)
    return relative if abs(relative) > MOST_DRIFT and abs(change) > 3 * error else None


def _round_up(seconds: float) -> str:
    if seconds < 10:
        return f"{math.ceil(seconds * 10) / 10:g}"
    return str(math.ceil(seconds))
