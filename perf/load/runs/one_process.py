"""(target, payloads, plan) → RequestRecords, by one process's event loop."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from tritonsmith.perf.load.runs.closed import ClosedRun
from tritonsmith.perf.load.runs.open import OpenRun
from tritonsmith.perf.load.runs.plan import ClientOptions, Plan, Progress
from tritonsmith.perf.load.runs.sequence import SequenceRun
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.target import Target


def run_plan(
    target: Target,
    payloads: Sequence[InferPayload],
    plan: Plan,
    options: ClientOptions,
    *,
    environment: Mapping[str, Any],
    on_progress: Callable[[Progress], None] | None = None,
    at_measure_start: Callable[[], None] | None = None,
    before_start: Callable[[], int] | None = None,
    interrupt_pipe: Connection | None = None,
) -> RequestRecords:
    """One process's run in an event loop of its own.

    before_start:   called in another thread once the connections are open; returns at the start it gives,
                    a time.monotonic_ns.
    interrupt_pipe: anything that arrives on it, its end among them, is a Ctrl-C.
    """
    import uvloop

    _allow_open_files()
    kind = SequenceRun if options.sequences else ClosedRun if isinstance(plan.load, Closed) else OpenRun
    run = kind(target, payloads, plan, options, on_progress)
    run.at_measure_start, run.before_start = at_measure_start, before_start
    run.interrupt_pipe = interrupt_pipe
    loop = uvloop.new_event_loop()
    collecting = gc.isenabled()
    gc.disable()  # a collection is a pause of milliseconds that would be laid at the server's door
    try:
        loop.run_until_complete(run.run())
    finally:
        if collecting:
            gc.enable()
        loop.close()
    return run.records(dict(environment))


def _allow_open_files() -> None:
    """As many as the system lets this process have: a connection is a file."""
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
