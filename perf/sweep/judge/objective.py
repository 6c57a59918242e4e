"""SweepSpec.objective → one number a trial, larger is better, and the words for it; a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tritonsmith.perf.stats import Estimate
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.trial import TrialResult
from tritonsmith.perf.tokens.metrics import TokenSummary

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class ObjectiveRow:
    """value: None when the trial cannot tell. words, of_tokens: after `1.20× the current config's`, the latter of a language
    model where it says more."""

    value: Callable[[SweepSpec, TrialResult], float | None]
    words: str
    of_tokens: str = ""


def _throughput(spec: SweepSpec, result: TrialResult) -> float | None:
    if result.tokens is not None:
        return result.tokens.output_tokens_per_s.value
    return None if result.summary is None else result.summary.throughput_per_s.value


def _speed_at(quantile: str) -> Callable[[SweepSpec, TrialResult], float | None]:
    def speed_per_s(spec: SweepSpec, result: TrialResult) -> float | None:
        value_ns = None if result.summary is None else result.summary.latency_ns[quantile].value
        return 1e9 / value_ns if value_ns else None

    return speed_per_s


def _soon(times: Callable[[TokenSummary], Estimate]) -> Callable[[SweepSpec, TrialResult], float | None]:
    def speed_per_s(spec: SweepSpec, result: TrialResult) -> float | None:
        value_ns = None if result.tokens is None else times(result.tokens).value
        return 1e9 / value_ns if value_ns else None

    return speed_per_s


def _inferences_per_dollar(spec: SweepSpec, result: TrialResult) -> float | None:
    rate_per_s = _throughput(spec, result)
    if rate_per_s is None or spec.dollars_per_hour is None:
        return None
    return rate_per_s * 3600 / spec.dollars_per_hour


def _inferences_per_joule(spec: SweepSpec, result: TrialResult) -> float | None:
    if not result.energy_j or result.summary is None:
        return None
    done: float = result.server.inferences if result.server else 0
    if result.tokens is not None:  # of the warm-up, too, as the energy is
        done *= result.tokens.output_tokens / max(1, result.summary.answered)
    return done / result.energy_j if done else None


def _rate_at_slo(spec: SweepSpec, result: TrialResult) -> float | None:
    return None if result.slo is None else result.slo.rate_per_s


OBJECTIVES: Mapping[str, ObjectiveRow] = {
    "throughput": ObjectiveRow(_throughput, "throughput", "output tokens a second"),
    "p50": ObjectiveRow(_speed_at("p50"), "speed at p50"),
    "p90": ObjectiveRow(_speed_at("p90"), "speed at p90"),
    "p99": ObjectiveRow(_speed_at("p99"), "speed at p99"),
    "ttft": ObjectiveRow(_soon(lambda tokens: tokens.mean_ttft_ns), "speed to the first token"),
    "itl": ObjectiveRow(_soon(lambda tokens: tokens.mean_itl_ns), "speed from token to token"),
    "cost": ObjectiveRow(_inferences_per_dollar, "inferences per dollar", "output tokens per dollar"),
    "energy": ObjectiveRow(_inferences_per_joule, "inferences per joule", "output tokens per joule"),
    "rate": ObjectiveRow(_rate_at_slo, "request rate"),
}


def objective_words(spec: SweepSpec) -> str:
    """What a ratio of this sweep is of."""
    row = OBJECTIVES[spec.objective]
    return (spec.osl and row.of_tokens) or row.words
