"""The result of a load by tokens → JSON and what people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.load.text import (
    number,
    percent,
    result_as_dict,
    seen_lines,
    step_lines,
    text_of_result,
    verdict_lines,
)
from tritonsmith.perf.records.schedule import Load
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.stats import Estimate
from tritonsmith.perf.tokens.metrics import (
    TokenCost,
    TokenSummary,
    cost_of,
    dollars_estimate,
    is_by_tokens,
    summarise_tokens,
    tokens_between,
)

_COUNTED = {
    "server": "the server counts them",
    "tokenizer": "the tokenizer counts them",
    "chunks": "chunks, each of which may hold several: the server counts none",
}
_SHOWN = ("p50", "p90", "p99")
_OF_BATCHES = "              mean batch"


def any_result_as_dict(result: LoadTestResult) -> dict[str, Any]:
    """JSON form of a load test, by tokens or not."""
    return token_result_as_dict(result) if is_by_tokens(result.records) else result_as_dict(result)


def text_of_any(result: LoadTestResult, load: Load) -> str:
    """What people read of a load test, by tokens or not."""
    return text_of_tokens(result, load) if is_by_tokens(result.records) else text_of_result(result, load)


def token_result_as_dict(result: LoadTestResult) -> dict[str, Any]:
    """JSON form: that of any load test, with `tokens` (times in ns), `cost` and what is known of the prompts."""
    tokens = summarise_tokens(result.records, result.summary)
    return {
        **result_as_dict(result),
        "tokens": json_of(tokens),
        "cost": json_of(cost_of_result(result, tokens)),
        "prompts": dict(_told(result)),
    }


def text_of_tokens(result: LoadTestResult, load: Load) -> str:
    """The verdict first, failures before any number; then tokens a second, TTFT, ITL, lengths, cost, server and client."""
    summary, tokens = result.summary, summarise_tokens(result.records, result.summary)
    lines = verdict_lines(result, load)
    lines.append(f"  tokens      {number(tokens.output_tokens_per_s, 1.0, 'output tokens/s')}")
    if summary.answered and _has_itl(tokens):
        lines.append(f"              {_number(tokens.per_user_per_s['p50'], 1.0, 'a user')}, p50")
    if tokens.input_tokens_per_s is not None:
        lines.append(f"              {number(Estimate(tokens.input_tokens_per_s), 1.0, 'input tokens/s')}")
    lines.append(f"  requests    {number(summary.throughput_per_s, 1.0, 'requests/s')}")
    if summary.answered:
        lines += _times("TTFT", tokens.ttft_ns)
        lines += _between_lines(tokens)
        lines += _times("end-to-end", tokens.e2e_ns)
    else:
        lines.append("  TTFT        unknown: no request was answered")
    lines += _goodput_lines(result)
    lines += step_lines(summary, "requests/s")
    lines += _length_lines(result, tokens)
    lines += _cost_lines(result, tokens)
    seen = [line for line in seen_lines(result) if not line.startswith(_OF_BATCHES)]
    return "\n".join([*lines, *map(_handed_over, seen), *_client_lines(result, tokens)])


def _handed_over(line: str) -> str:
    """Triton's counters of a decoupled model end when its backend has taken the request: they tell of no token."""
    if not line.startswith("  server      queue"):
        return line
    return line.partition(", compute")[0] + "; the engine batches, Triton does not see how"


def cost_of_result(result: LoadTestResult, tokens: TokenSummary) -> TokenCost:
    """What the result's tokens cost; energy is that of the whole stretch after the stated warm-up."""
    header, use = result.records.header, result.resources
    begin_ns = header.measure_start_ns or header.start_ns
    measured = (
        0.0 if use is None else tokens_between(result.records, begin_ns, begin_ns + round(use.wall_s * 1e9))
    )
    dollars = _told(result).get("dollars_per_hour")
    return cost_of(
        dollars if isinstance(dollars, int | float) else None,
        tokens,
        measured,
        None if use is None else use.energy_j,
    )


def _told(result: LoadTestResult) -> Mapping[str, Any]:
    told = result.records.header.observed.get("tokens")
    return told if isinstance(told, Mapping) else {}


def _times(label: str, series: Mapping[str, Estimate]) -> list[str]:
    lines = []
    for name in _SHOWN:
        lines.append(f"  {label:<12}{name:<5} {_number(series[name], 1e-6, 'ms')}")
        label = ""
    return lines


def _has_itl(tokens: TokenSummary) -> bool:
    """Whether any answer came in pieces that lie apart in time."""
    return tokens.per_user_per_s["p50"].value is not None


