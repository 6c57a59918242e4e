"""What a measurement looked like → whether its numbers may be believed, why not, and what to do; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from tritonsmith.perf.stats.intervals import Estimate, Floats, requests_for_quantile
from tritonsmith.perf.stats.patterns.drift import find_drift
from tritonsmith.perf.stats.patterns.modes import Mode
from tritonsmith.perf.stats.patterns.stalls import Stalls

LEAST_ANSWERS = 100
MOST_HALF_WIDTH = 0.10
MOST_CPU_SHARE = 0.90
LEAST_LAG_NS = 200_000
MOST_LAG_SHARE = 0.20
LEAST_SENT_SHARE = 0.95
LEAST_IN_FLIGHT_SHARE = 0.90
IDLE_CPU_SHARE = 0.5
MOST_GROWTH = 0.05
MOST_REJECTED_SHARE = 0.01
SECONDS_TO_SPARE = 1.05

REJECTIONS: Mapping[str, str] = {
    "Exceeds maximum queue size": "max_queue_size",
    "Request timeout expired": "default_timeout_microseconds",
}
"""What Triton answers when it rejects a request (core's scheduler_utils.cc and dynamic_batch_scheduler.cc) → the
field of the model's queue policy that says so; the second may also be the request's own timeout."""


class ValidityLevel(str, Enum):
    """One word on a measurement, the worst first."""

    FAILED = "FAILED"
    TOO_SHORT = "TOO_SHORT"
    CLIENT_BOUND = "CLIENT_BOUND"
    UNSETTLED = "UNSETTLED"
    VALID = "VALID"


@dataclass(frozen=True, slots=True)
class Validity:
    """The word, every reason behind it, the cause first, and what to do about the cause; VALID has neither.

    notes: what the numbers alone do not show, and that is no reason against them: modes, regular stalls.
    """

    verdict: ValidityLevel
    reasons: tuple[str, ...] = ()
    recommendation: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rules below look at; latencies in order of when they were due (by completion the long ones come last),
    the rest as in Summary."""

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
    failures: Mapping[str, int] = field(default_factory=dict)
    first_failure: str = ""
    answered_per_s: float = 0.0
    """Requests answered a second, within the measurement."""
    queue_growth: float = 0.0
    """See patterns.queue.queue_growth."""
    concurrency: int = 0
    """Of a closed loop; of it also how many were in flight on average."""
    mean_in_flight: float | None = None
    begun_before: int = 0
    """Requests that were in flight when the measurement began."""
    left_out_s: float = 0.0
    """The start of the measurement that the data say was still settling."""
    modes: tuple[Mode, ...] = ()
    stalls: Stalls | None = None

    @property
    def rejected(self) -> dict[str, int]:
        """Field of the queue policy → requests that it rejected."""
        found = {
            name: sum(count for reason, count in self.failures.items() if text in reason)
            for text, name in REJECTIONS.items()
        }
        return {name: count for name, count in found.items() if count}


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that speaks against a measurement, and what would help if it is the cause of the others."""

    level: ValidityLevel
    reason: str
    advice: str
    moves: bool = False
    """Latencies of different times differ, which makes humps of its own in their distribution."""


def judge(evidence: Evidence) -> Validity:
    """The word and the advice of the cause: the first rule that complains. What else complains is a reason without
    advice, as most of it follows from the cause: an overloaded server's latency drifts, too."""
    found = [complaint for rule in _RULES for complaint in rule(evidence)]
    notes = () if evidence.changes else tuple(_notes(evidence, any(c.moves for c in found)))
    if not found:
        return Validity(ValidityLevel.VALID, notes=notes)
    if found[0].level is ValidityLevel.FAILED:
        found = found[:1]
    return Validity(found[0].level, tuple(c.reason for c in found), found[0].advice, notes)


# The rules, from what explains most to what explains least.


def _nothing_answered(e: Evidence) -> Iterator[Complaint]:
    if e.answered:
        return
    if not e.requests and e.begun_before:
        why = "no request began in the measurement: those before it took longer than all of it"
        yield Complaint(ValidityLevel.TOO_SHORT, why, "measure for several times what a request takes")
        return
    if not e.requests:
        yield Complaint(ValidityLevel.TOO_SHORT, "no request was sent", "measure longer: none was due")
        return
    what = f"all {e.requests:,} requests failed, the first with: {e.first_failure}"
    yield Complaint(
        ValidityLevel.FAILED,
        what,
        _less_or_more(e)
        if sum(e.rejected.values()) == e.requests
        else "see why it failed: there is no number yet",
    )


def _rejected(e: Evidence) -> Iterator[Complaint]:
    count = sum(e.rejected.values())
    if e.answered and count > MOST_REJECTED_SHARE * e.requests:
        what = f"{count / e.requests:.0%} of the requests were rejected by the queue policy's {_fields(e)}"
        yield Complaint(ValidityLevel.UNSETTLED, what, _less_or_more(e))


def _fields(e: Evidence) -> str:
    return " and ".join(sorted(e.rejected, key=lambda name: -e.rejected[name]))


def _less_or_more(e: Evidence) -> str:
    less = (
        f"less than {_short(e.answered_per_s)} requests a second"
        if e.open_loop
        else "fewer requests in flight"
    )
    if not e.answered_per_s and e.open_loop:
        less = "a lower request rate"
    return f"{less}, or a larger {_fields(e)} in the model's queue policy, where waiting longer is better"


def _client_is_full(e: Evidence) -> Iterator[Complaint]:
    if e.client_cpu_share is not None and e.client_cpu_share > MOST_CPU_SHARE:
        yield Complaint(
            ValidityLevel.CLIENT_BOUND,
            f"the client used {e.client_cpu_share:.0%} of a core",
            "more client processes, or a machine of its own for the client",
        )


def _beyond_capacity(e: Evidence) -> Iterator[Complaint]:
    """Of an open loop whose queue grows at the server; one that the client is behind with is the next rule's."""
    if not e.open_loop or not e.answered:
        return
    at_client = bool(e.p50_ns) and e.send_lag_ns["p50"] > 0.5 * (e.p50_ns or 0.0)
    grows = e.queue_growth > MOST_GROWTH and not at_client and not e.changes and _latency_rises(e)
    if not (grows or (e.full_at and not e.changes)):
        return
    due, held = _short(e.scheduled_per_s), _short(e.answered_per_s)
    full = f"; {e.full_at:,} requests were in flight, the most that the client has" if e.full_at else ""
    yield Complaint(
        ValidityLevel.UNSETTLED,
        f"{due} requests a second were due and {held} were answered: the queue grows{full}",
        f"a request rate below {held}/s, the most that the server holds",
        moves=True,
    )


def _latency_rises(e: Evidence) -> bool:
    drift = find_drift(e.latencies_ns, logged=True)
    return drift is not None and drift.relative > 0


def _client_is_late(e: Evidence) -> Iterator[Complaint]:
    if e.full_at:
        return  # what was due waited for the server, not for the client
    more = "more client processes, or a machine of its own for the client"
    if e.client_cpu_share is not None and e.client_cpu_share < IDLE_CPU_SHARE:
        more = "a quieter machine, or one of its own for the client: it was kept from running"
    p99_ns = e.p99.value if e.p99.interval is not None else None
    for name, who, latency_ns in (("p50", "half", e.p50_ns), ("p99", "one in a hundred", p99_ns)):
        lag_ns = e.send_lag_ns[name]
        if latency_ns and lag_ns > max(LEAST_LAG_NS, MOST_LAG_SHARE * latency_ns):
            late = f"{who} of the requests left {lag_ns / 1e6:.2f} ms late ({name} {latency_ns / 1e6:.2f} ms)"
            yield Complaint(ValidityLevel.CLIENT_BOUND, late, more)
    if e.open_loop and e.sent_per_s < LEAST_SENT_SHARE * e.scheduled_per_s:
        sent = f"{e.sent_per_s:.0f} of {e.scheduled_per_s:.0f} requests a second were sent"
        yield Complaint(ValidityLevel.CLIENT_BOUND, sent, more)
    flying, failed = e.mean_in_flight, sum(e.failures.values())
    if not e.concurrency or flying is None or e.changes or failed > MOST_REJECTED_SHARE * e.requests:
        return
    if e.answered >= LEAST_ANSWERS and flying < LEAST_IN_FLIGHT_SHARE * e.concurrency:
        pause_ms = (e.concurrency - flying) / max(e.answered_per_s, 1e-9) * 1e3
        yield Complaint(
            ValidityLevel.CLIENT_BOUND,
            f"{flying:.2f} of {e.concurrency} requests were in flight: from an answer to the next request the client "
            f"took {pause_ms:.2f} ms",
            more,
        )


def _interrupted(e: Evidence) -> Iterator[Complaint]:
    if e.interrupted and e.answered:
        yield Complaint(ValidityLevel.TOO_SHORT, "interrupted before its time", "run it again to the end")


def _drifts(e: Evidence) -> Iterator[Complaint]:
    if e.changes or not e.answered:
        return
    twice = _round_up(2 * (e.duration_s + e.left_out_s))
    latency, rate = find_drift(e.latencies_ns, logged=True), find_drift(e.rates_per_s)
    if latency is not None:
        rises = latency.relative > 0
        what = f"latency {'rises' if rises else 'falls'} over the run: typically {_short(latency.first / 1e6)} ms in "
        what += f"its first quarter, {_short(latency.last / 1e6)} ms in its last ({latency.relative:+.0%})"
        if rises and e.open_loop:
            advice = f"a lower request rate, or {twice} s, which show whether the queue goes on growing"
        elif rises:
            advice = (
                "find what slows the server down as it runs (memory, clock, other work): time alone will not"
            )
        else:
            advice = f"a longer warm-up, {_round_up((e.duration_s + e.left_out_s) / 2)} s more: it still gets faster"
        yield Complaint(ValidityLevel.UNSETTLED, what, advice, moves=True)
    elif not e.warmup_settled:
        what = "latency still changes in the second half"
        yield Complaint(ValidityLevel.UNSETTLED, what, f"measure for {twice} s or longer", moves=True)
    if rate is not None:
        what = f"throughput {'rises' if rate.relative > 0 else 'falls'} over the run: {_short(rate.first)}/s in its first "
        what += f"quarter, {_short(rate.last)}/s in its last ({rate.relative:+.0%})"
        yield Complaint(ValidityLevel.UNSETTLED, what, f"measure for {twice} s or longer, on a quiet machine")


def _too_few(e: Evidence) -> Iterator[Complaint]:
    needed = max(LEAST_ANSWERS, requests_for_quantile(0.99, e.level))
    if not 0 < e.answered < needed:
        return
    seconds = e.left_out_s + SECONDS_TO_SPARE * e.duration_s * needed / e.answered
    requests = math.ceil(needed * e.requests / e.answered)
    yield Complaint(
        ValidityLevel.TOO_SHORT,
        f"{e.answered} answered requests; p99 with an interval needs {needed}",
        f"measure for {_round_up(seconds)} s, or {requests:,} requests",
    )


def _imprecise(e: Evidence) -> Iterator[Complaint]:
    width = e.throughput.relative_half_width
    if width is not None and width > MOST_HALF_WIDTH and not e.changes:
        seconds = e.duration_s * (width / MOST_HALF_WIDTH) ** 2
        yield Complaint(
            ValidityLevel.UNSETTLED,
            f"throughput is only known to ± {width:.0%}",
            f"measure for {_round_up(min(seconds, 10 * e.duration_s))} s or longer, on a quiet machine",
        )


_RULES = (
    _nothing_answered,
    _rejected,
    _client_is_full,
    _beyond_capacity,
    _client_is_late,
    _interrupted,
    _too_few,
    _drifts,
    _imprecise,
)


# What is worth a line and speaks against nothing.


def _notes(e: Evidence, moves: bool) -> Iterator[str]:
    if e.modes and not moves:
        parts = [f"{m.share:.0%} of the requests around {m.median_ns / 1e6:.3g} ms" for m in e.modes]
        count = {2: "two", 3: "three"}.get(len(parts), str(len(parts)))
        yield f"latency has {count} modes: {', '.join(parts)}; no one number stands for all of them"
    if e.stalls is not None:
        s = e.stalls
        yield (
            f"every {s.period_s:.3g} s nothing is answered for about {s.length_s * 1e3:.3g} ms ({s.count} times): a pause "
            "of the server or of this machine (garbage collection, a CPU limit)"
        )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _round_up(seconds: float) -> str:
    if seconds < 10:
        return f"{math.ceil(seconds * 10) / 10:g}"
    return str(math.ceil(seconds))
