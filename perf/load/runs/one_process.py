"""(target, payloads, plan) → RequestRecords, by one process's event loop."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from tritonsmith.perf.load.runs.closed import ClosedRun
from tritonsmith.perf.load.runs.open import OpenRun
from tritonsmith.perf.load.runs.plan import ClientOptions, Plan, Progress
from tritonsmith.perf.load.runs.run import Run
from tritonsmith.perf.load.runs.sequence import SequenceRun
from tritonsmith.perf.load.runs.session import SessionRun
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
    run = _kind_of(plan, options)(target, payloads, plan, options, on_progress)
    run.at_measure_start, run.before_start = at_measure_start, before_start
    run.interrupt_pipe = interrupt_pipe
    loop = uvloop.new_event_loop()
    collecting = gc.isenabled()
    gc.disable()  # a collection is a pause of milliseconds that would be laid at the server's door
    try:
        _complete(loop, run)
    finally:
        if collecting:
            gc.enable()
        loop.close()
    return run.records(dict(environment))


def _kind_of(plan: Plan, options: ClientOptions) -> type[Run]:
    if options.sequences:
        return SequenceRun
    if options.sessions:
        return SessionRun
    return ClosedRun if isinstance(plan.load, Closed) else OpenRun


def _complete(loop: asyncio.AbstractEventLoop, run: Run) -> None:
    """In this thread, or where a loop runs in it already, as in a notebook, in another: a thread has one at a time."""
    if not _has_running_loop():
        loop.run_until_complete(run.run())
        return
    with ThreadPoolExecutor(1) as thread:
        ran = thread.submit(loop.run_until_complete, run.run())
        while not ran.done():
            with _passing_on_interrupts(loop, run):
                wait([ran])
        ran.result()


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _passing_on_interrupts(loop: asyncio.AbstractEventLoop, run: Run) -> Iterator[None]:
    """A Ctrl-C comes to the main thread alone."""
    try:
        yield
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(run.interrupt)


def _allow_open_files() -> None:
    """As many as the system lets this process have: a connection is a file."""
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