def _between_lines(tokens: TokenSummary) -> list[str]:
    if not _has_itl(tokens):
        why = (
            "no answer had a second token" if tokens.output_lengths.get("max", 0) < 2 else "each came at once"
        )
        return [f"  ITL         unknown: {why}, {tokens.chunks:,} chunks in all"]
    return [
        *_times("ITL", tokens.itl_ns),
        "              (end-to-end - TTFT) / (tokens - 1) of each request; TPOT",
        *_times("gaps", tokens.chunk_gap_ns),
        f"              {_gap_words(tokens)}",
    ]


def _number(estimate: Estimate, scale: float, unit: str) -> str:
    """As everywhere, in 80 columns: of what an interval lacks, the number."""
    why = estimate.why and estimate.why.partition(",")[0]
    return number(replace(estimate, why=why), scale, unit)


def _gap_words(tokens: TokenSummary) -> str:
    each = tokens.tokens_per_chunk
    if each is not None and each > 1.05:
        return f"between chunks of {each:.3g} tokens on average, all requests' together"
    return "between chunks, all requests' together"


def _goodput_lines(result: LoadTestResult) -> list[str]:
    goodput = result.summary.goodput
    if goodput is None:
        return []
    words = {"ttft": "TTFT", "itl": "ITL", "e2e": "end-to-end"}
    limits = ", ".join(f"{words.get(name, name)} ≤ {ns / 1e6:g} ms" for name, ns in goodput.limits_ns.items())
    share = "" if goodput.share is None else f", {percent(goodput.share)} of the requests"
    return [
        f"  goodput     {number(goodput.per_s, 1.0, 'requests/s')}",
        f"              within {limits}{share}",
    ]


def _length_lines(result: LoadTestResult, tokens: TokenSummary) -> list[str]:
    told = _told(result)
    into = _length("in", tokens.input_lengths) if tokens.input_lengths else "in unknown"
    lines = [f"  lengths     {into}, {_length('out', tokens.output_lengths)}"]
    counted = ", ".join(
        _COUNTED.get(how, how) if len(tokens.counted_by) == 1 else f"{n:,} requests: {_COUNTED.get(how, how)}"
        for how, n in tokens.counted_by.items()
    )
    lines += [f"              output tokens: {counted}"] if counted else []
    if tokens.without_text:
        lines.append(f"              {_requests_were(tokens.without_text)} answered without a text")
    if shorter := told.get("shorter"):
        lines.append(f"              {_requests_were(shorter)} answered with fewer tokens than asked for:")
        lines.append("              is the model's context too short for prompt and answer?")
    if told.get("plain_chats"):
        lines.append("              chats are asked as plain text, a message a line: no chat template")
    if told.get("approximate_lengths"):
        lines.append("              asked for in words: a token each, roughly; see --tokenizer")
    count, requests = told.get("prompts"), len(result.records)
    if isinstance(count, int) and 0 < count < requests and not told.get("sessions"):
        them = "prompt" if count == 1 else "prompts"
        lines.append(f"              {count:,} {them} again and again: a prefix cache may know them")
    return lines


def _requests_were(count: int) -> str:
    return "1 request was" if count == 1 else f"{count:,} requests were"


def _length(word: str, lengths: Mapping[str, float]) -> str:
    if not lengths:
        return f"{word} unknown"
    if lengths["min"] == lengths["max"]:
        return f"{word} {lengths['mean']:,.0f}"
    return f"{word} {lengths['mean']:,.1f} ({lengths['min']:,.0f} to {lengths['max']:,.0f})"


def _cost_lines(result: LoadTestResult, tokens: TokenSummary) -> list[str]:
    cost = cost_of_result(result, tokens)
    lines = []
    if cost.dollars_per_hour is not None:
        estimate = dollars_estimate(cost, tokens)
        if estimate.value is None:
            return [f"  cost        unknown: no token came, at {cost.dollars_per_hour:g} $/hour"]
        dollars = number(estimate, 1.0, "$ per million output tokens")
        lines.append(f"  cost        {dollars}, at {cost.dollars_per_hour:g} $/hour")
    if cost.tokens_per_joule is not None:
        lines.append(f"              {cost.tokens_per_joule:,.3g} output tokens a joule, idle power included")
    return lines


def _client_lines(result: LoadTestResult, tokens: TokenSummary) -> list[str]:
    chunks = len(result.records.chunk_table()["chunk_ns"])
    if not chunks:
        return []
    return [f"              {result.records.header.client_cpu_s / chunks * 1e6:.1f} µs of client CPU a chunk"]
