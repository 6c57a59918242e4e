"""A model's statistics before and after → what the server itself did in between; pure.

Format: Triton's statistics extension (`GET /v2/models/M/stats`); counters run since the model was loaded and
durations are nanoseconds. Why requests failed is in Triton's metrics alone (docs/user_guide/metrics.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, computed_field

from tritonsmith.perf.usage.prometheus import samples_of

Row = Mapping[str, Any]

_Count = Annotated[int, Field(lt=2**63)]
# Sums and products of these stay finite, whatever a file says.
_Us = Annotated[float, Field(gt=-1e15, lt=1e15)]


@dataclass(frozen=True, slots=True)
class ServerCounters:
    """Differences of the server's counters, all versions of the model together.

    requests, failed:  requests answered, with and without success.
    inferences:        rows of all batches; executions: calls of the model.
    mean_*_us:         mean time of a successful request in the queue and in each part of compute.
    batch_executions:  batch size that the server really ran → executions, ascending; empty where the
                       backend does not report it.
    failed_by_reason:  of its metrics: REJECTED, CANCELED, BACKEND or OTHER → requests; empty where they tell none.
    """

    requests: _Count
    failed: _Count
    inferences: _Count
    executions: _Count
    mean_queue_us: _Us
    mean_compute_input_us: _Us
    mean_compute_infer_us: _Us
    mean_compute_output_us: _Us
    cache_hits: _Count
    cache_misses: _Count
    batch_executions: Mapping[int, _Count]
    failed_by_reason: Mapping[str, _Count] = field(default_factory=dict)

    @property
    def mean_compute_us(self) -> float:
        """The parts of compute together."""
        return self.mean_compute_input_us + self.mean_compute_infer_us + self.mean_compute_output_us

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean_batch_size(self) -> float | None:
        """Inferences an execution; None when the model did not run."""
        return self.inferences / self.executions if self.executions else None


def sum_of(counters: Sequence[ServerCounters]) -> ServerCounters | None:
    """Several stretches as one, means weighted by requests; None where no request was answered in any."""
    requests = sum(c.requests for c in counters)
    if not requests:
        return None

    def mean_us(part: str) -> float:
        return float(sum(getattr(c, part) * c.requests for c in counters)) / requests

    batches: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    for c in counters:
        batches.update(c.batch_executions)
        reasons.update(c.failed_by_reason)
    return ServerCounters(
        requests=requests,
        failed=sum(c.failed for c in counters),
        inferences=sum(c.inferences for c in counters),
        executions=sum(c.executions for c in counters),
        mean_queue_us=mean_us("mean_queue_us"),
        mean_compute_input_us=mean_us("mean_compute_input_us"),
        mean_compute_infer_us=mean_us("mean_compute_infer_us"),
        mean_compute_output_us=mean_us("mean_compute_output_us"),
        cache_hits=sum(c.cache_hits for c in counters),
        cache_misses=sum(c.cache_misses for c in counters),
        batch_executions=dict(sorted(batches.items())),
        failed_by_reason=dict(reasons),
    )


def failures_from_metrics(text: str, model: str) -> dict[str, int]:
    """Prometheus text → the model's failed requests by Triton's reason, all versions together."""
    found: dict[str, int] = {}
    for _, of, value in samples_of(text, "nv_inference_request_failure"):
        if of.get("model") == model:
            reason = of.get("reason", "OTHER")
            found[reason] = found.get(reason, 0) + round(value)
    return found


def counters_between(
    before: Sequence[Row],
    after: Sequence[Row],
    reasons_before: Mapping[str, int] | None = None,
    reasons_after: Mapping[str, int] | None = None,
) -> ServerCounters | None:
    """Two answers' `model_stats` → the difference; None when the model was reloaded in between.

    reasons_*: what failures_from_metrics found at the same moments.

    A version that is only in `after` counts from zero. Counters that went back mean a reload.
    """
    old = {row.get("version", ""): row for row in before}
    total: dict[str, int] = {}
    batches: dict[int, int] = {}
    for row in after:
        earlier = old.get(row.get("version", ""), {})
        for name, value in _flat(row).items():
            total[name] = total.get(name, 0) + value - _flat(earlier).get(name, 0)
        for size, count in _batches(row).items():
            batches[size] = batches.get(size, 0) + count - _batches(earlier).get(size, 0)
    if any(value < 0 for value in total.values()) or any(count < 0 for count in batches.values()):
        return None
    return ServerCounters(
        requests=total.get("success.count", 0),
        failed=total.get("fail.count", 0),
        inferences=total.get("inference_count", 0),
        executions=total.get("execution_count", 0),
        mean_queue_us=_mean_us(total, "queue"),
        mean_compute_input_us=_mean_us(total, "compute_input"),
        mean_compute_infer_us=_mean_us(total, "compute_infer"),
        mean_compute_output_us=_mean_us(total, "compute_output"),
        cache_hits=total.get("cache_hit.count", 0),
        cache_misses=total.get("cache_miss.count", 0),
        batch_executions={size: batches[size] for size in sorted(batches) if batches[size]},
        failed_by_reason=_more(reasons_before or {}, reasons_after or {}),
    )


def _more(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    more = {reason: count - before.get(reason, 0) for reason, count in after.items()}
    return {reason: count for reason, count in more.items() if count > 0}


def _flat(row: Row) -> dict[str, int]:
    """Triton leaves out counters that are zero, and gRPC's JSON form writes 64-bit numbers as strings."""
    flat = {name: int(row.get(name, 0)) for name in ("inference_count", "execution_count")}
    for name, value in row.get("inference_stats", {}).items():
        flat[f"{name}.count"] = int(value.get("count", 0))
        flat[f"{name}.ns"] = int(value.get("ns", 0))
    return flat


def _batches(row: Row) -> dict[int, int]:
    return {
        int(entry["batch_size"]): int(entry.get("compute_infer", {}).get("count", 0))
        for entry in row.get("batch_stats", [])
    }


def _mean_us(total: Mapping[str, int], name: str) -> float:
    count = total.get(f"{name}.count", 0)
    return total.get(f"{name}.ns", 0) / count / 1000 if count else 0.0
