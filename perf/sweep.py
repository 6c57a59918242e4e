"""SweepSpec + the model's current config → arms, rounds of trials and what they will cost; pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from builder.errors import SpecError, UsageError, Where, nearest
from perf import config_path

Placement = Literal["auto", "side_by_side", "in_place"]
DEFAULT_ROUNDS = 4
MOST_ROUNDS = 30
MOST_ARMS = 200
TRIAL_OVERHEAD_S = 0.08
LOAD_ARM_S = 2.0
END_S = 2.0  # kept back from the budget: unloading or stopping, and the report


class SweepSpec(BaseModel):
    """What to sweep, from YAML or flags.

    model:         name in the repository.
    space:         path into Triton's model config → values; the arms are all combinations.
    concurrency:   load points; every arm is measured at every one.
    batch_size:    inferences in one request.
    rounds:        how often each arm meets each load point; without it 4, or with a budget as many as fit.
    duration_s, warmup_s: of each measurement.
    budget_s:      wall-clock time for all of it, reloads included.
    objective:     throughput (most inferences per second at one load point) or p99 (least, at `at`).
    at:            load point of the objective p99; default: the largest.
    max_p99_ms:    an arm whose p99 is above at a load point does not count there.
    max_failures:  share of failed requests above which an arm does not count.
    seed:          of the order of trials and of the data.
    placement:     side_by_side | in_place | auto, see perf.scratch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    space: dict[str, list[Any]] = Field(default_factory=dict)
    concurrency: tuple[int, ...] = (1, 8, 32)
    batch_size: int = Field(default=1, ge=1)
    rounds: int | None = Field(default=None, ge=1, le=MOST_ROUNDS)
    duration_s: float = Field(default=1.0, gt=0, le=3600)
    warmup_s: float = Field(default=0.2, ge=0, le=3600)
    budget_s: float | None = Field(default=None, gt=0)
    objective: Literal["throughput", "p99"] = "throughput"
    at: int | None = None
    max_p99_ms: float | None = Field(default=None, gt=0)
    max_failures: float = Field(default=0.01, ge=0, le=1)
    seed: int = 0
    placement: Placement = "auto"

    @field_validator("space")
    @classmethod
    def _space(cls, space: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for path, values in space.items():
            if not values:
                raise ValueError(f"{path} has no values")
        return space

    @field_validator("concurrency")
    @classmethod
    def _concurrency(cls, points: tuple[int, ...]) -> tuple[int, ...]:
        if not points or min(points) < 1:
            raise ValueError("needs at least one load point of 1 or more")
        return tuple(sorted(set(points)))

    @property
    def objective_at(self) -> int:
        """The load point of the objective p99."""
        return self.at if self.at is not None else max(self.concurrency)


def spec_from_mapping(data: Mapping[str, Any], where: Where | None = None) -> SweepSpec:
    """Plain data → SweepSpec; SpecError names the key and the nearest valid one."""
    try:
        spec = SweepSpec.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            valid = list(SweepSpec.model_fields)
            raise SpecError(
                f"unknown key '{key}'", code="unknown_key", where=where, valid=valid, fix=nearest(key, valid)
            ) from None
        if first["type"] == "missing":
            raise SpecError(f"'{key}' is missing", code="missing_key", where=where) from None
        message = first["msg"].removeprefix("Value error, ")
        raise SpecError(f"{key}: {message}", code="bad_value", where=where, seen=first.get("input")) from None
    for path, values in spec.space.items():
        config_path.check_path(path)
        if "[" not in path:  # an element of a list has to be there, which only the model's config tells
            for value in values:
                config_path.with_values({}, {path: value})
    if spec.at is not None and spec.at not in spec.concurrency:
        raise SpecError(
            "`at` is not one of the load points",
            code="bad_value",
            where=where,
            seen=spec.at,
            valid=spec.concurrency,
        )
    return spec


def spec_from_yaml(path: Path) -> SweepSpec:
    """A sweep.yaml → SweepSpec; SpecError names file and line where the YAML itself is wrong."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SpecError(f"cannot read it: {error.strerror}", code="no_spec", where=Where(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        problem = getattr(error, "problem", None) or str(error)
        raise SpecError(f"not YAML: {problem}", code="bad_yaml", where=Where(path, line)) from None
    if not isinstance(data, dict):
        raise SpecError("a sweep is a mapping of keys", code="bad_yaml", where=Where(path), seen=data)
    return spec_from_mapping(data, Where(path))


def setting_from_text(text: str) -> tuple[str, list[Any]]:
    """`instance_group.count=1,2` → (path, values); a value is YAML, so lists and null work.

    Commas inside brackets belong to the value: `preferred_batch_size=[4,8],[16]` has two.
    """
    import yaml

    path, equals, values = text.partition("=")
    if not equals or not path.strip() or not values.strip():
        raise UsageError(
            "a setting is PATH=VALUE,VALUE…",
            code="bad_setting",
            seen=text,
            fix="--set instance_group.count=1,2",
        )
    try:
        parsed = [yaml.safe_load(part) for part in _split_outside_brackets(values)]
    except yaml.YAMLError as error:
        raise UsageError(f"a value of {path} cannot be read", code="bad_setting", seen=values) from error
    return path.strip(), parsed


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


@dataclass(frozen=True, slots=True)
class Arm:
    """One config that is measured.

    id:       short and stable within a run: arm00 and arm01 are the A/A pair.
    settings: what differs from the current config, path → value; empty for the A/A pair.
    config:   the whole model config as Triton's load API takes it, without a name.
    """

    id: str
    label: str
    settings: Mapping[str, Any]
    config: Mapping[str, Any] = field(repr=False)
    baseline: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm at one load point in one round."""

    number: int
    round: int
    arm_id: str
    concurrency: int


@dataclass(frozen=True, slots=True)
class Plan:
    """arms: the A/A pair first. notes: what was left out and why, sentences."""

    arms: tuple[Arm, ...]
    notes: tuple[str, ...]


def check_space(spec: SweepSpec) -> None:
    """UsageError when nothing is to be swept."""
    if not spec.space:
        raise UsageError(
            "there is nothing to sweep",
            code="empty_space",
            fix="--set instance_group.count=1,2 --set dynamic_batching.max_queue_delay_microseconds=0,500",
        )


def plan_arms(spec: SweepSpec, current: Mapping[str, Any]) -> Plan:
    """The grid as arms, without the combinations that are the same config.

    current: the model's config as the server uses it. Raises UsageError for a value that Triton's proto does
    not take, and when no combination differs from the current config.
    """
    check_space(spec)
    combinations = list(itertools.product(*spec.space.values()))
    if len(combinations) > MOST_ARMS:
        raise UsageError(
            f"the space has {len(combinations)} combinations",
            code="space_too_large",
            valid=[f"up to {MOST_ARMS}"],
        )
    config = {key: value for key, value in current.items() if key != "name"}
    arms = [
        Arm("arm00", "current config", {}, config, baseline=True),
        Arm("arm01", "current config, again", {}, config, baseline=True),
    ]
    notes = []
    known = {config_path.identity(config): "the current config"}
    for values in combinations:
        settings = dict(zip(spec.space, values, strict=True))
        text = config_path.label(settings)
        changed = config_path.with_values(config, settings)
        identity = config_path.identity(changed)
        if identity in known:
            notes.append(f"{text}: the same as {known[identity]}, not measured twice")
            continue
        known[identity] = text
        arms.append(Arm(f"arm{len(arms):02d}", text, settings, changed))
    if len(arms) == 2:
        raise UsageError(
            "every combination is the current config",
            code="empty_space",
            seen=", ".join(map(str, spec.space)),
            fix="give a value that differs",
        )
    return Plan(tuple(arms), tuple(notes))


def trials_of_round(
    spec: SweepSpec, arms: Sequence[Arm], round_: int, first_number: int, placement: Placement
) -> list[Trial]:
    """The trials of one round, in the order to run them.

    Side by side, all arms follow each other at one load point, so that they share what the machine does just
    then; rounds come in pairs of a shuffled order and its reverse (A B C, C B A), which takes out a steady
    drift. In place, where every change of arm is a reload, an arm's load points stay together.
    """
    shuffle = random.Random(f"{spec.seed}/{round_ // 2}")
    points = list(spec.concurrency)
    order = [arm.id for arm in arms]
    shuffle.shuffle(order)
    if round_ % 2:
        order.reverse()
        points.reverse()
    pairs = (
        [(arm, point) for point in points for arm in order]
        if placement != "in_place"
        else [(arm, point) for arm in order for point in points]
    )
    return [Trial(first_number + position, round_, arm, point) for position, (arm, point) in enumerate(pairs)]


def trial_cost_s(spec: SweepSpec) -> float:
    """What one trial takes, before any was measured."""
    return spec.warmup_s + spec.duration_s + TRIAL_OVERHEAD_S


def round_cost_s(spec: SweepSpec, arms: int, placement: Placement, trial_s: float | None = None) -> float:
    """What one round takes; in place, one reload an arm is part of it."""
    trial_s = trial_cost_s(spec) if trial_s is None else trial_s
    reloads_s = arms * LOAD_ARM_S if placement == "in_place" else 0.0
    return arms * len(spec.concurrency) * trial_s + reloads_s


def check_budget(spec: SweepSpec, arms: int, placement: Placement) -> None:
    """UsageError when not even one round fits into the budget; it says what would."""
    if spec.budget_s is None:
        return
    load_s = END_S + (0.0 if placement == "in_place" else arms * LOAD_ARM_S / 2)
    needed = load_s + round_cost_s(spec, arms, placement)
    if needed <= spec.budget_s:
        return
    points = len(spec.concurrency)
    left = (spec.budget_s - load_s - (arms * LOAD_ARM_S if placement == "in_place" else 0)) / (arms * points)
    duration = left - spec.warmup_s - TRIAL_OVERHEAD_S
    fits = []
    if duration >= 0.1:
        fits.append(f"--duration {int(duration * 10) / 10:g}s")
    per_arm_s = needed / arms
    if spec.budget_s / per_arm_s >= 3:
        fits.append(f"{int(spec.budget_s / per_arm_s) - 2} combinations instead of {arms - 2}")
    trials = f"{arms} arms × {points} load points × {trial_cost_s(spec):.1f} s"
    raise UsageError(
        f"one round of {trials} needs about {needed:.0f} s",
        code="budget_too_small",
        seen=f"a budget of {spec.budget_s:g} s",
        valid=fits,
        fix=f"--budget {needed * 1.1:.0f}s",
    )
