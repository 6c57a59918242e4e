"""BatchResult → the lines that the command prints."""

from __future__ import annotations

from tritonsmith.builder.base.text.quantities import counted
from tritonsmith.perf.batch.result import BatchResult, share_of
from tritonsmith.perf.report import numbers


def text_of_batch(result: BatchResult) -> str:
    """What was done, how fast, what it cost, what failed and why."""
    lines = [_headline(result)]
    if result.before:
        lines.append(f"before     {result.before:,} rows were done by earlier runs")
    if result.rows_now:
        lines.append(f"rate       {rate_text(result)}")
        lines.append(f"requests   {requests_text(result)}")
    if saved := saved_text(result):
        lines.append(f"by length  {saved}")
    if cost := cost_text(result):
        lines.append(f"cost       {cost}")
    if result.retries:
        lines.append(f"retried    {_counts(result.retries)}")
    if result.failed:
        told = f": {_counts(all_failures(result))}" if result.failures else ""
        where = f"; in {result.errors}" if result.is_whole else ""
        lines.append(f"failed     {result.failed:,} rows{told}{where}")
    if result.is_whole:
        lines.append(f"output     {result.output}")
    return "\n".join(lines)


def _headline(result: BatchResult) -> str:
    took = f" in {result.run_s:,.1f} s" if result.rows_now else " before" if result.before else ""
    done = f"{result.answered:,} of {result.rows:,} rows answered by {result.model}{took}"
    checked = f", after {result.check_s:.1f} s of checking the input" if result.check_s >= 0.05 else ""
    return f"{'interrupted: ' if result.interrupted else ''}{done}{checked}"


def all_failures(result: BatchResult) -> dict[str, int]:
    """By reason; those of earlier runs, whose reasons stand in the file of errors, together."""
    before = result.failures_before
    return {**result.failures, **({"by earlier runs": before} if before > 0 else {})}


def rate_text(result: BatchResult) -> str:
    """`512 rows/s, 1,200 tokens/s, 8 requests in flight`."""
    parts = [f"{numbers.rate(result.rows_per_s)} rows/s"]
    if result.tokens_per_s:
        parts.append(f"{numbers.rate(result.tokens_per_s)} tokens/s")
    return ", ".join([*parts, f"{counted(result.in_flight, 'request')} in flight"])


def requests_text(result: BatchResult) -> str:
    """How many, and how full."""
    full = result.sizes.get(result.most_rows, 0)
    rows = sum(size * count for size, count in result.sizes.items())
    text = f"{result.requests:,}, {rows / max(1, result.requests):.1f} rows each"
    return (
        f"{text}; {full:,} with the {result.most_rows} that the model takes" if result.most_rows > 1 else text
    )


def saved_text(result: BatchResult) -> str:
    """What sorting by length saved against the order of the input; nothing where that is nothing."""
    sent, arrival = result.sent, result.arrival
    if not result.is_comparable:
        return ""
    parts = []
    if arrival.requests > sent.requests * 1.005:
        parts.append(f"{sent.requests:,} requests instead of {arrival.requests:,} in the order of the input")
    before, after = share_of(arrival) or 0.0, share_of(sent) or 0.0
    if before - after >= 0.005:
        parts.append(
            f"{numbers.percent(after)} of what they hold is padding, instead of {numbers.percent(before)}"
        )
    return "; ".join(parts)


def cost_text(result: BatchResult) -> str:
    """Dollars per million rows, and of tokens."""
    if result.dollars_per_hour is None:
        return ""
    spent = f"{numbers.dollars(result.dollars_per_hour * result.run_s / 3600)} for this run"
    each = [
        f"{numbers.dollars(value)} a million {what}"
        for what, value in (
            ("rows", result.dollars_per_million_rows),
            ("tokens", result.dollars_per_million_tokens),
        )
        if value is not None
    ]
    return "; ".join([*each, spent])


def _counts(counts: object) -> str:
    assert isinstance(counts, dict)
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))
