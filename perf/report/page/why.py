"""RunResult + cells → why the winner wins, in a sentence made from the server's counters, or nothing; pure.

Each rule looks at one kind of evidence and keeps silent unless it is plain: a reason that is not in the numbers
is not given. What a rule needs is in Evidence; the thresholds are stated where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tritonsmith.perf.report.cells import Cell, ServerTime
from tritonsmith.perf.report.numbers import milliseconds, percent
from tritonsmith.perf.sweep.plan import config_path
from tritonsmith.perf.sweep.run_record import RunResult
from tritonsmith.perf.sweep.trial import instance_count

MOST_REASONS = 2


@dataclass(frozen=True, slots=True)
class Side:
    """One config and what the server told of it at the load point of the verdict.

    delay_us: None without dynamic batching. preferred: preferred_batch_size is set, which makes batches too.
    """

    server: ServerTime
    max_batch_size: int
    instances: int
    delay_us: int | None
    cache_share: float
    preferred: bool = False

    @property
    def queue_share(self) -> float:
        """Of a request's time inside the server."""
        return self.server.queue_ns / self.server.total_ns if self.server.total_ns else 0.0

    @property
    def infer_ns_each(self) -> float | None:
        """Time of an execution over the inferences in it."""
        return self.server.infer_ns / self.server.mean_batch if self.server.mean_batch else None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The best arm beside the current config. in_flight: inferences that the load keeps going; 0 unknown, so of cores."""

    ours: Side
    base: Side
    in_flight: int
    cores: int


Rule = Callable[[Evidence], str | None]


def evidence_of(run: RunResult, cells: Mapping[tuple[str, int], Cell]) -> Evidence | None:
    """None when the server's counters are missing on either side, or count whole answers of a language model."""
    point, arm_id = run.verdict.concurrency, run.verdict.arm_id
    ours = next((a for a in run.arms if a.id == arm_id), None)
    base = next((a for a in run.arms if a.baseline), None)
    if point is None or ours is None or base is None or run.spec.osl is not None:
        return None
    cell, base_cell = cells.get((ours.id, point)), cells.get((base.id, point))
    if cell is None or base_cell is None or cell.server is None or base_cell.server is None:
        return None
    cores = run.environment.get("cores")
    return Evidence(
        _side(run, ours.id, ours.config, cell.server, point),
        _side(run, base.id, base.config, base_cell.server, point),
        0 if run.spec.slo_p99_ms is not None else point * (ours.batch_size or run.spec.batch_size),
        cores if isinstance(cores, int) else 0,
    )


def _side(run: RunResult, arm_id: str, config: Mapping[str, Any], server: ServerTime, point: int) -> Side:
    counters = [
        t.server for t in run.trials if t.trial.arm_id == arm_id and t.trial.concurrency == point and t.server
    ]
    delay = config_path.read(config, "dynamic_batching.max_queue_delay_microseconds")
    return Side(
        server,
        int(config.get("max_batch_size", 0)),
        instance_count(config),
        None if "dynamic_batching" not in config else int(delay or 0),
        server.cache_hits / max(1, sum(c.requests for c in counters)),
        bool(config_path.read(config, "dynamic_batching.preferred_batch_size")),
    )


def why_winner(run: RunResult, cells: Mapping[tuple[str, int], Cell]) -> str | None:
    """At most two reasons, the strongest kinds of evidence first; None without a winner or a plain reason."""
    evidence = evidence_of(run, cells) if run.verdict.outcome == "winner" else None
    if evidence is None:
        return None
    reasons = [text for rule in RULES if (text := rule(evidence))][:MOST_REASONS]
    if not reasons and (text := compute(evidence)):
        reasons = [text]
    return None if not reasons else "Why: " + "; ".join(reasons) + "."


def what_next(run: RunResult, cells: Mapping[tuple[str, int], Cell]) -> str | None:
    """What the batches of the best config suggest to sweep next; None when they suggest nothing."""
    evidence = evidence_of(run, cells)
    return None if evidence is None else unfilled(evidence)


# Rules for a winner.


def cache(e: Evidence) -> str | None:
    """A fifth or more of the requests from the response cache, and not before."""
    if e.ours.cache_share < 0.2 or e.base.cache_share >= 0.2:
        return None
    return f"{percent(min(1.0, e.ours.cache_share))} of its requests were answered from the response cache"


