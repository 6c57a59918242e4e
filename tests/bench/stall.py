"""A real tritonserver that stands still for a second under an open loop → what p99 and p99.9 say of it.

    python -m tests.bench.stall [--rate 200] [--seconds 5]

The server's processes are stopped and continued by signals. A client that counts latency from when a request
was sent, and sends none while it waits, would show one slow request; counted from when each was due, a second's
worth of them waited.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time

from tests.bench.tiny_server import MODEL, payload_for, tiny_server
from tritonsmith.builder.base.text.console import emit_text
from tritonsmith.perf.load.runs.generator import generate
from tritonsmith.perf.records.schedule import Open
from tritonsmith.perf.stats import summarise
from tritonsmith.perf.wire.http import HttpTarget

STALL_S = 1.0


def measure(rate_per_s: float, seconds: float) -> dict[str, float]:
    """Milliseconds of p50, p99 and p99.9 by the schedule, and p99 by the time each request was sent."""
    import numpy as np

    with tiny_server(None) as served:
        assert served.pid is not None
        stopping = threading.Timer(seconds / 2, _stall, [served.pid])
        stopping.start()
        records = generate(
            HttpTarget(served.http_url),
            Open(rate_per_s),
            [payload_for(MODEL)],
            duration_s=seconds,
        )
        stopping.join()
    latency = summarise(records).latency_ns
    ours = {name: (latency[name].value or 0.0) / 1e6 for name in ("p50", "p99", "p99.9")}
    alone = np.quantile((records.end_ns - records.sent_ns)[records.ok], 0.99) / 1e6
    return ours | {"p99 from the send": float(alone), "failed": float(sum(records.failures().values()))}


def _stall(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(STALL_S)
    os.kill(pid, signal.SIGCONT)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    found = measure(given.rate, given.seconds)
    text = ", ".join(f"{name} {value:,.1f}" for name, value in found.items())
    emit_text(
        f"stopped for {STALL_S:g} s at {given.rate:g} requests/s over {given.seconds:g} s, in ms: {text}"
    )


if __name__ == "__main__":
    main()
