"""RunResult → the columns that its page, summary, CSV, JSON and terminal have: one table; other packages may add rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from tritonsmith.builder.base.rows import table_of
from tritonsmith.perf.report import numbers
from tritonsmith.perf.report.cells import Cell, Metric, OfTrial, cells_by
from tritonsmith.perf.stats import Estimate
from tritonsmith.perf.sweep.answers import ArmText
from tritonsmith.perf.sweep.judge.comparison import ArmVerdict
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RunResult
from tritonsmith.perf.tokens.metrics import TokenSummary

Place = Literal["csv", "page", "summary", "all", "terminal", "load"]
"""csv (and report.json); page: `All points`; summary: Markdown, at the verdict's load point; all: Markdown, folded; the
terminal; load: of a `metric`, a row in the report of a single load test."""


@dataclass(frozen=True, slots=True)
class Point:
    """One arm at one load point. state: as view.state_of judges it. on_front: no other has more throughput at less p99."""

    run: RunResult
    arm: Arm
    concurrency: int
    cell: Cell
    state: str = ""
    on_front: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A bar an arm, where they are not alike. heading, sub: above it. scale: CSV's unit → the axis's."""

    heading: str
    sub: str
    axis: str
    scale: float


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    name:    in the CSV, with its unit.
    places:  where it is shown. heading: there, with `unit` behind it but on the page, which says units once.
    metric:  a round's Summary → the number; the column is then its Estimate over the rounds, with an interval for comparing
             arms, and two more columns in the CSV, `_low` and `_high`. token_metric: the same of a language model.
    value:   (Point) → what the CSV has, None where there is none. Exactly one of these three.
    text:    the number, or the value → as people read it.
    has_ends: of a value: it has an interval (a Ratio), and so the same two columns more in the CSV.
    span:    the value → its interval as people read it; of an estimate, by `text`. spans: places where it stands beside it.
    measured: left out where no arm has a value, but of the CSV.
    of_batches: says nothing of a language model, whose engine batches by itself and answers in tokens: it has none there.
    sentence: words, aligned to the left.
    drop:    on a narrow terminal, those with the least number above 0 are left out first.
    """

    name: str
    places: tuple[Place, ...]
    heading: str = ""
    unit: str = ""
    metric: Metric | None = None
    token_metric: Callable[[TokenSummary], Estimate] | None = None
    value: Callable[[Point], Any] | None = None
    text: Callable[[Any], str] = str
    span: Callable[[Any], str] | None = None
    spans: tuple[Place, ...] = ()
    measured: bool = False
    of_batches: bool = False
    has_ends: bool = False
    sentence: bool = False
    drop: int = 0
    chart: Chart | None = field(default=None, hash=False)

    def of(self, point: Point) -> Any:
        """The column's value: an Estimate where it is measured round by round."""
        if self.value is not None:
            return self.value(point)
        return point.cell.estimates[self.name]

    @property
    def of_round(self) -> OfTrial | None:
        """A trial's number, of a column that is measured round by round."""
        metric, token_metric = self.metric, self.token_metric
        if metric is not None:
            return lambda trial: None if trial.summary is None else metric(trial.summary)
        if token_metric is not None:
            return lambda trial: None if trial.tokens is None else token_metric(trial.tokens).value
        return None

    def heading_in(self, place: Place) -> str:
        """Above its cells."""
        return self.heading if place == "page" else f"{self.heading} {self.unit}".strip()

    def shown(self, point: Point, place: Place) -> tuple[str, str]:
        """(text, interval or nothing), as people read them."""
        value = self.of(point)
        has_span = place in self.spans
        if isinstance(value, Estimate):
            return self.text(value.value), numbers.span(value, self.text) if has_span else ""
        return self.text(value), self.span(value) if has_span and self.span else ""

    def fields(self, point: Point | None = None) -> dict[str, Any]:
        """Its fields in the CSV; without a point, their names."""
        value = None if point is None else self.of(point)
        if self.of_round is None and not self.has_ends:
            return {self.name: value}
        interval = value.interval if value else None
        ends = (interval.low, interval.high) if interval else (None, None)
        return {self.name: value and value.value, f"{self.name}_low": ends[0], f"{self.name}_high": ends[1]}


def _quantile(name: str, *places: Place, drop: int = 0) -> Column:
    spans: tuple[Place, ...] = ("page",) if "terminal" in places else ()
    return Column(f"{name}_ns", ("csv", *places), name, "ms", metric=lambda s: s.latency_ns[name].value,
                  text=numbers.milliseconds, spans=spans, drop=drop)  # fmt: skip