def more_instances(e: Evidence) -> str | None:
    """Waiting was a fifth of the time or more, and more instances took 30 % of it away or more."""
    a, b = e.ours, e.base
    if a.instances <= b.instances or b.queue_share < 0.2 or a.server.queue_ns > 0.7 * b.server.queue_ns:
        return None
    text = (
        f"{a.instances} instances instead of {b.instances} shorten the wait in the queue from "
        f"{milliseconds(b.server.queue_ns)} ms ({percent(b.queue_share)} of a request) to "
        f"{milliseconds(a.server.queue_ns)} ms"
    )
    return f"{text}, and {e.cores} cores have room for them" if e.cores >= a.instances else text


def fewer_instances(e: Evidence) -> str | None:
    """More instances than cores before, fewer now, and an execution became 20 % shorter or more."""
    a, b = e.ours, e.base
    if not 0 < a.instances < b.instances or e.cores == 0 or b.instances <= e.cores:
        return None
    if a.server.infer_ns > 0.8 * b.server.infer_ns:
        return None
    return (
        f"{b.instances} instances share {e.cores} cores in the current config and slow one another: an execution "
        f"takes {milliseconds(b.server.infer_ns)} ms, with {a.instances} it takes {milliseconds(a.server.infer_ns)} ms"
    )


def larger_batches(e: Evidence) -> str | None:
    """Batches a third larger or more that cost a tenth less an inference or more."""
    a, b = e.ours, e.base
    if a.server.mean_batch is None or b.server.mean_batch is None or a.max_batch_size < 2:
        return None
    ours_ns, base_ns = a.infer_ns_each, b.infer_ns_each
    if ours_ns is None or base_ns is None:
        return None
    if a.server.mean_batch < 1.33 * b.server.mean_batch or ours_ns > 0.9 * base_ns:
        return None
    return (
        f"it runs batches of {a.server.mean_batch:.1f} on average (of {a.max_batch_size}) instead of "
        f"{b.server.mean_batch:.1f}, which makes an inference cost {milliseconds(ours_ns)} ms of execution "
        f"instead of {milliseconds(base_ns)} ms"
    )


def shorter_delay(e: Evidence) -> str | None:
    """A shorter queue delay, 30 % less waiting or more, and batches not a fifth smaller."""
    a, b = e.ours, e.base
    if b.delay_us is None or a.delay_us is None or a.delay_us >= b.delay_us:
        return None
    if (
        a.server.queue_ns > 0.7 * b.server.queue_ns
        or a.server.mean_batch is None
        or b.server.mean_batch is None
    ):
        return None
    if a.server.mean_batch < 0.8 * b.server.mean_batch:
        return None
    return (
        f"the delay of {b.delay_us} µs does not pay: batches average {b.server.mean_batch:.1f} with it and "
        f"{a.server.mean_batch:.1f} with {a.delay_us} µs, while the wait in the queue falls from "
        f"{milliseconds(b.server.queue_ns)} to {milliseconds(a.server.queue_ns)} ms"
    )


def compute(e: Evidence) -> str | None:
    """For want of another reason: execution 15 % shorter an inference or more (threads, precision, backend)."""
    ours_ns, base_ns = e.ours.infer_ns_each, e.base.infer_ns_each
    if ours_ns is None or base_ns is None or ours_ns > 0.85 * base_ns:
        return None
    return f"an inference costs {milliseconds(ours_ns)} ms of execution instead of {milliseconds(base_ns)} ms"


RULES: tuple[Rule, ...] = (cache, more_instances, fewer_instances, larger_batches, shorter_delay)


# What to sweep next.


def unfilled(e: Evidence) -> str | None:
    """Batches under a quarter of max_batch_size: because nothing more is in flight, or the delay is too short."""
    a = e.ours
    mean = a.server.mean_batch
    if (
        e.in_flight < 2
        or mean is None
        or a.max_batch_size < 4
        or a.delay_us is None
        or mean >= a.max_batch_size / 4
    ):
        return None
    head = f"Batches stay small: {mean:.1f} of {a.max_batch_size} on average"
    if e.in_flight < a.max_batch_size / 2:
        return f"{head}; none can be larger than the {e.in_flight} inferences in flight."
    # Executing and waiting ones together are all there is; half of it unbatched means there was more to take.
    if mean * a.instances > e.in_flight / 2 or a.delay_us * 1000 >= a.server.infer_ns or a.preferred:
        return None
    return (
        f"{head}, though {e.in_flight} are in flight: the delay of {a.delay_us} µs is shorter than an execution "
        f"({milliseconds(a.server.infer_ns)} ms); a longer max_queue_delay_microseconds is worth a sweep."
    )
