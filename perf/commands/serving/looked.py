"""A server's index and statistics, and those of the look before → a row a model version: table and JSON; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.base.text.shown import one_line
from tritonsmith.builder.base.text.text_layout import table
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.usage.counters import ServerCounters, counters_between
from tritonsmith.perf.wire.rest import tidy

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A version of a model: its state and Triton's reason for it, and its row of the statistics, if it has one."""

    name: str
    version: str
    state: str
    reason: str
    statistics: Row | None

    def counters(self, before: ModelRow | None = None) -> ServerCounters | None:
        """Since it was loaded, or since another look; None where nothing is counted, or it was loaded anew since."""
        if self.statistics is None:
            return None
        earlier = [] if before is None or before.statistics is None else [before.statistics]
        return counters_between(earlier, [self.statistics])


@dataclass(frozen=True, slots=True)
class Look:
    """A server at one moment. at_s: of time.monotonic."""

    server: str
    url: str
    at_s: float
    models: tuple[ModelRow, ...]


def look_from(
    about: Row, url: str, index: Sequence[Row], statistics: Sequence[Row], models: Sequence[str], at_s: float
) -> Look:
    """models: only these; all when there are none. A version that the index leaves unnamed has its statistics', too."""
    counted = {(str(row.get("name", "")), str(row.get("version", ""))): row for row in statistics}
    rows = [
        ModelRow(
            row["name"],
            version := str(row.get("version", "")),
            row.get("state") or "NOT LOADED",
            "" if row.get("state") == "READY" else tidy(str(row.get("reason", ""))),
            counted.get((row["name"], version)),
        )
        for row in index
        if not models or row["name"] in models
    ]
    server = f"{about.get('name', '')} {about.get('version', '')}".strip()
    return Look(server, url, at_s, tuple(sorted(rows, key=_order)))


def _order(row: ModelRow) -> tuple[str, int, str]:
    return row.name, int(row.version) if row.version.isdecimal() else 0, row.version


def json_of_look(look: Look) -> dict[str, Any]:
    """Counters since each model was loaded, null where there are none."""
    return {
        "server": look.server,
        "url": look.url,
        "models": [
            {
                "name": row.name,
                "version": row.version or None,
                "state": row.state,
                "reason": row.reason or None,
                "counters": json_of(row.counters()),
            }
            for row in look.models
        ],
    }


def text_of_look(look: Look, last: Look | None, width: int | None) -> str:
    """A table, and what is to be said of models that are not ready.

    last: the look before, since when is counted, a second; None: since each model was loaded.
    """
    seconds = None if last is None else look.at_s - last.at_s
    before = {} if last is None else {(row.name, row.version): row for row in last.models}
    ready = len({row.name for row in look.models if row.state == "READY"})
    head = f"{look.server} at {look.url}: {ready} of {len({row.name for row in look.models})} models ready"
    if seconds is not None:
        head += f"; of the last {seconds:.1f} s"
    if not look.models:
        return f"{head}\n\nno models in its repositories"
    counted = ("REQUESTS", "FAILED") if seconds is None else ("REQUESTS/S", "FAILED/S")
    batches = ("MEAN BATCH", "QUEUE", "COMPUTE", "CACHE HITS", "BATCH SIZES")
    rows: list[tuple[str, ...]] = [("MODEL", "VERSION", "STATE", *counted, *batches)]
    for row in look.models:
        counters = row.counters(before.get((row.name, row.version)))
        # Loaded anew between two looks: what it counted since.
        counters = counters if counters is not None else row.counters()
        rows.append((one_line(row.name), row.version or "-", row.state, *_cells(counters, seconds)))
    lines = table(rows, width, right=(3, 4, 5, 6, 7, 8), names=(0,), drop=(9, 8, 1, 5))
    reasons = [
        f"{one_line(row.name)}{f' version {row.version}' if row.version else ''}: {_first_line(row.reason)}"
        for row in look.models
        if row.reason
    ]
    return "\n".join([head, "", *lines, *([""] if reasons else []), *reasons])


def _cells(counters: ServerCounters | None, seconds: float | None) -> tuple[str, ...]:
    if counters is None:
        return ("",) * 7

    def amount(count: int) -> str:
        return f"{count:,}" if seconds is None else f"{count / seconds:,.1f}"

    batch = counters.mean_batch_size
    compute_us = (
        counters.mean_compute_input_us + counters.mean_compute_infer_us + counters.mean_compute_output_us
    )
    is_idle = not counters.requests
    looked_up = counters.cache_hits + counters.cache_misses
    return (
        amount(counters.requests),
        amount(counters.failed),
        "" if batch is None else f"{batch:.1f}",
        "" if is_idle else _time(counters.mean_queue_us),
        "" if is_idle else _time(compute_us),
        f"{counters.cache_hits / looked_up:.0%}" if looked_up else "",
        _sizes(counters.batch_executions),
    )


def _sizes(executions: Mapping[int, int]) -> str:
    """`8: 75 %, 1: 25 %`, the most frequent first."""
    total = sum(executions.values())
    often = sorted(executions.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{size}: {count / total:.0%}" for size, count in often[:4]]
    return ", ".join(told + ["…"] * (len(often) > 4))


def _time(us: float) -> str:
    return f"{us / 1000:.1f} ms" if us >= 1000 else f"{us:.0f} µs"


def _first_line(reason: str) -> str:
    """A Python model's reason ends in its traceback."""
    return reason.partition("\n")[0].strip()
