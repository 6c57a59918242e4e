"""When requests were due and answered → how many were in flight: a growing queue, a slow client; pure."""

from __future__ import annotations

import numpy as np

from tritonsmith.perf.records.record import RequestRecords


def is_full(records: RequestRecords) -> bool:
    """Whether as many requests were in flight as the client ever has: what is due then waits for the server."""
    most = records.header.most_in_flight
    if not most or len(records) < most:
        return False
    sent = records.sent_ns > 0
    instants = np.concatenate([records.sent_ns[sent], records.end_ns[sent]])
    change = np.repeat([1, -1], int(sent.sum()))
    return bool(change[np.lexsort((change, instants))].cumsum().max() >= 0.95 * most)


def queue_growth(records: RequestRecords, begin_ns: int, stop_ns: int) -> float:
    """Of the requests that were due in a stretch, the share by which those without an answer became more.

    0.3: of a hundred that were due, thirty more waited at the end than at the start.
    """
    due = int(((records.scheduled_ns > begin_ns) & (records.scheduled_ns <= stop_ns)).sum())
    waiting = [
        int(((records.scheduled_ns <= at) & (records.end_ns > at)).sum()) for at in (begin_ns, stop_ns)
    ]
    return (waiting[1] - waiting[0]) / due if due else 0.0


def mean_in_flight(records: RequestRecords, begin_ns: int) -> float | None:
    """Requests in flight on average until the last was sent; None when nothing was.

    What is missing to a closed loop's concurrency is the time that its client took from an answer to the next
    request. The time that an answer waited for the client to read it is not seen here: it counts as latency.
    """
    if not len(records) or records.scheduled_ns[-1] <= begin_ns:
        return None
    last_ns = int(records.scheduled_ns[-1])
    begun = np.maximum(records.scheduled_ns, begin_ns)
    inside = np.clip(np.minimum(records.end_ns, last_ns) - begun, 0, None)
    return float(inside.sum()) / (last_ns - begin_ns)
