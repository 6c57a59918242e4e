"""What a batch job did, as one value with a JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonsmith.perf.batch.sending.pack import Padding

MOST_SAMPLES = 400


@dataclass(frozen=True, slots=True)
class BatchResult:
    """One run of a job, and what runs before it had done.

    rows:      lines of the input. answered, failed: of all runs; bad: lines that were left out, which are among the failed.
    before:    rows that earlier runs had done. run_s: from the first request to the last answer; check_s: reading the input.
    rows_per_s: of this run. in_flight: requests at once, as the ramp found it: its `levels` are (in flight, rows/s).
    sizes:     rows of a request → how many requests. retries, failures: reason → how many.
    samples:   (seconds, rows done, rows failed) over this run.
    sent, arrival: what the requests padded, and what they would have in the order of the input.
    """

    model: str
    asks: str
    where: str
    input: Path
    output: Path
    errors: Path | None
    journal: Path
    rows: int
    answered: int
    failed: int
    bad: int
    before: int
    check_s: float
    run_s: float
    interrupted: bool
    in_flight: int
    most_rows: int
    by_length: bool
    requests: int
    levels: tuple[tuple[int, float], ...]
    sizes: Mapping[int, int]
    retries: Mapping[str, int]
    failures: Mapping[str, int]
    samples: tuple[tuple[float, int, int], ...]
    sent: Padding
    arrival: Padding
    tokens: Mapping[str, int] = field(default_factory=dict)
    dollars_per_hour: float | None = None
    executor: str = "local"
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows_now(self) -> int:
        """Done by this run."""
        return self.answered + self.failed - self.before

    @property
    def rows_per_s(self) -> float:
        """Of this run, without lines that could not be sent; 0 when it had nothing to do."""
        sent = self.rows_now - self.failures.get("bad_line", 0)
        return sent / self.run_s if self.run_s > 0 else 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens made a second; None where the model does not tell."""
        made = self.tokens.get("output", 0)
        return made / self.run_s if made and self.run_s > 0 else None

    @property
    def dollars_per_million_rows(self) -> float | None:
        """At this run's rate; None without --dollars-per-hour."""
        if self.dollars_per_hour is None or not self.rows_per_s:
            return None
        return self.dollars_per_hour / 3600 / self.rows_per_s * 1e6

    @property
    def dollars_per_million_tokens(self) -> float | None:
        """Of tokens made."""
        if self.dollars_per_hour is None or not self.tokens_per_s:
            return None
        return self.dollars_per_hour / 3600 / self.tokens_per_s * 1e6

    @property
    def is_comparable(self) -> bool:
        """Whether `sent` and `arrival` are of the same rows: a window is read whole, and may not be sent whole."""
        return self.by_length and self.sent.requests > 0 and self.sent.lengths == self.arrival.lengths

    @property
    def failures_before(self) -> int:
        """Rows that earlier runs found to have failed; `failures` has those of this run."""
        return self.failed - sum(self.failures.values())

    @property
    def is_whole(self) -> bool:
        """Whether every row is known, and the output is there."""
        return not self.interrupted and self.answered + self.failed == self.rows

    def as_dict(self) -> dict[str, Any]:
        """What `--format json` prints."""
        return {
            "format": "tritonsmith.batch/1",
            "model": self.model,
            "asks": self.asks,
            "input": str(self.input),
            "output": str(self.output) if self.is_whole else None,
            "errors": None if self.errors is None else str(self.errors),
            "journal": None if self.is_whole else str(self.journal),
            "executor": self.executor,
            "rows": self.rows,
            "answered": self.answered,
            "failed": self.failed,
            "bad_lines": self.bad,
            "done_before": self.before,
            "interrupted": self.interrupted,
            "check_s": round(self.check_s, 3),
            "run_s": round(self.run_s, 3),
            "rows_per_s": round(self.rows_per_s, 3),
            "tokens": dict(self.tokens),
            "tokens_per_s": self.tokens_per_s,
            "dollars_per_million_rows": self.dollars_per_million_rows,
            "dollars_per_million_tokens": self.dollars_per_million_tokens,
            "in_flight": self.in_flight,
            "levels": [{"in_flight": n, "rows_per_s": round(rate, 3)} for n, rate in self.levels],
            "requests": self.requests,
            "batch_sizes": {str(size): count for size, count in sorted(self.sizes.items())},
            "retries": dict(self.retries),
            "failures": dict(self.failures),
            "failed_before": self.failures_before,
            "requests_in_arrival_order": self.arrival.requests if self.is_comparable else None,
            "padded_share": share_of(self.sent),
            "padded_share_in_arrival_order": share_of(self.arrival) if self.is_comparable else None,
            "environment": dict(self.environment),
        }

    def rows_table(self) -> list[dict[str, Any]]:
        """One row, for a data frame."""
        return [self.as_dict()]


def share_of(padding: Padding) -> float | None:
    """Of what requests hold, the part that only fills up to the longest row."""
    return None if not padding.padded else round(1 - padding.lengths / padding.padded, 4)


@dataclass(slots=True)
class Samples:
    """Progress over time, never more than MOST_SAMPLES of it: when there are, every other is dropped."""

    every_s: float = 0.25
    kept: list[tuple[float, int, int]] = field(default_factory=list)

    def add(self, at_s: float, rows: int, failed: int, *, last: bool = False) -> None:
        """Called often; keeps one in `every_s`."""
        if not last and self.kept and at_s - self.kept[-1][0] < self.every_s:
            return
        self.kept.append((at_s, rows, failed))
        if len(self.kept) >= MOST_SAMPLES:
            self.kept = self.kept[::2]
            self.every_s *= 2
