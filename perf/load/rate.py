"""(a live server, a load test, a limit for p99) → the highest request rate that keeps it, and that rate's test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tritonsmith.builder.base.errors import TrialError
from tritonsmith.perf.load.load_test import LoadTest, run_load_test
from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.load.slo import Probe, RateSearch, SloResult
from tritonsmith.perf.records.schedule import Closed, Open, load_label
from tritonsmith.perf.stats import Summary


def find_load_rate(
    url: str,
    test: LoadTest,
    limit_ms: float,
    on_probe: Callable[[Probe], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> tuple[SloResult, LoadTestResult]:
    """The search of perf.load.slo with Poisson arrivals; `test.load` is replaced, `duration_s` is the least a probe.

    It begins at half of what a closed loop at concurrency 16 gets done. The second part is the test at the
    rate that was found, or at the lowest one tried. Ctrl-C ends it with what is known.
    Where a request that is alone in the server takes longer than the limit already, lower rates are not tried:
    their latency goes towards that one. Raises what run_load_test does, and TrialError `stub_died`.
    """
    start = replace(test, load=Closed(16), duration_s=0.5, requests=None)
    alone = _tested(url, replace(start, load=Closed(1)))
    first = alone if alone.records.header.interrupted else _tested(url, start)
    answered_per_s = first.summary.answered / max(first.summary.duration_s, 1e-9)
    begin_per_s = max(1.0, answered_per_s / 2)
    alone_ns = alone.summary.latency_ns["p50"].value
    hopeless_per_s = begin_per_s * 0.4 if alone_ns is not None and alone_ns > limit_ms * 1e6 else 0.0
    if hopeless_per_s and alone_ns and on_note:
        on_note(f"a request that is alone in the server takes {alone_ns / 1e6:.2f} ms already (p50)")

    def run(load: Open, duration_s: float) -> tuple[LoadTestResult, Summary, bool]:
        result = _tested(url, replace(test, load=load, duration_s=duration_s, requests=None))
        return result, result.summary, result.records.header.interrupted

    search = RateSearch(run, limit_ms, test.duration_s or 1.0, test.data.seed, hopeless_per_s, on_probe)
    search.interrupted = first.records.header.interrupted
    found = search.find(begin_per_s)
    return found, search.best(found) or first


def _tested(url: str, test: LoadTest) -> LoadTestResult:
    """TrialError when a Python stub died meanwhile: that a rate is missed then says nothing about the rate."""
    result = run_load_test(url, test)
    if result.died:
        failed = [f"{count:,} requests failed: {why}" for why, count in result.records.failures().items()]
        raise TrialError(
            f"{result.died[0]}, under {load_label(test.load)}",
            code="stub_died",
            seen="; ".join(failed) or None,
            fix="look into the server's log",
        )
    return result
