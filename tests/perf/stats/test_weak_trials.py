"""Counts of weak trials → what they mean for what a sweep found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tritonsmith.perf.stats.weak_trials import weak_trials_words


@pytest.mark.parametrize(
    ("counts", "more", "told"),
    [
        ({"VALID": 102}, {}, ()),
        (
            {"VALID": 24, "UNSETTLED": 78},
            {},
            (
                "78 of 102 trials moved while they were measured: the intervals come from how rounds differ and hold "
                "this noise already",
            ),
        ),
        (
            {"UNSETTLED": 6},
            {"outcomes": {"undecided"}},
            (
                "all 6 trials moved while they were measured: the intervals come from how rounds differ and hold this "
                "noise already; longer trials would make them narrower",
            ),
        ),
        (
            {"TOO_SHORT": 3, "VALID": 1},
            {"looks_at": {"throughput", "p99"}, "fewest_answers": 300},
            (
                "3 of 4 trials were too short for p99, which takes 368 answers, the smallest had 300: 68 too few; what "
                "rests on it cannot be trusted",
            ),
        ),
        (
            {"TOO_SHORT": 3, "VALID": 1},
            {"looks_at": {"throughput", "p50"}, "fewest_answers": 300},
            (
                "3 of 4 trials were short: p99 of each alone has no interval, and nothing that was found rests on it",
            ),
        ),
        (
            {"CLIENT_BOUND": 1, "UNSETTLED": 1, "failed": 1, "VALID": 5},
            {"outcomes": {"better", "equivalent"}},
            (
                "1 of 8 trials gave no number: their configs are judged by the other trials, or not at all",
                "1 of 8 trials were limited by the client, not by the server: fast configs look more alike than they "
                "are, so equivalent may be the client's doing",
                "1 of 8 trials moved while they were measured: the intervals come from how rounds differ and hold this "
                "noise already",
            ),
        ),
    ],
    ids=[
        "none",
        "noise that the intervals hold",
        "noise that keeps it open",
        "p99",
        "p99 of no use",
        "several",
    ],
)
def test_what_weak_trials_mean(
    counts: Mapping[str, int], more: Mapping[str, Any], told: tuple[str, ...]
) -> None:
    asked: dict[str, Any] = {"outcomes": {"better"}, "looks_at": {"throughput"}, **more}
    assert weak_trials_words(counts, **asked) == told
