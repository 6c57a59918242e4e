"""Records of a load that changed by steps → the numbers of each step; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.stats.intervals import Estimate, Floats, mean_estimate
from tritonsmith.perf.stats.validity import Validity, ValidityLevel

Quantiles = Callable[[Floats, float], dict[str, Estimate]]
Rates = Callable[[RequestRecords, int, int], Floats]


@dataclass(frozen=True, slots=True)
class StepSummary:
    """One step, of the requests that were due in it.

    load:       requests a second, or the concurrency of a closed loop.
    begin_s:    from the start of the load; a stated warm-up is cut off the first ones.
    throughput_per_s: inferences answered a second while it lasted.
    validity:   as of a load test of its own; None in a record of before steps were judged.
    """

    load: float
    begin_s: float
    duration_s: float
    requests: int
    failed: int
    throughput_per_s: Estimate
    latency_ns: Mapping[str, Estimate]
    validity: Validity | None = None


def summarise_steps(
    records: RequestRecords,
    level: float,
    quantiles: Quantiles,
    rates_of: Rates,
    judge: Callable[[RequestRecords], Validity],
) -> tuple[StepSummary, ...]:
    """A summary a step that was measured; none when the load has no steps.

    quantiles: (latencies as they ended, level) → its estimates; rates_of: (records, begin_ns, end_ns) → answers a
    second in equal stretches between; judge: (a load test without steps) → its verdict.
    """
    header = records.header
    made = []
    for load, begin_ns, end_ns in _steps(header.load, header.start_ns, header.stop_ns):
        from_ns = max(begin_ns, header.measure_start_ns)
        if end_ns <= from_ns:
            continue
        due = records.select((records.scheduled_ns >= from_ns) & (records.scheduled_ns < end_ns))
        order = np.argsort(due.end_ns, kind="stable")
        order = order[due.ok[order]]
        rates = rates_of(records, from_ns, end_ns)
        made.append(
            StepSummary(
                load=load,
                begin_s=(from_ns - header.start_ns) / 1e9,
                duration_s=(end_ns - from_ns) / 1e9,
                requests=len(due),
                failed=int((~due.ok).sum()),
                throughput_per_s=mean_estimate(rates, level)
                if rates.size
                else Estimate(0.0, None, "too few answers"),
                latency_ns=quantiles(due.latency_ns[order].astype(np.float64), level),
                validity=judge(_alone(records, load, from_ns, end_ns)),
            )
        )
    return tuple(made)


def _alone(records: RequestRecords, load: float, from_ns: int, end_ns: int) -> RequestRecords:
    """A step as a load test of its own, what went before it being the stated warm-up."""
    header, kind = records.header, records.header.load["kind"]
    name = "concurrency" if kind == "closed" else "request_rate_per_s"
    steady = {**header.load, "steps": (), "ramp_s": 0.0, name: int(load) if kind == "closed" else load}
    cut_short = header.interrupted and end_ns >= header.stop_ns
    header = replace(
        header,
        load=steady,
        measure_start_ns=from_ns,
        stop_ns=end_ns,
        interrupted=cut_short,
        goodput_limits_ns={},
    )
    return replace(records, header=header).select(records.scheduled_ns < end_ns)


def with_steps(whole: Validity, steps: Sequence[StepSummary]) -> Validity:
    """The verdict on the whole load, or the worst of its steps' where that is worse, with what each step lacks."""
    judged = [(step, step.validity) for step in steps if step.validity is not None]
    bad = [(step, validity) for step, validity in judged if validity.verdict is not ValidityLevel.VALID]
    if not bad:
        return whole
    order = list(ValidityLevel)
    worst = min(bad, key=lambda one: order.index(one[1].verdict))
    told = [f"at {step.load:g}: {', '.join(validity.reasons)}" for step, validity in bad]
    if order.index(whole.verdict) <= order.index(worst[1].verdict):
        return replace(whole, reasons=(*whole.reasons, *told))
    return Validity(
        worst[1].verdict,
        (*whole.reasons, *told),
        f"for the step at {worst[0].load:g}: {worst[1].recommendation}",
        whole.notes,
    )


def _steps(load: Mapping[str, Any], start_ns: int, stop_ns: int) -> Iterator[tuple[float, int, int]]:
    """(load, begin, end) of each step and of what follows them; a ramp belongs to the first."""
    steps = load.get("steps") or ()
    last = load.get("concurrency") or load.get("request_rate_per_s") or 0
    if not steps:
        return
    at_ns = start_ns
    climb_ns = round(load.get("ramp_s", 0.0) * 1e9) if load["kind"] == "open" else 0
    for value, duration_s in steps:
        end_ns = at_ns + climb_ns + round(duration_s * 1e9)
        yield value, at_ns, min(end_ns, stop_ns)
        at_ns, climb_ns = end_ns, 0
    yield last, at_ns, stop_ns
