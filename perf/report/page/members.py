"""A sweep of an ensemble's model → what each model of the ensemble did at each load point, and which one holds it up; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tritonsmith.perf.records.typed import MALFORMED, typed
from tritonsmith.perf.report.numbers import percent
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import RunResult
from tritonsmith.perf.sweep.trial import MemberConfig, member_config
from tritonsmith.perf.usage.counters import sum_of
from tritonsmith.perf.usage.members import Bottleneck, Member, bottleneck_of, members_from

AT_WORK, WAITED = 0.75, 0.2
"""Where its instances execute for this part of the time, and this part of all time is spent in its queue, it is for want of
an instance that requests wait."""


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One model of the ensemble.

    executions_per_s, busy: None where the rate is not known; busy is the part of the time in which its instances execute,
    also None where their number is not known.
    """

    member: Member
    executions_per_s: float | None
    config: MemberConfig | None
    busy: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, with units in their names."""
        counters = self.member.counters
        return {
            "member": self.member.name,
            "instances": None if self.config is None else self.config.instances,
            "requests": counters.requests,
            "executions_per_s": self.executions_per_s,
            "mean_batch_size": counters.mean_batch_size,
            "mean_queue_ns": round(counters.mean_queue_us * 1000),
            "mean_compute_ns": round(counters.mean_compute_us * 1000),
            "share_of_time": self.member.share,
            "busy": self.busy,
        }


FIELDS = ("arm", "settings", "concurrency", "member", "instances", "requests", "executions_per_s", "mean_batch_size",
          "mean_queue_ns", "mean_compute_ns", "share_of_time", "busy", "bottleneck")  # fmt: skip
"""The columns of members.csv."""


@dataclass(frozen=True, slots=True)
class Composition:
    """One config at one load point over its rounds."""

    arm: Arm
    concurrency: int
    rows: tuple[MemberRow, ...]
    bottleneck: Bottleneck | None


def has_members(run: RunResult) -> bool:
    """Whether an ensemble was under load, and its models were counted."""
    return run.spec.load_model is not None and any(_names(run, trial.others) for trial in run.trials)


def _names(run: RunResult, counted: Mapping[str, Any]) -> list[str]:
    """The other models of the ensemble; ensembles inside it are the sum of theirs, so they are none."""
    known = run.environment.get("members")
    if isinstance(known, Mapping):
        return [name for name in known if name in counted]
    return [name for name in counted if name != run.spec.load_model and name not in run.spec.beside]


def composition_of(run: RunResult, arm: Arm, point: int) -> Composition | None:
    """None where not all was counted."""
    trials = [
        t
        for t in run.trials
        if (t.trial.arm_id, t.trial.concurrency) == (arm.id, point) and t.server and not t.interrupted
    ]
    names = _names(run, trials[0].others) if trials and has_members(run) else []
    ours = [t.server for t in trials if t.server]
    found = {run.spec.model: sum_of(ours)}
    found |= {name: sum_of([t.others[name] for t in trials if name in t.others]) for name in names}
    counted = {name: counters for name, counters in found.items() if counters is not None}
    if len(counted) < 2:
        return None
    members = members_from(counted)
    target = sum_of([t.others[run.spec.target] for t in trials if run.spec.target in t.others])
    rates = [v for t in trials if t.summary and (v := t.summary.throughput_per_s.value) is not None]
    # Counted over the warm-up too, so by the ensemble's own inferences, not by seconds.
    a_second = fmean(rates) / target.inferences if rates and target and target.inferences else None
    rows = tuple(_row(run, arm, member, a_second) for member in members)
    return Composition(arm, point, rows, bottleneck_of(members))


def _row(run: RunResult, arm: Arm, member: Member, a_second: float | None) -> MemberRow:
    config = _config(run, arm, member.name)
    per_s = None if a_second is None else member.counters.executions * a_second
    busy = None
    if per_s is not None and config is not None:
        busy = min(1.0, per_s * member.counters.mean_compute_us / 1e6 / config.instances)
    return MemberRow(member, per_s, config, busy)


def _config(run: RunResult, arm: Arm, name: str) -> MemberConfig | None:
    """As the arm has it, else as it was when the sweep began; None where the run does not say."""
    try:
        if name == run.spec.model:
            return member_config(arm.config)
        if name in arm.others:
            return member_config(arm.others[name])
        return typed(MemberConfig, run.environment["members"][name])
    except MALFORMED:
        return None


def compositions(run: RunResult) -> list[Composition]:
    """Of every config at every load point; none of a model without members."""
    every = [composition_of(run, arm, point) for point in run.spec.concurrency for arm in run.arms]
    return [found for found in every if found is not None] if has_members(run) else []


def member_rows(run: RunResult) -> list[dict[str, Any]]:
    """One row a member, config and load point, as FIELDS names it."""
    return [
        {
            "arm": found.arm.id,
            "settings": found.arm.label,
            "concurrency": found.concurrency,
            **row.as_dict(),
            "bottleneck": _is_of(found.bottleneck, row),
        }
        for found in compositions(run)
        for row in found.rows
    ]


def _is_of(bottleneck: Bottleneck | None, row: MemberRow) -> str:
    """`queue`, `compute`, or nothing."""
    return bottleneck.part if bottleneck is not None and bottleneck.name == row.member.name else ""


def shown_compositions(run: RunResult) -> list[dict[str, Any]]:
    """Of the current config and of the one that the verdict is about, at each load point, for the page and Markdown."""
    arms = _current_and_leader(run)
    found = [composition_of(run, arm, point) for point in run.spec.concurrency for arm in arms]
    return [
        {
            "where": run.spec.where_words(each.concurrency),
            "label": each.arm.label,
            "rows": [
                {
                    **row.as_dict(),
                    "queue_share": row.member.queue_share,
                    "bottleneck": _is_of(each.bottleneck, row),
                }
                for row in each.rows
            ],
        }
        for each in found
        if each is not None
    ]


def _current_and_leader(run: RunResult) -> Sequence[Arm]:
    current = next((arm for arm in run.arms if arm.baseline), None)
    leader = next((arm for arm in run.arms if arm.id == run.verdict.arm_id and not arm.baseline), None)
    return [arm for arm in (current, leader) if arm is not None]


def _judged(run: RunResult) -> Composition | None:
    """The config that is to be used: a winner where its verdict's sentence begins, else the current one at the highest
    load, where a queue shows."""
    arms = _current_and_leader(run) if has_members(run) else ()
    if run.verdict.outcome == "winner" and len(arms) > 1:
        return composition_of(run, arms[1], run.verdict.concurrency or max(run.spec.concurrency))
    return composition_of(run, arms[0], max(run.spec.concurrency)) if arms else None


def held_up_by(run: RunResult) -> str | None:
    """The member that holds the ensemble up, at which load, and what its counters say may help."""
    found = _judged(run)
    if found is None or found.bottleneck is None:
        return None
    row = next(row for row in found.rows if row.member.name == found.bottleneck.name)
    where = f"{run.spec.where_words(found.concurrency)}, {found.arm.label}"
    told = f"{found.bottleneck.words(run.spec.target)} ({where})"
    remedy = _remedy(run, found.concurrency, row, found.bottleneck)
    return f"{told}: {remedy}." if remedy else f"{told}."


def _remedy(run: RunResult, point: int, row: MemberRow, at: Bottleneck) -> str | None:
    """Only what the numbers show; None where they do not say what would help."""
    name, config, busy = row.member.name, row.config, row.busy
    if config is not None and busy is not None and busy >= AT_WORK and at.queue >= WAITED:
        are = f"its {config.instances} instances are" if config.instances > 1 else "its one instance is"
        told = f"{are} at work {percent(busy)} of the time"
        if more := [arm for arm in run.arms if _instances(run, arm, name) > config.instances]:
            judged = [run.verdict.of(arm.id, point) for arm in more]
            are_no_better = all(one is not None and one.outcome in ("equivalent", "worse") for one in judged)
            return f"{told}; more of them were measured, and are no better" if are_no_better else told
        cores = run.environment.get("cores")
        if not config.on_gpu and isinstance(cores, int) and config.instances >= cores:
            return f"{told}, as many as there are cores; only a cheaper execution of {name} would shorten it"
        return f"{told}; more instances of {name} are worth a sweep"
    if at.part == "compute":
        return f"only a cheaper execution of {name} (precision, larger batches) would shorten it"
    waited_us = row.member.counters.mean_queue_us
    if (
        config is not None
        and busy is not None
        and config.delay_us
        and 2 * waited_us >= config.delay_us >= waited_us / 2
    ):
        return f"its requests wait out the max_queue_delay_microseconds of {config.delay_us}; a shorter one is worth a sweep"
    return None


def _instances(run: RunResult, arm: Arm, name: str) -> int:
    config = _config(run, arm, name)
    return 0 if config is None else config.instances


def member_to_sweep(run: RunResult) -> Bottleneck | None:
    """The bottleneck, where this sweep changed nothing about it."""
    found = _judged(run)
    at = None if found is None else found.bottleneck
    return at if at is not None and at.name not in (run.spec.model, *run.spec.composing) else None
