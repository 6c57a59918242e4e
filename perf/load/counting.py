"""The server's counters of a model before and after a load → what it did for it, with every request counted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tritonsmith.builder.base.errors import ServerError, TrialError, TritonsmithError
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.server import control
from tritonsmith.perf.usage.counters import ServerCounters, counters_between, failures_from_metrics
from tritonsmith.perf.usage.resources import METRICS_TIMEOUT_S
from tritonsmith.perf.wire.api import ServerApi

_COUNTED_WITHIN_S = 0.25
_ASK_AGAIN_S = 0.005


@dataclass(frozen=True, slots=True)
class Counted:
    """A model's statistics at one moment, failures by reason of the metrics, and when both had been read.

    members: the statistics of an ensemble's composing models.
    """

    rows: list[dict[str, Any]]
    reasons: Mapping[str, int]
    read_ns: int
    members: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server did between two moments. server: None where that cannot be told; then `why` says why.

    members: of an ensemble, what each model that it is composed of did; requests of others are in it, too.
    """

    server: ServerCounters | None
    why: str = ""
    members: Mapping[str, ServerCounters] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counting:
    """Which model's counters of which server are read; metrics_url may be empty.

    members: the models that an ensemble is composed of.
    """

    api: ServerApi
    model: str
    version: str
    metrics_url: str
    members: tuple[str, ...] = ()

    def now(self) -> Counted | None:
        """The counters; None where the server tells none, or died: the records say so."""
        try:
            rows = self.api.statistics(self.model, self.version)
        except (TrialError, ServerError, KeyError, TypeError):
            return None
        try:
            text = control.metrics_text(self.metrics_url, METRICS_TIMEOUT_S) if self.metrics_url else ""
        except (OSError, TritonsmithError):
            text = ""
        return Counted(rows, failures_from_metrics(text, self.model), time.monotonic_ns(), self._of_members())

    def _of_members(self) -> dict[str, list[dict[str, Any]]]:
        found = {}
        for name in self.members:
            with suppress(TrialError, ServerError, KeyError, TypeError):
                found[name] = self.api.statistics(name)
        return found

    def since(self, before: Counted | None, records: RequestRecords) -> Seen:
        """The difference, or why there is none.

        Triton answers a request before it counts it (a refused one was seen a moment later): the counters are
        read again until what was answered since `before` is counted, for a quarter of a second at most, as
        Triton does not count at all what its front end refuses.
        """
        if before is None and records.header.interrupted:
            return Seen(None, "interrupted before the measurement began")
        if before is None:
            return Seen(None, "the server does not tell statistics")
        answered = int(((records.sent_ns > before.read_ns) & (records.first_byte_ns > 0)).sum())
        give_up_s = time.monotonic() + _COUNTED_WITHIN_S
        while True:
            after = self.now()
            if after is None:
                return Seen(None, "the server did not answer after the test")
            server = counters_between(before.rows, after.rows, before.reasons, after.reasons)
            if server is None:
                return Seen(None, "the model was reloaded during the test")
            if server.requests + server.failed >= answered or time.monotonic() >= give_up_s:
                return Seen(server, "", _between(before.members, after.members))
            time.sleep(_ASK_AGAIN_S)


def _between(
    before: Mapping[str, list[dict[str, Any]]], after: Mapping[str, list[dict[str, Any]]]
) -> dict[str, ServerCounters]:
    """Of each model that was counted at both moments and not reloaded in between."""
    found = {name: counters_between(before[name], rows) for name, rows in after.items() if name in before}
    return {name: counters for name, counters in found.items() if counters is not None}
