"""What the numbers of a load by tokens may be, whatever came."""

from __future__ import annotations

import numpy as np

from tritonsmith.perf.records.record import RecordHeader, RequestRecords, records_from_columns
from tritonsmith.perf.tokens.metrics import token_rate


def bursts(at_ns: list[int]) -> RequestRecords:
    """One request, a token at each of the times."""
    n = len(at_ns)
    load = {"kind": "closed", "concurrency": 1}
    header = RecordHeader("m", "http://h:1", "http", load, reasons=("ok",), batch_sizes=(1,))
    row = {"scheduled_ns": 0, "sent_ns": 0, "first_byte_ns": at_ns[0], "end_ns": at_ns[-1], "status": 0}
    row |= {"payload_index": 0, "responses": n, "last_response_ns": at_ns[-1], "longest_gap_ns": 1}
    row |= {"chunk_begin": 0, "chunk_end": n, "input_tokens": 1, "output_tokens": n}
    chunks = {"chunk_ns": at_ns, "chunk_tokens": [1] * n, "chunk_bytes": [1] * n, "text": []}
    return records_from_columns(header, {**{name: [value] for name, value in row.items()}, **chunks})


def test_a_rate_has_no_bound_below_nothing() -> None:
    second = 10**9
    burst = [5 * second // 10 + i for i in range(200)]
    rate = token_rate(bursts(burst), 0, second, 0.95)
    assert rate.value is not None and np.isclose(rate.value, 200)
    assert rate.interval is not None and rate.interval.low == 0.0 and rate.interval.high > 200
