"""RequestRecords → Summary: throughput, latency, failures and send lag with intervals and a verdict; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ValidationInfo, model_validator

from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.stats.goodput import Goodput, within_limits
from tritonsmith.perf.stats.intervals import (
    Estimate,
    Floats,
    Integers,
    Interval,
    mean_estimate,
    quantile_estimates,
)
from tritonsmith.perf.stats.patterns.modes import find_modes
from tritonsmith.perf.stats.patterns.queue import is_full, mean_in_flight, queue_growth
from tritonsmith.perf.stats.patterns.stalls import find_stalls
from tritonsmith.perf.stats.steps import StepSummary, summarise_steps, with_steps
from tritonsmith.perf.stats.streaming import StreamSummary, summarise_stream
from tritonsmith.perf.stats.validity import Evidence, Validity, judge
from tritonsmith.perf.stats.warmup import Warmup, find_warmup

QUANTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
TIME_BINS = 32
REQUESTS_A_BIN = 5


@dataclass(frozen=True, slots=True)
class Summary:
    """What a load test showed. Failed requests count in `failures` only, never in rates or latencies.

    requests, answered:  sent in the measurement, and answered without an error.
    failures:            reason → requests, most frequent first.
    warmup_requests, warmup_s: left out at the start because the data say so (MSER-5), beyond the stated one.
    duration_s:          the measurement: from the end of warm-up to the last send.
    throughput_per_s:    inferences answered a second (requests × batch size); of a closed loop, those in flight at
                         the ends of the measurement count for the part of it that lies inside.
    latency_ns:          p50 … p99.9 from the scheduled time to the last byte.
    first_byte_ns:       the same to the first byte; empty where the answer is one piece.
    mean_latency_ns:     mean with a batch-means interval.
    send_lag_ns:         p50, p99 and max of sent - scheduled: the client's own lateness.
    scheduled_per_s:     requests due a second; in a closed loop the same as what was sent.
    sent_per_s:          requests really sent a second.
    client_cpu_share:    CPU of the client over wall-clock time and processes; 1.0 is a full core each.
    streaming:           of a streamed load test; else None.
    goodput:             when the load test was given limits; else None.
    overloaded:          the open loop had as many requests in flight as it ever sends at once.
    steps:               of a load that changed by steps, whose numbers above are of all of them together; the verdict is
                         the worst of them.
    max_latency_ns:      the slowest answer's; None when there is none.
    sent_bytes_per_s, received_bytes_per_s: on the wire, heads and failed requests among them, TLS and what lies below
                         not; None when the records do not tell.
    """

    requests: int
    answered: int
    failures: Mapping[str, int]
    validity: Validity
    throughput_per_s: Estimate
    latency_ns: Mapping[str, Estimate]
    first_byte_ns: Mapping[str, Estimate]
    mean_latency_ns: Estimate
    send_lag_ns: Mapping[str, float]
    scheduled_per_s: float
    sent_per_s: float
    client_cpu_share: float | None
    warmup_requests: int
    warmup_s: float
    duration_s: float
    level: float = 0.95
    checked: int = 0
    load: Mapping[str, Any] = field(default_factory=dict)
    streaming: StreamSummary | None = None
    goodput: Goodput | None = None
    steps: tuple[StepSummary, ...] = ()
    overloaded: bool = False
    max_latency_ns: float | None = None
    sent_bytes_per_s: float | None = None
    received_bytes_per_s: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _level_of_all(cls, data: Any, info: ValidationInfo) -> Any:
        """The estimates' own form leaves out the level, which is that of the summary."""
        if info.context is not None:
            info.context["level"] = data["level"]
        return data


