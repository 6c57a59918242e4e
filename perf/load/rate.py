"""(a live server, a load test, a limit for p99) → the highest request rate that keeps it, and that rate's test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tritonsmith.builder.base.errors import TrialError
from tritonsmith.perf.load.load_test import LoadTest, run_load_test
from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.load.slo import Probe, SloResult, find_rate, probe_duration_s, probe_from_summary
from tritonsmith.perf.records.schedule import Closed, Open, load_label

_START = LoadTest(model="", load=Closed(16), duration_s=0.5, warmup_s=0.3)


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
    start = replace(test, load=_START.load, duration_s=_START.duration_s, requests=None)
    alone = _tested(url, replace(start, load=Closed(1)))
    first = alone if alone.records.header.interrupted else _tested(url, start)
    answered_per_s = first.summary.answered / max(first.summary.duration_s, 1e-9)
    begin_per_s = max(1.0, answered_per_s / 2)
    alone_ns = alone.summary.latency_ns["p50"].value
    hopeless_per_s = begin_per_s * 0.4 if alone_ns is not None and alone_ns > limit_ms * 1e6 else 0.0
    if hopeless_per_s and alone_ns and on_note:
        on_note(f"a request that is alone in the server takes {alone_ns / 1e6:.2f} ms already (p50)")
    tests: dict[float, LoadTestResult] = {}
    interrupted = first.records.header.interrupted
    probes = 0

    def measure(rate_per_s: float) -> Probe | None:
        nonlocal interrupted, probes
        if interrupted or rate_per_s < hopeless_per_s:
            return None
        probes += 1  # each probe has arrivals of its own: two that agree are to be two findings
        duration_s = probe_duration_s(rate_per_s, test.duration_s or 1.0)
        load = Open(rate_per_s, "poisson", test.data.seed + probes)
        result = _tested(url, replace(test, load=load, duration_s=duration_s, requests=None))
        interrupted = result.records.header.interrupted
        if interrupted:
            return None
        tests[rate_per_s] = result
        probe = probe_from_summary(rate_per_s, result.summary, limit_ms)
        if on_probe is not None:
            on_probe(probe)
        return probe

    found = replace(find_rate(measure, limit_ms, begin_per_s), interrupted=interrupted)
    best = found.rate_per_s
    if best is None:
        return found, tests[min(tests)] if tests else first
    return found, tests[best]


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
