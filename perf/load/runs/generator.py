"""(Target, Load, payloads) → RequestRecords: sends what is due and records every request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.load.runs.one_process import run_plan
from tritonsmith.perf.load.runs.plan import ClientOptions, Plan, Progress, SequenceOptions
from tritonsmith.perf.load.runs.processes import run_in_processes
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.schedule import Closed, Load, Replay
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.target import Target

__all__ = ["ClientOptions", "Progress", "SequenceOptions", "generate"]


def generate(
    target: Target,
    load: Load,
    payloads: Sequence[InferPayload],
    *,
    warmup_s: float = 0.0,
    duration_s: float | None = None,
    requests: int | None = None,
    seed: int = 0,
    options: ClientOptions | None = None,
    environment: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    at_measure_start: Callable[[], None] | None = None,
) -> RequestRecords:
    """Put the load on the target and return a row for every request, warm-up and failures included.

    payloads:   the pool, cycled in an order drawn from `seed`.
    warmup_s:   time before the measurement; its rows are kept and lie before header.measure_start_ns.
    duration_s: time of the measurement; requests: or so many requests after the warm-up; the first limit
                reached ends the run (a replay needs neither).
    at_measure_start: called once, in another thread, when the warm-up is over (to read counters).
    Ctrl-C ends the run in about a second and returns what was recorded, header.interrupted set.
    Raises ServerError when not one connection can be opened at the start; later failures are rows.
    """
    if not payloads:
        raise UsageError("the load needs at least one payload", code="no_payload")
    if duration_s is None and requests is None and not isinstance(load, Replay):
        raise UsageError("the load needs a duration or a number of requests", code="bad_load")
    options = options or ClientOptions()
    if options.sequences is not None and not isinstance(load, Closed):
        raise UsageError(
            "sequences need a closed loop: a request waits for the answer to the one before",
            code="bad_load",
            fix="--sequences N instead of --request-rate or --replay",
        )
    if options.sessions is not None and not isinstance(load, Closed):
        raise UsageError(
            "sessions need a closed loop: a turn waits for the answer to the one before",
            code="bad_load",
            fix="--sessions N instead of --request-rate or --replay",
        )
    plan = Plan(load, warmup_s, duration_s, requests, seed)
    if options.processes > 1:
        return run_in_processes(
            target, payloads, plan, options, environment or {}, on_progress, at_measure_start
        )
    return run_plan(
        target,
        payloads,
        plan,
        options,
        environment=environment or {},
        on_progress=on_progress,
        at_measure_start=at_measure_start,
    )