def summarise(records: RequestRecords, level: float = 0.95) -> Summary:
    """The whole summary of one load test; 100,000 records take about 0.1 s.

    Rows due before header.measure_start_ns (the stated warm-up) are left out, and what MSER-5 finds of
    warm-up after it. A measurement too small for a number gives a verdict, an Estimate without a value and
    the reason; it never raises and never leaves a gap.
    """
    header = records.header
    stated = records.measured()
    by_end = np.argsort(stated.end_ns, kind="stable")
    answered_by_end = by_end[stated.ok[by_end]]
    steps = summarise_steps(
        records, level, _quantiles, _rates_per_s, lambda step: summarise(step, level).validity
    )
    warmup = (
        find_warmup(stated.latency_ns[answered_by_end].astype(np.float64)) if not steps else Warmup(0, True)
    )
    begin_ns = header.measure_start_ns or header.start_ns
    if warmup.requests:
        first_ns, begin_ns = begin_ns, int(stated.end_ns[answered_by_end[warmup.requests - 1]])
        if begin_ns - first_ns > (header.stop_ns - first_ns) / 2:
            # Few slow requests took more than half of the time: what follows is no steady rest.
            warmup, begin_ns = Warmup(0, False), first_ns
    kept = stated.select(stated.scheduled_ns >= begin_ns) if warmup.requests else stated
    stop_ns = max(header.stop_ns, begin_ns)
    duration_s = (stop_ns - begin_ns) / 1e9
    # Of all answers that came in the measurement, also to requests sent in the warm-up: without them a closed loop
    # would lack one answer for each request in flight, which weighs more the slower the model is.
    rates = _rates_per_s(records, begin_ns, stop_ns)
    throughput = _throughput(rates, kept, duration_s, level)
    if header.load.get("kind") == "closed":
        throughput = _to_flight_shares(throughput, records, begin_ns, stop_ns)
    order = np.argsort(kept.end_ns, kind="stable")
    order = order[kept.ok[order]]
    latencies = kept.latency_ns[order].astype(np.float64)
    latency = _quantiles(latencies, level)
    lag = _send_lag(kept)
    cpu_share = _cpu_share(records)
    scheduled_per_s, sent_per_s = _request_rates(kept, duration_s)
    sent_bytes_per_s, received_bytes_per_s = _traffic(stated)
    evidence = Evidence(
        answered=int(order.size),
        requests=len(kept),
        duration_s=duration_s,
        latencies_ns=kept.latency_ns[kept.ok].astype(np.float64),
        rates_per_s=rates,
        throughput=throughput,
        p50_ns=latency["p50"].value,
        p99=latency["p99"],
        level=level,
        warmup_settled=warmup.settled,
        open_loop=header.load.get("kind") in ("open", "replay"),
        send_lag_ns=lag,
        scheduled_per_s=scheduled_per_s,
        sent_per_s=sent_per_s,
        client_cpu_share=cpu_share,
        interrupted=header.interrupted,
        changes=bool(steps),
        full_at=header.most_in_flight if is_full(kept) else 0,
        failures=kept.failures(),
        first_failure=_first_failure(kept),
        answered_per_s=_answered_per_s(records, begin_ns, stop_ns),
        queue_growth=queue_growth(records, begin_ns, stop_ns),
        concurrency=int(header.load.get("concurrency") or 0),
        mean_in_flight=mean_in_flight(records, begin_ns),
        begun_before=int(((records.scheduled_ns < begin_ns) & (records.end_ns > begin_ns)).sum()),
        left_out_s=(begin_ns - (header.measure_start_ns or header.start_ns)) / 1e9,
        modes=find_modes(latencies),
        stalls=find_stalls(kept.scheduled_ns[order], kept.end_ns[order], kept.payload_index[order]),
    )
    return Summary(
        requests=len(kept),
        answered=int(order.size),
        failures=kept.failures(),
        warmup_requests=len(stated) - len(kept),
        warmup_s=(begin_ns - (header.measure_start_ns or header.start_ns)) / 1e9,
        duration_s=duration_s,
        throughput_per_s=throughput,
        latency_ns=latency,
        first_byte_ns=_first_bytes(kept, order, level),
        mean_latency_ns=mean_estimate(latencies, level),
        send_lag_ns=lag,
        scheduled_per_s=scheduled_per_s,
        sent_per_s=sent_per_s,
        client_cpu_share=cpu_share,
        validity=with_steps(judge(evidence), steps),
        level=level,
        checked=header.checked,
        load=dict(header.load),
        streaming=_stream(records, kept, order, begin_ns, stop_ns, level),
        goodput=_goodput(records, kept, begin_ns, stop_ns, level),
        steps=steps,
        overloaded=evidence.full_at > 0,
        max_latency_ns=float(latencies.max()) if latencies.size else None,
        sent_bytes_per_s=sent_bytes_per_s,
        received_bytes_per_s=received_bytes_per_s,
    )


def _first_failure(records: RequestRecords) -> str:
    failed = np.flatnonzero(~records.ok)
    return records.header.reasons[records.status[failed[0]]] if failed.size else ""


def _answered_per_s(records: RequestRecords, begin_ns: int, stop_ns: int) -> float:
    ends = records.end_ns[records.ok]
    return int(((ends > begin_ns) & (ends <= stop_ns)).sum()) / max((stop_ns - begin_ns) / 1e9, 1e-9)


def _goodput(
    records: RequestRecords, kept: RequestRecords, begin_ns: int, stop_ns: int, level: float
) -> Goodput | None:
    limits = kept.header.goodput_limits_ns
    if not limits:
        return None
    weights = records.inferences * within_limits(records, limits)
    rates = _rates_per_s(records, begin_ns, stop_ns, weights)
    good = within_limits(kept, limits)
    if rates.size < REQUESTS_A_BIN:
        seconds = (stop_ns - begin_ns) / 1e9
        value = int(kept.inferences[good].sum()) / seconds if seconds > 0 else None
        per_s = Estimate(value, None, f"only {len(kept)} requests")
    else:
        per_s = mean_estimate(rates, level)
    return Goodput(dict(limits), per_s, float(good.mean()) if good.size else None)


def _stream(
    records: RequestRecords, kept: RequestRecords, order: Integers, begin_ns: int, stop_ns: int, level: float
) -> StreamSummary | None:
    if records.responses is None:
        return None
    rates = _rates_per_s(records, begin_ns, stop_ns, records.responses)
    return summarise_stream(kept, order, rates, level, _quantiles)


