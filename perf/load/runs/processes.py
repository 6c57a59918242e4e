"""One load test shared by several client processes, for when one core is not enough → their records, merged.

Each process sends every n-th request of the same plan (a closed loop: its share of the concurrency) and they
start together. CLOCK_MONOTONIC is one clock for all processes of a machine, so that the rows merge as they are.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import TrialError, TritonsmithError
from tritonsmith.perf.load.runs.children import start_child
from tritonsmith.perf.load.runs.one_process import run_plan
from tritonsmith.perf.load.runs.plan import ClientOptions, Plan, Progress
from tritonsmith.perf.records.record import RequestRecords, load_records, merge, save_records
from tritonsmith.perf.records.schedule import Closed, load_as_dict
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.target import Target

_START_LEAD_S = 0.05
_START_TIMEOUT_S = 60.0


def shares(plan: Plan, parts: int) -> list[Plan]:
    """The plan of each process; fewer than asked when there are fewer slots or requests than processes."""
    if not isinstance(plan.load, Closed):
        return [replace(plan, part=part, parts=parts) for part in range(parts)]
    slots, requests = plan.load.concurrency, plan.requests
    parts = min(parts, slots, *(c for c, _ in plan.load.steps), requests or parts)
    return [
        replace(
            plan,
            part=part,
            parts=parts,
            load=replace(
                plan.load,
                concurrency=_share(slots, part, parts),
                steps=tuple((_share(c, part, parts), duration_s) for c, duration_s in plan.load.steps),
            ),
            requests=None if requests is None else _share(requests, part, parts),
        )
        for part in range(parts)
    ]


def _share(total: int, part: int, parts: int) -> int:
    return total // parts + (part < total % parts)


def run_in_processes(
    target: Target,
    payloads: Sequence[InferPayload],
    plan: Plan,
    options: ClientOptions,
    environment: Mapping[str, Any],
    on_progress: Callable[[Progress], None] | None,
    at_measure_start: Callable[[], None] | None,
) -> RequestRecords:
    """Start the processes, wait for them, merge. A process that cannot start ends the test with its error."""
    plans = shares(plan, options.processes)
    with tempfile.TemporaryDirectory(prefix="tritonsmith-load-") as directory:
        pipes: list[Connection] = []
        workers: list[BaseProcess] = []
        try:
            for part, share in enumerate(plans):
                ours, theirs = multiprocessing.Pipe()
                path = Path(directory) / f"{part}.npz"
                part_of_it = target.of_process(part, len(plans))
                workers.append(start_child(_work, part_of_it, payloads, share, options, path, theirs))
                theirs.close()
                pipes.append(ours)
            _start_together(pipes, plan, at_measure_start)
            _follow(pipes, on_progress)
            for worker in workers:
                worker.join(_START_TIMEOUT_S)
            parts = [load_records(Path(directory) / f"{part}.npz") for part in range(len(plans))]
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.kill()
                worker.join()
    merged = merge(parts)
    header = replace(merged.header, load=load_as_dict(plan.load), environment=dict(environment))
    return replace(merged, header=header)


# In the parent.


def _start_together(
    pipes: Sequence[Connection], plan: Plan, at_measure_start: Callable[[], None] | None
) -> None:
    for pipe in pipes:
        _receive(pipe)  # "ready": its connections are open
    start_ns = time.monotonic_ns() + round(_START_LEAD_S * 1e9)
    for pipe in pipes:
        _tell(pipe, start_ns)
    if at_measure_start is not None:
        timer = threading.Timer(plan.warmup_s + _START_LEAD_S, at_measure_start)
        timer.daemon = True
        timer.start()


def _follow(pipes: Sequence[Connection], on_progress: Callable[[Progress], None] | None) -> None:
    """Until every process says that it is done; Ctrl-C is passed on to them."""
    last: dict[int, Progress] = {}
    running = dict(enumerate(pipes))
    while running:
        with _passing_on_interrupts(running):
            for ready in wait(list(running.values())):
                part = next(i for i, pipe in running.items() if pipe is ready)
                message = _receive(running[part])
                if message == "done":
                    del running[part]
                else:
                    last[part] = message
            if on_progress is not None and last:
                on_progress(
                    Progress(
                        min(p.done for p in last.values()),
                        sum(p.requests for p in last.values()),
                        sum(p.failed for p in last.values()),
                    )
                )


@contextmanager
def _passing_on_interrupts(running: Mapping[int, Connection]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        for pipe in running.values():
            _tell(pipe, "interrupt")


# Between them.


def _tell(pipe: Connection, message: object) -> None:
    """Who is gone at the other end shows when it is listened to."""
    with suppress(OSError):
        pipe.send(message)


def _receive(pipe: Connection) -> Any:
    """The next message; one that is an error is raised, and so is the other process's end."""
    try:
        message = pipe.recv()
    except (EOFError, OSError):
        raise TrialError("a client process died", code="client_died") from None
    if isinstance(message, TritonsmithError):
        raise message
    return message


# In a child.


def _work(
    target: Target,
    payloads: Sequence[InferPayload],
    plan: Plan,
    options: ClientOptions,
    path: Path,
    pipe: Connection,
) -> None:
    def start() -> int:
        _tell(pipe, "ready")
        start_ns = int(_receive(pipe))
        time.sleep(max(0.0, (start_ns - time.monotonic_ns()) / 1e9))
        return start_ns

    try:
        records = run_plan(
            target,
            payloads,
            plan,
            options,
            environment={},
            on_progress=partial(_tell, pipe),
            before_start=start,
            interrupt_pipe=pipe,
        )
        save_records(records, path)
        _tell(pipe, "done")
    except TritonsmithError as error:
        _tell(pipe, error)
