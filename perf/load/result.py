"""A load test's records, and what was seen of the server meanwhile → its result; and again from a record file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import TrialError, UsageError, Where
from tritonsmith.builder.base.text.tabular import Tabular
from tritonsmith.perf.records.record import RequestRecords, save_records
from tritonsmith.perf.records.schedule import load_from_dict, load_label
from tritonsmith.perf.records.typed import MALFORMED, json_of, typed
from tritonsmith.perf.stats import Estimate, Summary, summarise
from tritonsmith.perf.usage.counters import ServerCounters
from tritonsmith.perf.usage.resource_use import ResourceUse


@dataclass(frozen=True, slots=True)
class LoadTestResult(Tabular):
    """What came out; `records` has every request, `summary` the numbers and whether they hold.

    server:    None when its counters could not be compared; `why_no_server` says why.
    resources: what the server used during the measurement; None when nobody looked.
    members:   what the models did that an ensemble is composed of; empty of another model.
    died:      a sentence for each Python stub of the server that died meanwhile: the numbers are then of no model.
    """

    records: RequestRecords
    summary: Summary
    server: ServerCounters | None
    why_no_server: str = ""
    resources: ResourceUse | None = None
    died: tuple[str, ...] = ()
    members: Mapping[str, ServerCounters] = field(default_factory=dict)

    def save(self, path: Path | str) -> None:
        """Keep every request in one .npz, for `tritonsmith report` and `compare`; TrialError where that cannot be written."""
        try:
            save_records(self.records, Path(path))
        except OSError as refused:
            raise TrialError(
                f"the record could not be written: {refused.strerror}",
                code="record_not_written",
                where=Where(Path(path)),
                fix="free space or permissions, or give another path",
            ) from None

    def caption(self) -> str:
        """The verdict, the model, the load, and of the requests those that failed, the warm-up's among them."""
        header, failed = self.records.header, sum(self.records.failures().values())
        told = f", {failed:,} of {len(self.records):,} requests FAILED" if failed else ""
        told += ", interrupted" if header.interrupted else ""
        load = load_label(load_from_dict(header.load))
        return f"{self.summary.validity.verdict.value}  {header.model}, {load}{told}"

    def rows(self) -> list[dict[str, Any]]:
        """One row a metric: its value, interval and unit; `records.to_frame()` has one a request."""
        summary, latency = self.summary, {"mean": self.summary.mean_latency_ns, **self.summary.latency_ns}
        rows = [("throughput", "inferences/s", 1.0, summary.throughput_per_s)]
        if summary.goodput is not None:
            rows.append(("goodput", "inferences/s", 1.0, summary.goodput.per_s))
        rows += [(f"{name} latency", "ms", 1e-6, estimate) for name, estimate in latency.items()]
        rows += [
            (f"{name} first byte", "ms", 1e-6, estimate) for name, estimate in summary.first_byte_ns.items()
        ]
        rows.append(("max latency", "ms", 1e-6, Estimate(summary.max_latency_ns)))
        rows.append(("sent", "MB/s", 1e-6, Estimate(summary.sent_bytes_per_s)))
        rows.append(("received", "MB/s", 1e-6, Estimate(summary.received_bytes_per_s)))
        return [_row(*row) for row in rows]


def _row(metric: str, unit: str, scale: float, estimate: Estimate) -> dict[str, Any]:
    ends = (None, None) if estimate.interval is None else (estimate.interval.low, estimate.interval.high)
    value, low, high = (None if x is None else x * scale for x in (estimate.value, *ends))
    return {"metric": metric, "value": value, "low": low, "high": high, "unit": unit}


def result_of(
    records: RequestRecords,
    server: ServerCounters | None,
    why_no_server: str,
    resources: ResourceUse | None,
    died: tuple[str, ...] = (),
    members: Mapping[str, ServerCounters] | None = None,
) -> LoadTestResult:
    """The result, whose records say all of it: a record file holds the server's side too."""
    observed = {
        **records.header.observed,
        "server": json_of(server),
        "members": {name: json_of(counters) for name, counters in (members or {}).items()},
        "why_no_server": why_no_server,
        "resources": json_of(resources),
        "stubs_died": list(died),
    }
    records = replace(records, header=replace(records.header, observed=observed))
    return LoadTestResult(
        records, summarise(records), server, why_no_server, resources, died, dict(members or {})
    )


def result_from_records(records: RequestRecords) -> LoadTestResult:
    """The inverse of what result_of put into the records; UsageError when somebody else put it there."""
    seen = records.header.observed
    server, resources = seen.get("server"), seen.get("resources")
    why = seen.get("why_no_server", "" if server else "the record file holds the client's side only")
    try:
        return LoadTestResult(
            records,
            summarise(records),
            None if server is None else typed(ServerCounters, server),
            str(why),
            None if resources is None else typed(ResourceUse, resources),
            typed(tuple[str, ...], seen.get("stubs_died", ())),
            typed(dict[str, ServerCounters], seen.get("members", {})),
        )
    except MALFORMED as error:
        raise UsageError(
            "what the record file says of the server is not what `tritonsmith load` writes",
            code="record_format",
            seen=f"{type(error).__name__}: {error}",
        ) from error