def _rates_per_s(
    records: RequestRecords, begin_ns: int, stop_ns: int, weights: Integers | None = None
) -> Floats:
    """Inferences, or another weight of each row, answered a second in equal stretches of the measurement, as
    many as hold 5 answers each."""
    ends = records.end_ns[records.ok]
    inside = (ends > begin_ns) & (ends <= stop_ns)
    count = int(inside.sum())
    bins = min(TIME_BINS, count // REQUESTS_A_BIN)
    if bins == 0 or stop_ns <= begin_ns:
        return np.empty(0)
    done, edges = np.histogram(
        ends[inside] - begin_ns,
        bins=bins,
        range=(0, stop_ns - begin_ns),
        weights=(records.inferences if weights is None else weights)[records.ok][inside],
    )
    rates: Floats = done / ((edges[1] - edges[0]) / 1e9)
    return rates


def _throughput(rates: Floats, kept: RequestRecords, duration_s: float, level: float) -> Estimate:
    answered = int(kept.inferences[kept.ok].sum())
    if duration_s <= 0 or answered == 0:
        return Estimate(0.0 if duration_s > 0 else None, None, "no request was answered")
    if rates.size < REQUESTS_A_BIN:
        return Estimate(answered / duration_s, None, f"only {answered} inferences in {duration_s:.2f} s")
    return mean_estimate(rates, level)


def _to_flight_shares(throughput: Estimate, records: RequestRecords, begin_ns: int, stop_ns: int) -> Estimate:
    """A closed loop's throughput with each answer counted for the part of its time in flight that was measured.

    Answers come a batch at a time, so whole ones make the count of a short measurement jump by a batch, by the
    same one in every repetition. With constantly many in flight their shares are Little's law, and have no steps.
    An open loop's queue may grow, where the shares of what waits would count as work done.
    """
    if throughput.value is None or throughput.value <= 0 or stop_ns <= begin_ns:
        return throughput
    begun, ended = records.scheduled_ns[records.ok], records.end_ns[records.ok]
    inside = np.clip(np.minimum(ended, stop_ns) - np.maximum(begun, begin_ns), 0, None)
    shares = inside / np.maximum(ended - begun, 1)
    per_s = float(shares @ records.inferences[records.ok]) / ((stop_ns - begin_ns) / 1e9)
    if per_s <= 0:
        return throughput
    by, interval = per_s / throughput.value, throughput.interval
    if interval is not None:
        interval = Interval(interval.low * by, interval.high * by, interval.level)
    return Estimate(per_s, interval, throughput.why)


def _traffic(stated: RequestRecords) -> tuple[float | None, float | None]:
    """(sent, received) bytes a second from the end of the stated warm-up to the last send."""
    header = stated.header
    seconds = (header.stop_ns - (header.measure_start_ns or header.start_ns)) / 1e9
    if seconds <= 0:
        return None, None
    sent = None
    if header.request_bytes:
        gone = (stated.sent_ns > 0) & (stated.sent_ns <= header.stop_ns)
        sizes = np.asarray(header.request_bytes, np.float64)
        sent = float(sizes[stated.payload_index[gone]].sum()) / seconds
    received = header.received_bytes
    return sent, None if received is None else received / seconds


def _send_lag(records: RequestRecords) -> dict[str, float]:
    sent = records.sent_ns > 0
    if not sent.any():
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    lag = (records.sent_ns - records.scheduled_ns)[sent]
    middle, tail = np.quantile(lag, (0.5, 0.99))
    return {"p50": float(middle), "p99": float(tail), "max": float(lag.max())}


def _first_bytes(records: RequestRecords, order: Any, level: float) -> dict[str, Estimate]:
    """Time to first byte, where it says more than the latency: answers that arrive in pieces."""
    first, end = records.first_byte_ns[order], records.end_ns[order]
    if (
        first.size == 0
        or (first == 0).any()
        or np.median(end - first) < 0.05 * np.median(records.latency_ns[order])
    ):
        return {}
    series = (first - records.scheduled_ns[order]).astype(np.float64)
    return _quantiles(series, level)


def _quantiles(series: Floats, level: float) -> dict[str, Estimate]:
    return dict(zip(QUANTILES, quantile_estimates(series, tuple(QUANTILES.values()), level), strict=True))


def _request_rates(records: RequestRecords, duration_s: float) -> tuple[float, float]:
    if duration_s <= 0:
        return 0.0, 0.0
    stop_ns = records.header.stop_ns
    sent = (records.sent_ns > 0) & (records.sent_ns <= stop_ns)
    due = records.scheduled_ns <= stop_ns
    return float(due.sum()) / duration_s, float(sent.sum()) / duration_s


def _cpu_share(records: RequestRecords) -> float | None:
    header = records.header
    if header.client_wall_s <= 0:
        return None
    return header.client_cpu_s / header.client_wall_s / max(1, header.processes)
