"""(Trial, a loaded arm) → TrialResult: warm up, measure, and difference the server's own counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tritonsmith.builder.base.errors import TrialError, TritonsmithError
from tritonsmith.perf.load.answers import Validation
from tritonsmith.perf.load.runs.generator import ClientOptions, generate
from tritonsmith.perf.load.runs.plan import Repeating
from tritonsmith.perf.load.slo import RateSearch, SloResult
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.schedule import Closed, Load, Open
from tritonsmith.perf.records.typed import Seconds
from tritonsmith.perf.server import control
from tritonsmith.perf.stats import Summary, summarise
from tritonsmith.perf.sweep.plan import Arm, SweepSpec, Trial, config_path
from tritonsmith.perf.tokens.metrics import TokenSummary, summarise_tokens, with_counts
from tritonsmith.perf.tokens.wire import TextTarget
from tritonsmith.perf.usage.consumption import energy_j, server_memory_bytes
from tritonsmith.perf.usage.counters import ServerCounters, counters_between
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import InferPayload

# A server that stands still must not cost a sweep more than this a trial.
REQUEST_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0
"""Of a language model's whole answer."""
CHECK_EVERY = 20
START_CONCURRENCY = 16
START_S = 0.3


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What one trial gave.

    summary, server: None when the trial failed; then `error` says why. server is also None when the model
    was reloaded under the trial.
    took_s: wall clock, reload included.
    others: counters of the other models at work: an ensemble's composing models, models under load beside.
    memory_bytes: of the server's process and the arm's instances, after the load; None where not seen.
    energy_j: of all GPUs during warm-up and measurement; None without GPU metrics.
    slo:    of the objective rate, the search; summary is then of the highest rate that kept the limit.
    tokens: of a language model, what its answers showed.
    key:    what it was measured on, see perf.sweep.plan.fingerprint; empty when that is not known.

    In its JSON form the trial's own fields stand beside the others.
    """

    trial: Trial
    summary: Summary | None
    server: ServerCounters | None
    error: str | None
    took_s: Seconds
    interrupted: bool = False
    others: Mapping[str, ServerCounters] = field(default_factory=dict)
    memory_bytes: int | None = None
    energy_j: float | None = None
    slo: SloResult | None = None
    tokens: TokenSummary | None = None
    key: str = ""

    @model_validator(mode="before")
    @classmethod
    def _with_trial(cls, data: Any) -> Any:
        return {**data, "trial": data}

    @model_serializer(mode="wrap")
    def _without_trial(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data = plain(self)
        return {**data.pop("trial"), **data}


def apply_config(
    server: control.HasPid, url: str, model: str, arm: Arm, *, before: int | None = None
) -> None:
    """Load `model` with the arm's config through the load API, and make sure that it is what serves.

    before: stub processes of the model's earlier config; when given, wait until the surplus ones are gone,
            which Triton lets run on for some seconds and which would share the CPU with the first trial.

    A load that Triton refuses leaves the old config serving and the model ready, so readiness proves
    nothing: the config is read back and compared. Raises TrialError with Triton's reason.
    """
    config = {key: value for key, value in arm.config.items() if key != config_path.ENGINE}
    control.load_model(url, model, {**config, "name": model})
    seen = control.model_config(url, model)
    wrong = config_path.differences(arm.config, seen, arm.settings)
    if wrong:
        raise TrialError(
            f"Triton serves '{model}' with another config than was sent: {'; '.join(wrong)}",
            code="config_not_applied",
        )
    if before is not None:
        control.wait_instances(server, model, instance_count(seen))


def instance_count(config: Mapping[str, Any]) -> int:
    """Instances that a config as Triton reports it asks for, on a machine without GPUs or with one each."""
    groups = config.get("instance_group", [])
    return sum(int(g.get("count", 1)) * max(1, len(g.get("gpus", []))) for g in groups) or 1


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """What a model's config says of its queue. instances: 1 and more. delay_us: None without dynamic batching."""

    instances: Annotated[int, Field(ge=1)]
    delay_us: int | None = None
    on_gpu: bool = False


