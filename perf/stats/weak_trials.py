"""How many trials of a sweep got which word → what that means for its outcomes, in sentences; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from tritonsmith.perf.stats.intervals import requests_for_quantile
from tritonsmith.perf.stats.validity import ValidityLevel

NO_NUMBERS = "failed"
"""What trials without a summary are counted as, beside the values of ValidityLevel."""

_SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}


def weak_trials_words(
    counts: Mapping[str, int],
    outcomes: Collection[str],
    looks_at: Collection[str],
    fewest_answers: int | None = None,
    level: float = 0.95,
) -> tuple[str, ...]:
    """A sentence for each kind of weak trial, what touches the outcomes first; empty when all are VALID.

    counts:         word → trials, as ValidityLevel's values, and `failed` for those without numbers.
    outcomes:       what was found of the arms: better, worse, equivalent, undecided, outside, broken.
    looks_at:       metrics that the outcomes rest on, objective and limits: `throughput`, `p50`, `p99` …
    fewest_answers: answered requests of the smallest trial.
    """
    total = sum(counts.values())
    return tuple(
        f"{_of(counts[name], total)} {sentence}"
        for name, words in _WORDS.items()
        if counts.get(name)
        for sentence in words(outcomes, looks_at, fewest_answers, level)
    )


def _of(count: int, total: int) -> str:
    if count == total:
        return "the only trial" if total == 1 else f"all {total:,} trials"
    return f"{count:,} of {total:,} trials"


Words = Iterator[str]


def _unanswered(
    outcomes: Collection[str], looks_at: Collection[str], fewest: int | None, level: float
) -> Words:
    yield "gave no number: their configs are judged by the other trials, or not at all"


def _client(outcomes: Collection[str], looks_at: Collection[str], fewest: int | None, level: float) -> Words:
    text = "were limited by the client, not by the server: fast configs look more alike than they are"
    hidden = [word for word in ("equivalent", "undecided") if word in outcomes]
    yield f"{text}, so {' and '.join(hidden)} may be the client's doing" if hidden else text


def _short(outcomes: Collection[str], looks_at: Collection[str], fewest: int | None, level: float) -> Words:
    needed = {name: requests_for_quantile(_SHARES[name], level) for name in looks_at if name in _SHARES}
    lacking = {name: n for name, n in needed.items() if fewest is None or fewest < n}
    if not lacking:
        yield "were short: p99 of each alone has no interval, and nothing that was found rests on it"
        return
    name = max(lacking, key=lambda quantile: lacking[quantile])
    had = "" if fewest is None else f", the smallest had {fewest:,}: {lacking[name] - fewest:,} too few"
    yield f"were too short for {name}, which takes {lacking[name]:,} answers{had}; what rests on it cannot be trusted"


def _noisy(outcomes: Collection[str], looks_at: Collection[str], fewest: int | None, level: float) -> Words:
    text = "moved while they were measured: the intervals come from how rounds differ and hold this noise already"
    yield f"{text}; longer trials would make them narrower" if "undecided" in outcomes else text


_WORDS = {
    NO_NUMBERS: _unanswered,
    ValidityLevel.FAILED.value: _unanswered,
    ValidityLevel.CLIENT_BOUND.value: _client,
    ValidityLevel.TOO_SHORT.value: _short,
    ValidityLevel.UNSETTLED.value: _noisy,
}