def _found(point: Point) -> ArmVerdict | None:
    return point.run.verdict.of(point.arm.id, point.concurrency)


def _ratio(point: Point) -> Any:
    return point.run.verdict.ratio_of(point.arm.id, point.concurrency)


def _why(point: Point) -> str | None:
    found = _found(point)
    return None if found is None else found.why


def _server(part: Callable[[Any], Any]) -> Callable[[Point], Any]:
    return lambda p: None if p.cell.server is None else part(p.cell.server)


def _failed(point: Point) -> int:
    return sum(point.cell.failures.values())


def _weak(point: Point) -> str:
    """`2 of 4 UNSETTLED`, of the verdict that most trials short of VALID got."""
    short = {name: count for name, count in point.cell.verdicts.items() if name != "VALID"}
    if not short:
        return ""
    worst = max(short, key=lambda name: short[name])
    return f"{short[worst]} of {point.cell.rounds} {worst}"


def _tokens(name: str, heading: str, of: Callable[[TokenSummary], Estimate], *places: Place) -> Column:
    spans: tuple[Place, ...] = ("page",) if "terminal" in places else ()
    return Column(name, ("csv", *places), heading, "ms", token_metric=of, text=numbers.milliseconds, spans=spans,
                  measured=True)  # fmt: skip


def _text(part: Callable[[ArmText], float | None]) -> Callable[[Point], float | None]:
    return lambda p: part(p.run.texts.get(p.arm.id, ArmText()))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def rate_of(run: RunResult) -> str:
    """The column that says how fast its configs are."""
    return "throughput_per_s" if run.spec.osl is None else "output_tokens_per_s"


def _dollars_per_million_tokens(point: Point) -> float | None:
    price, rate_per_s = point.run.spec.dollars_per_hour, point.cell.estimates["output_tokens_per_s"].value
    return price / 3600 / rate_per_s * 1e6 if price is not None and rate_per_s else None


def _dollars_per_million(point: Point) -> float | None:
    price, rate_per_s = point.run.spec.dollars_per_hour, point.cell.estimates["throughput_per_s"].value
    return price / 3600 / rate_per_s * 1e6 if price is not None and rate_per_s else None


_CSV: tuple[Place, ...] = ("csv",)
_TABLES: tuple[Place, ...] = ("page", "summary", "terminal")
_COST: tuple[Place, ...] = ("csv", "page", "summary")

