"""A load test's records, and what was seen of the server meanwhile → its result; and again from a record file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.typed import MALFORMED, typed
from tritonsmith.perf.stats import Summary, summarise
from tritonsmith.perf.usage.counters import ServerCounters, counters_from_dict
from tritonsmith.perf.usage.resource_use import ResourceUse, resource_use_from_dict


@dataclass(frozen=True, slots=True)
class LoadTestResult:
    """What came out.

    server:    None when its counters could not be compared; `why_no_server` says why.
    resources: what the server used during the measurement; None when nobody looked.
    died:      a sentence for each Python stub of the server that died meanwhile: the numbers are then of no model.
    """

    records: RequestRecords
    summary: Summary
    server: ServerCounters | None
    why_no_server: str = ""
    resources: ResourceUse | None = None
    died: tuple[str, ...] = ()


def result_of(
    records: RequestRecords,
    server: ServerCounters | None,
    why_no_server: str,
    resources: ResourceUse | None,
    died: tuple[str, ...] = (),
) -> LoadTestResult:
    """The result, whose records say all of it: a record file holds the server's side too."""
    observed = {
        "server": None if server is None else server.as_dict(),
        "why_no_server": why_no_server,
        "resources": None if resources is None else resources.as_dict(),
        "stubs_died": list(died),
    }
    records = replace(records, header=replace(records.header, observed=observed))
    return LoadTestResult(records, summarise(records), server, why_no_server, resources, died)


def result_from_records(records: RequestRecords) -> LoadTestResult:
    """The inverse of what result_of put into the records; UsageError when somebody else put it there."""
    seen = records.header.observed
    server, resources = seen.get("server"), seen.get("resources")
    why = seen.get("why_no_server", "" if server else "the record file holds the client's side only")
    try:
        return LoadTestResult(
            records,
            summarise(records),
            None if server is None else typed(counters_from_dict(server)),
            str(why),
            None if resources is None else typed(resource_use_from_dict(resources)),
            tuple(str(text) for text in seen.get("stubs_died", ())),
        )
    except MALFORMED as error:
        raise UsageError(
            "what the record file says of the server is not what `tritonsmith load` writes",
            code="record_format",
            seen=f"{type(error).__name__}: {error}",
        ) from error
