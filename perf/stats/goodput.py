"""Requests that kept their limits → goodput: what was answered in time, a second and as a share; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.stats.intervals import Estimate


@dataclass(frozen=True, slots=True)
class Goodput:
    """Inferences answered within every limit.

    limits_ns: of `latency` (scheduled time to last byte), `first` (to the first response) and `between` (a
               request's mean time between its responses); the last two are of streamed requests.
    per_s:     inferences a second that kept them all.
    share:     of all requests that were due, failed ones included; None when there was none.
    """

    limits_ns: Mapping[str, int]
    per_s: Estimate
    share: float | None


LIMITS = ("latency", "first", "between")
TOKEN_LIMITS = ("ttft", "itl", "e2e")
"""Of a load by tokens: to the first chunk with text, a token after it, to the last chunk (see perf.tokens.metrics)."""


def within_limits(records: RequestRecords, limits_ns: Mapping[str, int]) -> npt.NDArray[np.bool_]:
    """bool (n,): answered without an error and within every limit; a request without a response keeps none of
    `first`, one with a single response keeps any of `between`."""
    good = records.ok.copy()
    if "latency" in limits_ns:
        good &= records.latency_ns <= limits_ns["latency"]
    if "first" in limits_ns:
        came = records.first_byte_ns > 0
        good &= came & (records.first_byte_ns - records.scheduled_ns <= limits_ns["first"])
    if "between" in limits_ns and records.responses is not None and records.last_response_ns is not None:
        several = records.responses > 1
        span_ns = records.last_response_ns - records.first_byte_ns
        good &= ~several | (span_ns <= limits_ns["between"] * (records.responses - 1))
    if "ttft" in limits_ns or "e2e" in limits_ns:
        good &= records.first_byte_ns > 0
    if "ttft" in limits_ns:
        good &= records.first_byte_ns - records.scheduled_ns <= limits_ns["ttft"]
    if "e2e" in limits_ns and records.last_response_ns is not None:
        good &= records.last_response_ns - records.scheduled_ns <= limits_ns["e2e"]
    if "itl" in limits_ns:
        each, has_some = inter_token_latency_ns(records)
        good &= ~has_some | (each <= limits_ns["itl"])
    return np.asarray(good)


def inter_token_latency_ns(
    records: RequestRecords,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """float64 (n,): (last chunk - first chunk) / (output tokens - tokens of the first chunk), and which rows have one.

    AIPerf's inter_token_latency = (request_latency - time_to_first_token) / (output_sequence_length - 1), docs/metrics-
    reference.md, "Inter Token Latency"; where the server tells how many tokens its first chunk holds, these stand for the
    1 (InterTokenLatencyMetric). vLLM calls the same time per output token (TPOT). Chunks are those with text.
    """
    output, last_ns = records.output_tokens, records.last_response_ns
    if output is None or last_ns is None:
        return np.zeros(len(records)), np.zeros(len(records), bool)
    first_tokens = _first_tokens(records)
    first_tokens = np.where((first_tokens > 0) & (first_tokens < output), first_tokens, 1)
    has_some = (records.first_byte_ns > 0) & (output > 1)
    span_ns = (last_ns - records.first_byte_ns).astype(np.float64)
    return span_ns / np.maximum(output - first_tokens, 1), has_some


def _first_tokens(records: RequestRecords) -> npt.NDArray[np.int64]:
    """int64 (n,): tokens that the server says are in the first chunk with text; -1 where it does not."""
    begin, end, tokens, sizes = (
        np.asarray(column)
        for column in (records.chunk_begin, records.chunk_end, records.chunk_tokens, records.chunk_bytes)
    )
    with_text = np.flatnonzero(sizes > 0)
    at = np.searchsorted(with_text, begin)
    found = np.full(len(begin), -1, np.int64)
    there = at < len(with_text)
    first = with_text[at[there]]
    found[there] = np.where(first < end[there], tokens[first], -1)
    return found
