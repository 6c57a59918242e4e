"""(SweepSpec, arms, pools of payloads) → how the requests of a sweep repeat, and what its response caches answered."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.data.repeat import POOL, check_distinct, repeat_from_text
from tritonsmith.perf.load.runs.plan import Repeating
from tritonsmith.perf.sweep.plan import Arm, SweepSpec, Trial
from tritonsmith.perf.sweep.plan.config_path import model_and_path
from tritonsmith.perf.sweep.trial import TrialResult
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.per_request.varied_bytes import ENOUGH

_CACHE = "response_cache"


def with_repeat(
    spec: SweepSpec, arms: Iterable[Arm], pools: Iterable[Sequence[InferPayload]]
) -> tuple[SweepSpec, list[str]]:
    """(the spec that says how requests repeat, sentences for the report).

    Where an arm has a response cache and nothing was asked, no two requests are the same: a pool that is sent again and
    again would all be answered from it, whatever production asks. UsageError where too few different ones can be made.
    """
    caches = _sweeps_cache(spec) or any(
        config.get(_CACHE, {}).get("enable") for arm in arms for config in (arm.config, *arm.others.values())
    )
    if spec.repeat is None and not caches:
        return spec, []
    pools = list(pools)
    if spec.repeat is None and spec.max_wrong is not None:
        raise UsageError(
            "an arm has a response cache, so no two requests are the same, and the data hold no answers to such",
            code="bad_repeat",
            seen="--max-wrong",
            fix=f"no --max-wrong, or --repeat {POOL} to send the data's requests again and again",
        )
    spec = spec.model_copy(update={"repeat": spec.repeat or "0"})
    repeat = repeat_from_text(spec.repeat or POOL)
    if repeat is None:
        if not caches:
            return spec, []
        count = sum(map(len, pools))
        return spec, [
            f"The {count} requests of the pool were sent again and again, so a response cache holds them all."
        ]
    changed = [check_distinct(repeat, pool) for pool in pools]
    why = "" if not caches else ", as an arm has a response cache"
    return spec, [f"Requests: {repeat.sentence}{why} (--repeat {repeat}); what is changed: {changed[0]}."]


def _sweeps_cache(spec: SweepSpec) -> bool:
    return any(model_and_path(path)[1].startswith(_CACHE) for path in spec.space)


def repeating_of(spec: SweepSpec, trial: Trial, first_requests: dict[str, int]) -> Repeating | None:
    """What follows what is the same for every arm of a round at a load point.

    first_requests: arm id → which requests are its own, kept from trial to trial: by a distribution of requests a cache
    fills in the course of a sweep as it does in production, and no arm finds there what another has asked.
    """
    repeat = repeat_from_text(spec.repeat or POOL)
    if repeat is None:
        return None
    seed = (spec.seed << 32) + (trial.round << 16) + trial.concurrency
    return Repeating(repeat, seed, first_requests.setdefault(trial.arm_id, secrets.randbelow(ENOUGH)))


def cache_notes(arms: Sequence[Arm], results: Sequence[TrialResult]) -> list[str]:
    """The share that each arm's response cache answered, by the server's counters."""
    shares = []
    for arm in arms:
        counted = [r.server for r in results if r.trial.arm_id == arm.id and r.server is not None]
        hits, misses = sum(c.cache_hits for c in counted), sum(c.cache_misses for c in counted)
        if hits or misses:
            shares.append(f"{100 * hits / (hits + misses):.0f} % of {hits + misses:,} ({arm.label})")
    return [f"Requests that the response cache answered: {'; '.join(shares)}."] if shares else []
