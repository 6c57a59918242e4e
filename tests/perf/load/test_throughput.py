"""Throughput of short measurements: no answer is lost at their ends, and batches make no steps."""

from __future__ import annotations

import numpy as np
import pytest

from tritonsmith.perf.records.record import RecordHeader, RequestRecords
from tritonsmith.perf.stats import summarise

MS, S = 1_000_000, 1_000_000_000


def batched_loop(
    in_flight: int, batch: int, execution_ms: float, warmup_ms: float, measured_ms: float
) -> RequestRecords:
    """A closed loop on one instance that answers `batch` requests at a time, in order."""
    free_ns, executed_ns = [S] * in_flight, S
    sent, ended = [], []
    stop_ns = S + round((warmup_ms + measured_ms) * MS)
    while min(free_ns) < stop_ns:
        free_ns.sort()
        executed_ns = max(executed_ns, free_ns[batch - 1]) + round(execution_ms * MS)
        sent += free_ns[:batch]
        ended += [executed_ns] * batch
        free_ns[:batch] = [executed_ns] * batch
    due, end = np.array(sent, np.int64), np.array(ended, np.int64)
    kept = due < stop_ns
    due, end = due[kept], end[kept]
    header = RecordHeader(
        "m", "http://x", "http", {"kind": "closed", "concurrency": in_flight},
        start_ns=S, measure_start_ns=S + round(warmup_ms * MS), stop_ns=stop_ns,
    )  # fmt: skip
    zeros = np.zeros(due.size)
    return RequestRecords(header, due, due, end, end, zeros.astype(np.uint16), zeros.astype(np.int32))


@pytest.mark.parametrize("measured_ms", [250.0, 253.0, 259.0, 1000.0])
@pytest.mark.parametrize(("in_flight", "batch"), [(1, 1), (16, 2), (16, 4), (64, 1)])
def test_a_closed_loop_of_known_rate_is_measured_within_one_percent_whatever_the_window(
    in_flight: int, batch: int, measured_ms: float
) -> None:
    truth_per_s = batch / 0.010
    found = summarise(batched_loop(in_flight, batch, 10.0, 1000.0, measured_ms)).throughput_per_s
    assert found.value == pytest.approx(truth_per_s, rel=0.01)


def test_two_configs_compare_as_they_are_though_requests_wait_longer_for_the_slower() -> None:
    slow = summarise(batched_loop(16, 2, 10.0, 100.0, 250.0)).throughput_per_s.value
    fast = summarise(batched_loop(16, 4, 6.0, 100.0, 250.0)).throughput_per_s.value
    assert slow is not None and fast is not None
    assert fast / slow == pytest.approx((4 / 6.0) / (2 / 10.0), rel=0.03)