_COLUMNS = (
    Column("arm", _CSV, value=lambda p: p.arm.id),
    Column("settings", _CSV, value=lambda p: p.arm.label),
    Column("baseline", _CSV, value=lambda p: p.arm.baseline),
    Column("concurrency", _CSV, value=lambda p: p.concurrency),
    Column("rounds", _CSV, value=lambda p: p.cell.rounds),
    Column("requests", _CSV, value=lambda p: p.cell.requests),
    Column("failed_requests", _CSV, value=_failed),
    Column("throughput_per_s", ("csv", "all", *_TABLES), "inferences/s", metric=lambda s: s.throughput_per_s.value,
           text=numbers.rate, spans=("page",), of_batches=True),
    Column("output_tokens_per_s", ("csv", "all", *_TABLES), "tokens/s", token_metric=lambda t: t.output_tokens_per_s,
           text=numbers.rate, spans=("page",), measured=True),
    Column("interval", ("all",), "95 % interval",
           value=lambda p: numbers.span(p.cell.estimates[rate_of(p.run)], numbers.rate)),
    Column("vs_current", ("csv", *_TABLES, "all"), "vs current", value=_ratio, has_ends=True,
           text=lambda ratio: numbers.times(ratio) if ratio else "", span=numbers.times_span, spans=(*_TABLES, "all")),
    _quantile("p50", "all", *_TABLES, drop=2),
    _quantile("p90", "page"),
    _quantile("p95"),
    _quantile("p99", "all", *_TABLES),
    _quantile("p99.9", "page"),
    _tokens("ttft_p50_ns", "TTFT p50", lambda t: t.ttft_ns["p50"], "all", *_TABLES),
    _tokens("ttft_p99_ns", "TTFT p99", lambda t: t.ttft_ns["p99"], "all", *_TABLES),
    _tokens("itl_p50_ns", "ITL p50", lambda t: t.itl_ns["p50"], "all", *_TABLES),
    _tokens("itl_p99_ns", "ITL p99", lambda t: t.itl_ns["p99"], "all", "page"),
    Column("token_agreement", ("csv", "all", *_TABLES), "agreement", value=_text(lambda text: text.token_agreement),
           text=_share, measured=True, drop=3),
    Column("perplexity_ratio", ("csv", "all", *_TABLES), "perplexity", value=_text(lambda text: text.perplexity_ratio),
           text=lambda ratio: "–" if ratio is None else f"×{ratio:.3f}", measured=True, drop=3),
    Column("same_text", ("csv", "all", *_TABLES), "same text", value=_text(lambda text: text.same_text), text=_share,
           measured=True, drop=1),
    Column("mean_queue_ns", ("csv", "page", "all"), "queue", "ms", text=numbers.milliseconds, of_batches=True,
           value=_server(lambda server: round(server.queue_ns))),
    Column("mean_compute_ns", ("csv", "page", "all"), "compute", "ms", text=numbers.milliseconds, of_batches=True,
           value=_server(lambda server: round(server.total_ns - server.queue_ns))),
    Column("mean_batch_size", ("csv", *_TABLES), "batch", value=_server(lambda server: server.mean_batch),
           text=lambda size: "–" if size is None else f"{size:.1f}", drop=1, of_batches=True),
    Column("memory_bytes", _COST, "MiB", value=lambda p: p.cell.memory_bytes, text=numbers.mebibytes, measured=True,
           chart=Chart("Memory", "Most that the server's process and the config's instances held",
                       "MiB, proportional set size", 1 / 2**20)),
    Column("dollars_per_million_inferences", _COST, "$ / million", value=_dollars_per_million, text=numbers.dollars,
           measured=True, of_batches=True,
           chart=Chart("Cost of a million inferences", "At this throughput and the price that was given", "dollars", 1.0)),
    Column("dollars_per_million_output_tokens", _COST, "$ / million tokens", value=_dollars_per_million_tokens,
           text=numbers.dollars, measured=True,
           chart=Chart("Cost of a million output tokens", "At these tokens a second and the price that was given",
                       "dollars", 1.0)),
    Column("joules_per_inference", _COST, "J / inference", value=lambda p: p.cell.energy_j, text=numbers.joules,
           measured=True, chart=Chart("Energy of an inference", "Of the server's GPUs, by Triton's own counter",
                                      "joules", 1.0)),
    Column("failed", ("page", "all"), "failed", value=_failed),
    Column("weak", ("page", "all"), "weak trials", value=_weak, sentence=True),
    Column("verdicts", _CSV, value=lambda p: " ".join(f"{name}:{n}" for name, n in sorted(p.cell.verdicts.items()))),
    Column("outcome", _CSV, value=lambda p: p.state),
    Column("why", _CSV, value=_why),
    Column("more_rounds", _CSV, value=lambda p: None if (found := _found(p)) is None else found.more_rounds),
    Column("pareto", _CSV, value=lambda p: p.on_front),
)  # fmt: skip


@lru_cache(maxsize=1)
def columns() -> Mapping[str, Column]:
    """Every column that is known, ours first, then those that other packages name in that group of entry points."""
    return table_of("tritonsmith.columns", Column, _COLUMNS, lambda column: column.name)


def columns_in(place: Place, run: RunResult | None = None) -> list[Column]:
    """Those that are shown there, of a run those that say something of its model."""
    of_language = run is not None and run.spec.osl is not None
    return [c for c in columns().values() if place in c.places and not (of_language and c.of_batches)]


def cells_of(run: RunResult) -> dict[tuple[str, int], Cell]:
    """(arm, concurrency) → Cell, for all that was measured or tried."""
    return cells_by(run, {name: each for name, column in columns().items() if (each := column.of_round)})


def measured_columns(run: RunResult, cells: Mapping[tuple[str, int], Cell], place: Place) -> Sequence[Column]:
    """Those of the place that at least one cell has, where they say so."""
    arms = {arm.id: arm for arm in run.arms}
    points = [Point(run, arms[arm], point, cell) for (arm, point), cell in cells.items()]
    return [
        column
        for column in columns_in(place, run)
        if not column.measured or any(_is_there(column.of(point)) for point in points)
    ]


def _is_there(value: Any) -> bool:
    return (value.value if isinstance(value, Estimate) else value) is not None


def verdict_point(run: RunResult) -> int:
    """The load point where the verdict's sentence begins, else the highest."""
    return run.verdict.concurrency or max(run.spec.concurrency)
