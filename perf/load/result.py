"""A load test's records, and what was seen of the server meanwhile → its result; and again from a record file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.typed import MALFORMED, json_of, typed
from tritonsmith.perf.stats import Summary, summarise
from tritonsmith.perf.usage.counters import ServerCounters
from tritonsmith.perf.usage.resource_use import ResourceUse


@dataclass(frozen=True, slots=True)
class LoadTestResult:
    """What came out.

    server:    None when its counters could not be compared; `why_no_server` says why.
    resources: what the server used during the measurement; None when nobody looked.
    """

    records: RequestRecords
    summary: Summary
    server: ServerCounters | None
    why_no_server: str = ""
    resources: ResourceUse | None = None


def result_of(
    records: RequestRecords,
    server: ServerCounters | None,
    why_no_server: str,
    resources: ResourceUse | None,
) -> LoadTestResult:
    """The result, whose records say all of it: a record file holds the server's side too."""
    observed = {
        "server": json_of(server),
        "why_no_server": why_no_server,
        "resources": json_of(resources),
    }
    records = replace(records, header=replace(records.header, observed=observed))
    return LoadTestResult(records, summarise(records), server, why_no_server, resources)


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
        )
    except MALFORMED as error:
        raise UsageError(
            "what the record file says of the server is not what `tritonsmith load` writes",
            code="record_format",
            seen=f"{type(error).__name__}: {error}",
        ) from error
