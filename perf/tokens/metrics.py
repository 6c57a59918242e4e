"""Records of a load by tokens → time to the first token, between tokens, tokens a second, with intervals; pure.

The definitions are those of NVIDIA's AIPerf, the successor of GenAI-Perf (ai-dynamo/aiperf, docs/metrics-reference.md and
aiperf/metrics/types), on our clock: times count from when a request was due, which in a closed loop is when it was sent.
A chunk is a response with text; a role, an empty text and a count are none.

    TTFT             first chunk - start                                             (TTFTMetric)
    end-to-end       last chunk - start                                              (RequestLatencyMetric)
    ITL, TPOT        (end-to-end - TTFT) / (output tokens - tokens of the first chunk), of each request; the latter are 1
                     where the server does not tell                                  (InterTokenLatencyMetric)
    between chunks   chunk - the one before it, all requests' together               (InterChunkLatencyMetric)
    tokens/s a user  1 / ITL                                                         (OutputTokenThroughputPerUserMetric)
    output tokens/s  output tokens of answered requests / the measurement's time     (OutputTokenThroughputMetric)

The last differs at the ends: AIPerf divides by the time from the first request to the last answer, in which the load rises
and falls; here tokens that came within the measurement count, those of requests that began before it or ended after it
among them. A request's tokens are spread over its chunks evenly where the server does not tell each chunk's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonsmith.perf.records.record import Int64, RequestRecords
from tritonsmith.perf.stats import Estimate, Summary
from tritonsmith.perf.stats.goodput import inter_token_latency_ns
from tritonsmith.perf.stats.intervals import Floats, Interval, mean_estimate, quantile_estimates
from tritonsmith.perf.stats.summary import QUANTILES

_TIME_BINS = 32
_CHUNKS_A_BIN = 5
_MOST_GAPS = 2_000_000
"""Of more, evenly chosen ones tell the quantiles as well."""


@dataclass(frozen=True, slots=True)
class TokenSummary:
    """What a load by tokens showed, of the measurement's answered requests; see the module for the formulas.

    counted_by:          how output tokens were counted → requests: `server`, `tokenizer`, `chunks`.
    output_tokens, input_tokens: in all; input_tokens is None when nobody tells.
    output_tokens_per_s: of the whole load; per_user_per_s: p50 … of each request.
    output_lengths, input_lengths: min, mean, max of a request; input_lengths is empty when nobody tells.
    ttft_ns, itl_ns, chunk_gap_ns, e2e_ns: p50 … p99.9; ITL has requests of two tokens and more.
    mean_ttft_ns, mean_itl_ns, mean_e2e_ns: means with intervals.
    tokens_per_chunk:    on average; above 1 the gaps are between bundles of tokens.
    without_text:        requests that were answered without any text; they are in no time above.
    """

    counted_by: Mapping[str, int]
    output_tokens: int
    input_tokens: int | None
    output_tokens_per_s: Estimate
    input_tokens_per_s: float | None
    per_user_per_s: Mapping[str, Estimate]
    output_lengths: Mapping[str, float]
    input_lengths: Mapping[str, float]
    ttft_ns: Mapping[str, Estimate]
    itl_ns: Mapping[str, Estimate]
    chunk_gap_ns: Mapping[str, Estimate]
    e2e_ns: Mapping[str, Estimate]
    mean_ttft_ns: Estimate
    mean_itl_ns: Estimate
    mean_e2e_ns: Estimate
    chunks: int
    tokens_per_chunk: float | None
    without_text: int
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class TokenCost:
    """What tokens cost. dollars_per_hour: as the user says; the others follow, None where they cannot be known."""

    dollars_per_hour: float | None
    dollars_per_million_output_tokens: float | None
    tokens_per_joule: float | None


def is_by_tokens(records: RequestRecords) -> bool:
    """Whether the records are of a load by tokens."""
    return records.chunk_begin is not None


def summarise_tokens(records: RequestRecords, summary: Summary) -> TokenSummary:
    """summary: of the same records, which says where the measurement begins (perf.stats.summary)."""
    level, header = summary.level, records.header
    begin_ns, stop_ns = measured_ns(records, summary)
    kept = records.select(records.scheduled_ns >= begin_ns)
    order = np.argsort(kept.end_ns, kind="stable")
    order = order[kept.ok[order]]
    done = kept.select(order)
    output, input_ = np.asarray(done.output_tokens), np.asarray(done.input_tokens)
    told_input = input_[input_ >= 0]
    with_text = done.first_byte_ns > 0
    ttft = times_to_first_ns(done).astype(np.float64)
    e2e = (np.asarray(done.last_response_ns) - done.scheduled_ns)[with_text].astype(np.float64)
    itl, has_itl = inter_token_latency_ns(done)
    itl = itl[has_itl]
    users = 1e9 / itl[itl > 0]
    chunks = int(np.asarray(done.responses).sum())
    seconds = max((stop_ns - begin_ns) / 1e9, 1e-9)
    all_input = told_input.size == len(done) and len(done) > 0
    return TokenSummary(
        counted_by=_counted_by(header.observed, len(done)),
        output_tokens=int(output.clip(0).sum()),
        input_tokens=int(told_input.sum()) if all_input else None,
        output_tokens_per_s=token_rate(records, begin_ns, stop_ns, level),
        input_tokens_per_s=float(told_input.sum()) / seconds if all_input else None,
        per_user_per_s=_quantiles(users, level),
        output_lengths=_lengths(output),
        input_lengths=_lengths(told_input),
        ttft_ns=_quantiles(ttft, level),
        itl_ns=_quantiles(itl, level),
        chunk_gap_ns=_of_chunks(_quantiles(chunk_gaps_ns(done), level)),
        e2e_ns=_quantiles(e2e, level),
        mean_ttft_ns=mean_estimate(ttft, level),
        mean_itl_ns=mean_estimate(itl, level),
        mean_e2e_ns=mean_estimate(e2e, level),
        chunks=chunks,
        tokens_per_chunk=float(output.clip(0).sum()) / chunks if chunks else None,
        without_text=int((~with_text).sum()),
        level=level,
    )


def measured_ns(records: RequestRecords, summary: Summary) -> tuple[int, int]:
    """The measurement's begin and end, on the records' clock."""
    header = records.header
    begin_ns = (header.measure_start_ns or header.start_ns) + round(summary.warmup_s * 1e9)
    return begin_ns, max(header.stop_ns, begin_ns)


def times_to_first_ns(done: RequestRecords) -> Int64:
    """int64: from when each request was due to its first chunk with text, of those that have one."""
    times: Int64 = (done.first_byte_ns - done.scheduled_ns)[done.first_byte_ns > 0]
    return times


def chunk_gaps_ns(done: RequestRecords) -> Floats:
    """float64: the time between each chunk with text and the one before it, of all requests, in the order that they ended."""
    rows, at_ns, _ = _text_chunks(done)
    same = rows[1:] == rows[:-1]
    gaps: Floats = np.diff(at_ns)[same].astype(np.float64)
    return gaps[:: -(-gaps.size // _MOST_GAPS)] if gaps.size else gaps


def token_rate(records: RequestRecords, begin_ns: int, stop_ns: int, level: float) -> Estimate:
    """Output tokens a second that came within [begin, stop), of answered requests, with a batch-means interval."""
    seconds = (stop_ns - begin_ns) / 1e9
    _, at_ns, tokens = _text_chunks(records.select(records.ok))
    inside = (at_ns >= begin_ns) & (at_ns < stop_ns)
    if seconds <= 0 or not inside.any():
        return Estimate(0.0 if seconds > 0 else None, None, "no token came")
    total = float(tokens[inside].sum())
    bins = min(_TIME_BINS, int(inside.sum()) // _CHUNKS_A_BIN)
    if bins < 8:
        told = "only 1 chunk" if inside.sum() == 1 else f"only {int(inside.sum())} chunks"
        return Estimate(total / seconds, None, f"{told} in {seconds:.2f} s")
    counts, _ = np.histogram(
        at_ns[inside] - begin_ns, bins, range=(0, stop_ns - begin_ns), weights=tokens[inside]
    )
    estimate = mean_estimate(counts * bins / seconds, level)
    if estimate.interval is None:
        return estimate
    # Few bins that differ much say less than nothing at the lower end.
    return replace(estimate, interval=replace(estimate.interval, low=max(0.0, estimate.interval.low)))


def cost_of(
    dollars_per_hour: float | None, tokens: TokenSummary, tokens_measured: float, energy_j: float | None
) -> TokenCost:
    """tokens_measured: output tokens of the stretch that energy_j was used in.

    $ per million = $/hour / 3600 / (output tokens/s) · 10^6; tokens per joule include idle power.
    """
    per_s = tokens.output_tokens_per_s.value
    dollars = None
    if dollars_per_hour is not None and per_s:
        dollars = dollars_per_hour / 3600 / per_s * 1e6
    per_joule = tokens_measured / energy_j if energy_j else None
    return TokenCost(dollars_per_hour, dollars, per_joule)


def dollars_estimate(cost: TokenCost, tokens: TokenSummary) -> Estimate:
    """Its interval is that of the tokens a second, turned round."""
    rate, value = tokens.output_tokens_per_s, cost.dollars_per_million_output_tokens
    if value is None or not rate.value or rate.interval is None or rate.interval.low <= 0:
        return Estimate(value)
    low, high = (value * rate.value / end for end in (rate.interval.high, rate.interval.low))
    return Estimate(value, Interval(low, high, rate.interval.level))


def tokens_between(records: RequestRecords, begin_ns: int, stop_ns: int) -> float:
    """Output tokens of answered requests that came in [begin, stop)."""
    _, at_ns, tokens = _text_chunks(records.select(records.ok))
    return float(tokens[(at_ns >= begin_ns) & (at_ns < stop_ns)].sum())


def with_counts(records: RequestRecords, count: Any = None) -> RequestRecords:
    """Output tokens that the server did not tell, counted: by `count` (text → tokens) where texts were kept, else a chunk
    with text as one. The header says how many were counted how, and the texts are let go."""
    if records.chunk_begin is None:
        records = _without_chunks(records)
    output = np.asarray(records.output_tokens).copy()
    unknown = np.flatnonzero(records.ok & (output < 0))
    how = "chunks" if count is None else "tokenizer"
    responses = np.asarray(records.responses)
    texts = _texts_of(records, unknown) if count is not None else {}
    for row in unknown:
        output[row] = count(texts[int(row)]) if count is not None else responses[row]
    by = {"server": int(records.ok.sum()) - unknown.size, how: int(unknown.size)}
    observed = {**records.header.observed, "counted_by": {name: n for name, n in by.items() if n}}
    return replace(
        records,
        header=replace(records.header, observed=observed),
        output_tokens=output,
        text=np.empty(0, np.uint8),
    )


def _texts_of(records: RequestRecords, rows: Int64) -> dict[int, str]:
    sizes, begin, end = (np.asarray(c) for c in (records.chunk_bytes, records.chunk_begin, records.chunk_end))
    at = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    text = np.asarray(records.text).tobytes()
    return {int(r): text[at[begin[r]] : at[end[r]]].decode("utf-8", "replace") for r in rows}


def _without_chunks(records: RequestRecords) -> RequestRecords:
    """Of a load of which no request was answered at all."""
    n = len(records)
    zero, unknown = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    none: dict[str, Any] = {
        "chunk_begin": zero,
        "chunk_end": zero,
        "input_tokens": unknown,
        "output_tokens": unknown,
    }
    none |= {name: np.empty(0, dtype) for name, dtype in (("chunk_ns", np.int64), ("text", np.uint8))}
    none |= {name: np.empty(0, np.int32) for name in ("chunk_tokens", "chunk_bytes")}
    responses = records.responses if records.responses is not None else zero
    last = records.last_response_ns if records.last_response_ns is not None else zero
    gap = records.longest_gap_ns if records.longest_gap_ns is not None else zero
    return replace(records, responses=responses, last_response_ns=last, longest_gap_ns=gap, **none)


def _text_chunks(records: RequestRecords) -> tuple[Int64, Int64, Floats]:
    """(row, when, tokens) of every chunk with text, in the rows' order; tokens that the server does not tell are shared out
    evenly, and those of chunks without text belong to the others."""
    begin, end = np.asarray(records.chunk_begin), np.asarray(records.chunk_end)
    counts = end - begin
    rows = np.repeat(np.arange(len(counts)), counts)
    places = (
        np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(begin, counts)
    )
    has_text = np.asarray(records.chunk_bytes)[places] > 0
    rows, places = rows[has_text], places[has_text]
    told = np.asarray(records.chunk_tokens)[places].astype(np.float64)
    with_text = np.bincount(rows, minlength=len(counts))
    sums = np.bincount(rows, weights=told.clip(0), minlength=len(counts))
    output = np.asarray(records.output_tokens).clip(0).astype(np.float64)
    even = (output / np.maximum(with_text, 1))[rows]
    scale = (output / np.where(sums > 0, sums, 1.0))[rows]
    whole = np.bincount(rows, weights=told < 0, minlength=len(counts)) == 0
    tokens = np.where((whole & (sums > 0))[rows], told * scale, even)
    return rows, np.asarray(records.chunk_ns)[places], tokens


def _counted_by(observed: Mapping[str, Any], otherwise: int) -> dict[str, int]:
    counted = observed.get("counted_by")
    return dict(counted) if isinstance(counted, Mapping) else {"server": otherwise}


def _lengths(values: npt.NDArray[Any]) -> dict[str, float]:
    if not values.size:
        return {}
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def _of_chunks(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """What they lack are gaps, not requests."""
    return {
        name: replace(e, why=e.why and e.why.replace("requests", "gaps").replace("request", "gap"))
        for name, e in estimates.items()
    }


def _quantiles(series: Floats, level: float) -> dict[str, Estimate]:
    return dict(zip(QUANTILES, quantile_estimates(series, tuple(QUANTILES.values()), level), strict=True))
