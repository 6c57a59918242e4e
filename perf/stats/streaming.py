"""Streamed requests' records → responses a request, time to the first one and between them; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.stats.intervals import Estimate, Floats, Integers, mean_estimate

Quantiles = Callable[[Floats, float], dict[str, Estimate]]


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """What the responses of answered requests showed; failed requests are not in it.

    responses:             how many came.
    responses_per_s:       a second.
    responses_per_request: `min`, `mean` and `max`.
    first_response_ns:     p50 … p99.9 from the scheduled time to the first whole response; requests without a
                           response are left out here and below.
    inter_response_ns:     the same of each request's mean time between its responses.
    longest_gap_ns:        the same of each request's longest time between two: where a stall shows.
    """

    responses: int
    responses_per_s: Estimate
    responses_per_request: Mapping[str, float]
    first_response_ns: Mapping[str, Estimate]
    inter_response_ns: Mapping[str, Estimate]
    longest_gap_ns: Mapping[str, Estimate]


def summarise_stream(
    records: RequestRecords, order: Integers, rates_per_s: Floats, level: float, quantiles: Quantiles
) -> StreamSummary | None:
    """The summary of the rows in `order` (answered ones, as they ended); None when nothing was streamed.

    rates_per_s: responses a second in equal stretches of the measurement.
    quantiles:   (series in time order, level) → its estimates.
    """
    if records.responses is None or records.last_response_ns is None or records.longest_gap_ns is None:
        return None
    total = records.responses[order]
    some = order[total > 0]
    several = order[total > 1]
    first = records.first_byte_ns[some] - records.scheduled_ns[some]
    spans = records.last_response_ns[several] - records.first_byte_ns[several]
    each = spans / (records.responses[several] - 1)
    per_request = {"min": 0.0, "mean": 0.0, "max": 0.0}
    if total.size:
        per_request = {"min": float(total.min()), "mean": float(total.mean()), "max": float(total.max())}
    return StreamSummary(
        responses=int(total.sum()),
        responses_per_s=mean_estimate(rates_per_s, level),
        responses_per_request=per_request,
        first_response_ns=quantiles(first.astype(np.float64), level),
        inter_response_ns=quantiles(each.astype(np.float64), level),
        longest_gap_ns=quantiles(records.longest_gap_ns[several].astype(np.float64), level),
    )