def member_config(config: Mapping[str, Any]) -> MemberConfig:
    """A config as Triton reports it → the part of it that a report of an ensemble needs."""
    delay = config_path.read(config, "dynamic_batching.max_queue_delay_microseconds")
    return MemberConfig(
        max(1, instance_count(config)),
        None if "dynamic_batching" not in config else int(delay or 0),
        any(group.get("kind") == "KIND_GPU" for group in config.get("instance_group", [])),
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """What a trial puts under load and looks at.

    target:  the model that gets the requests. model: the one whose counters are the trial's.
    others:  models whose counters are kept too.
    metrics_url: of the server. reads_energy: whether GPU energy is read, there or by NVML.
    """

    server: control.HasPid
    http_url: str
    target: str
    model: str
    others: tuple[str, ...] = ()
    metrics_url: str = ""
    reads_energy: bool = False

    def energy_j(self) -> float | None:
        """See perf.usage.consumption; None where it is not read."""
        return energy_j(self.metrics_url, self.server.pid) if self.reads_energy else None


def measure(
    subject: Subject,
    trial: Trial,
    spec: SweepSpec,
    payloads: Sequence[InferPayload],
    on_records: Callable[[RequestRecords], None] | None = None,
    known_per_s: float | None = None,
    repeating: Repeating | None = None,
) -> TrialResult:
    """The result of one load on a loaded model; `took_s` and `key` are the caller's.

    Counters, memory and energy are those of warm-up and measurement together. Answers are checked when the
    payloads hold expected ones. known_per_s: of the objective rate, what an earlier round found. repeating: None sends
    the payloads again and again.
    Raises ServerError when the server does not answer.
    """
    url, watched = subject.http_url, (subject.model, *subject.others)
    named = [replace(payload, model=subject.target) for payload in payloads]
    before = {name: control.model_statistics(url, name) for name in watched}
    energy_before = subject.energy_j()
    found: SloResult | None = None
    if spec.slo_p99_ms is None:
        records = _load(subject, Closed(trial.concurrency), trial, spec, named, spec.duration_s, repeating)
    else:
        records, found = _search_rate(subject, trial, spec, named, known_per_s, repeating)
    if spec.osl is not None:
        records = with_counts(records)
    if on_records is not None:
        on_records(records)
    energy_after = subject.energy_j()
    memory_bytes = server_memory_bytes(subject.server, subject.model)
    counters = {name: counters_between(before[name], control.model_statistics(url, name)) for name in watched}
    summary = summarise(records)
    return TrialResult(
        trial=trial,
        summary=summary,
        server=counters[subject.model],
        error=None,
        took_s=0.0,
        interrupted=records.header.interrupted,
        others={name: c for name in subject.others if (c := counters[name]) is not None},
        memory_bytes=memory_bytes,
        slo=found,
        tokens=None if spec.osl is None else summarise_tokens(records, summary),
        energy_j=None if energy_before is None or energy_after is None else energy_after - energy_before,
    )


def _load(
    subject: Subject,
    load: Load,
    trial: Trial,
    spec: SweepSpec,
    payloads: Sequence[InferPayload],
    duration_s: float,
    repeating: Repeating | None,
) -> RequestRecords:
    if repeating is not None and repeating.repeat.exponent is None:  # what is new is new to the server
        repeating = Repeating(repeating.repeat, repeating.seed)
    checks = None if spec.max_wrong is None else Validation(CHECK_EVERY, spec.rtol, spec.atol)
    by_tokens = spec.osl is not None
    return generate(
        TextTarget(subject.http_url) if by_tokens else HttpTarget(subject.http_url),
        load,
        payloads,
        warmup_s=spec.warmup_s,
        duration_s=duration_s,
        seed=spec.seed + trial.number,
        options=ClientOptions(
            timeout_s=ANSWER_TIMEOUT_S if by_tokens else REQUEST_TIMEOUT_S,
            validation=checks,
            repeat=repeating,
        ),
    )


def _search_rate(
    subject: Subject,
    trial: Trial,
    spec: SweepSpec,
    payloads: Sequence[InferPayload],
    known_per_s: float | None,
    repeating: Repeating | None,
) -> tuple[RequestRecords, SloResult | None]:
    """The search of perf.load.slo with Poisson arrivals, begun at half of what a closed loop gets done.

    Records whose header says `interrupted` when any of its loads was; no result when that was the closed loop.
    """
    limit_ms = spec.slo_p99_ms
    assert limit_ms is not None
    start_per_s = known_per_s
    if start_per_s is None:
        closed = _load(subject, Closed(START_CONCURRENCY), trial, spec, payloads, START_S, repeating)
        if closed.header.interrupted:
            return closed, None
        start_per_s = max(1.0, 0.5 * closed.ok.sum() / (spec.warmup_s + START_S))

    def run(load: Open, duration_s: float) -> tuple[RequestRecords, Summary, bool]:
        records = _load(subject, load, trial, spec, payloads, duration_s, repeating)
        return records, summarise(records), records.header.interrupted

    search = RateSearch(run, limit_ms, spec.duration_s, spec.seed + 100 * trial.number)
    found = search.find(start_per_s, known_per_s)
    records = search.last if search.interrupted else search.best(found)
    assert records is not None
    return records, found


def why_unanswered(records: RequestRecords) -> Iterator[str]:
    """Why no request of a trial, those of its warm-up included, was answered; nothing when one was, or none failed."""
    if not records.ok.any():
        yield from (
            f"none of {len(records):,} requests was answered: {reason}"
            for reason in list(records.failures())[:1]
        )


def failed(trial: Trial, error: TritonsmithError | str, took_s: float) -> TrialResult:
    """A trial without numbers is a result too."""
    text = error.message if isinstance(error, TritonsmithError) else error
    return TrialResult(trial, None, None, text, took_s)
