"""SweepSpec + the model's current config → arms, rounds of trials and what they will cost; pure."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from builder.errors import SpecError, UsageError, Where, nearest
from perf import config_path

Placement = Literal["auto", "side_by_side", "in_place"]
MOST_ARMS = 200
Objective = Literal["throughput", "p50", "p90", "p99", "cost", "energy", "rate"]
Search = Literal["auto", "grid", "optuna", "random"]
CLIENT_BATCH = "client.batch_size"
"""The one path of a space that is the client's, not the model config's."""
DEFAULT_ROUNDS = 4
MOST_ROUNDS = 30
TRIAL_OVERHEAD_S = 0.08
PROBES_A_SEARCH = 10
LOAD_ARM_S = 2.0
END_S = 2.0  # kept back from the budget: unloading or stopping, and the report


class SweepSpec(BaseModel):
    """What to sweep, from YAML or flags.

    model:         name in the repository.
    space:         path into Triton's model config → values; the arms are all combinations. The path
                   client.batch_size is the batch size of the requests.
    variants:      name → directory of another model with the same inputs and outputs; each is combined with
                   the space as the model itself is.
    load_model:    the model that gets the load, an ensemble over `model`; by default `model` itself.
    beside:        other models of the server that are under load all the time → concurrency.
    concurrency:   load points; every arm is measured at every one.
    batch_size:    inferences in one request.
    rounds:        how often each arm meets each load point; without it 4, or with a budget as many as fit.
    duration_s, warmup_s: of each measurement.
    budget_s:      wall-clock time for all of it, reloads included.
    objective:     throughput (most inferences per second at one load point), p50, p90 or p99 (least, at
                   `at`), cost (least per inference, from dollars_per_hour), energy (least per inference), rate
                   (the highest request rate of an open loop that keeps slo_p99_ms; there are no load points).
    at:            load point of a latency objective; default: the largest.
    slo_p99_ms:    limit of the objective rate, which it stands for when no other is named.
    dollars_per_hour: price of the server.
    max_p99_ms:    an arm whose p99 is above at a load point does not count there.
    max_failures:  share of failed requests above which an arm does not count.
    max_wrong:     share of the checked answers that may be wrong, by rtol and atol of the data's outputs;
                   without it none is checked.
    max_memory_mib: of the server's process and the arm's instances (proportional set size), under load.
    search:        grid measures all combinations; optuna and random propose some of them, `proposals` in
                   all; auto is the grid as long as it has no more than 200.
    proposals:     combinations that a search other than the grid measures.
    seed:          of the order of trials and of the data.
    placement:     side_by_side | in_place | auto, see perf.scratch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    space: dict[str, list[Any]] = Field(default_factory=dict)
    variants: dict[str, str] = Field(default_factory=dict)
    load_model: str | None = None
    beside: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    concurrency: tuple[int, ...] = (1, 8, 32)
    batch_size: int = Field(default=1, ge=1)
    rounds: int | None = Field(default=None, ge=1, le=MOST_ROUNDS)
    duration_s: float = Field(default=1.0, gt=0, le=3600)
    warmup_s: float = Field(default=0.2, ge=0, le=3600)
    budget_s: float | None = Field(default=None, gt=0)
    objective: Objective = "throughput"
    at: int | None = None
    slo_p99_ms: float | None = Field(default=None, gt=0)
    dollars_per_hour: float | None = Field(default=None, gt=0)
    max_p99_ms: float | None = Field(default=None, gt=0)
    max_failures: float = Field(default=0.01, ge=0, le=1)
    max_wrong: float | None = Field(default=None, ge=0, le=1)
    rtol: float = Field(default=1e-3, ge=0)
    atol: float = Field(default=1e-5, ge=0)
    max_memory_mib: float | None = Field(default=None, gt=0)
    search: Search = "auto"
    proposals: int = Field(default=24, ge=2, le=MOST_ARMS)
    seed: int = 0
    placement: Placement = "auto"

    @field_validator("space")
    @classmethod
    def _space(cls, space: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for path, values in space.items():
            if not values:
                raise ValueError(f"{path} has no values")
        if any(not isinstance(size, int) or size < 1 for size in space.get(CLIENT_BATCH, ())):
            raise ValueError(f"{CLIENT_BATCH} is a whole number of 1 or more")
        return space

    @field_validator("variants")
    @classmethod
    def _variants(cls, variants: dict[str, str]) -> dict[str, str]:
        for name in variants:
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or ".." in name:
                raise ValueError(f"a variant's name is letters, digits, _, . and -, not {name!r}")
        return variants

    @field_validator("concurrency")
    @classmethod
    def _concurrency(cls, points: tuple[int, ...]) -> tuple[int, ...]:
        if not points or min(points) < 1:
            raise ValueError("needs at least one load point of 1 or more")
        return tuple(sorted(set(points)))

    @property
    def objective_at(self) -> int:
        """The load point of a latency objective."""
        return self.at if self.at is not None else max(self.concurrency)

    @property
    def objective_points(self) -> tuple[int, ...]:
        """The load points at which arms may be compared."""
        return (self.objective_at,) if self.objective.startswith("p") else self.concurrency

    def where_words(self, point: int) -> str:
        """`at concurrency 8`, or for the objective rate the limit that is kept."""
        return f"at concurrency {point}" if self.slo_p99_ms is None else f"at p99 ≤ {self.slo_p99_ms:g} ms"

    @property
    def target(self) -> str:
        """The model that gets the load."""
        return self.load_model or self.model

    @property
    def combinations(self) -> int:
        """Points of the grid, the current config's among them."""
        return math.prod(len(values) for values in self.space.values()) * (1 + len(self.variants))

    @property
    def is_grid(self) -> bool:
        """Whether all combinations are measured."""
        return self.search == "grid" or (self.search == "auto" and self.combinations <= MOST_ARMS)


def spec_from_mapping(data: Mapping[str, Any], where: Where | None = None) -> SweepSpec:
    """Plain data → SweepSpec; SpecError names the key and the nearest valid one."""
    if data.get("slo_p99_ms") is not None:
        data = {"objective": "rate", **data, "concurrency": [1]}
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
    if spec.objective == "cost" and spec.dollars_per_hour is None:
        raise SpecError(
            "the objective cost needs the server's price",
            code="missing_key",
            where=where,
            fix="--dollars-per-hour 2.50",
        )
    if (spec.objective == "rate") != (spec.slo_p99_ms is not None):
        raise SpecError(
            "the objective rate and slo_p99_ms belong together",
            code="bad_value",
            where=where,
            seen=spec.objective,
            fix="--slo-p99 20ms without --objective",
        )
    for path, values in spec.space.items():
        if path == CLIENT_BATCH:
            continue
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
    if isinstance(data.get("variants"), dict):  # relative to the file that names them
        data["variants"] = {name: str(path.parent / str(d)) for name, d in data["variants"].items()}
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
    variant:  which of the spec's variants; empty for the model itself.
    batch_size: of the client's requests; None is the spec's.
    """

    id: str
    label: str
    settings: Mapping[str, Any]
    config: Mapping[str, Any] = field(repr=False)
    baseline: bool = False
    variant: str = ""
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm at one load point in one round.

    confirms: of a round that was run to see a winner win again.
    """

    number: int
    round: int
    arm_id: str
    concurrency: int
    confirms: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """arms: the A/A pair first. notes: what was left out and why, sentences."""

    arms: tuple[Arm, ...]
    notes: tuple[str, ...]


def check_space(spec: SweepSpec) -> None:
    """UsageError when nothing is to be swept."""
    if not spec.space and not spec.variants:
        raise UsageError(
            "there is nothing to sweep",
            code="empty_space",
            fix="--set instance_group.count=1,2 --set dynamic_batching.max_queue_delay_microseconds=0,500",
        )


Choice = Mapping[str, Any]
"""One combination: path → value, and the variant under VARIANT."""

VARIANT = "variant"


def axes_of(spec: SweepSpec) -> dict[str, list[Any]]:
    """Every axis of the grid; the variants are one, with "" for the model itself."""
    variants = {VARIANT: ["", *spec.variants]} if spec.variants else {}
    return {**variants, **spec.space}


def plan_arms(
    spec: SweepSpec, current: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]] | None = None
) -> Plan:
    """The grid as arms, without the combinations that are the same config.

    current:  the model's config as the server uses it; variants: those of the spec's variants.
    Raises UsageError for a value that Triton's proto does not take, and when no combination differs from the
    current config. Of a space that is not searched by grid the A/A pair alone is planned.
    """
    check_space(spec)
    arms = ArmPlanner(spec, current, variants or {})
    if not spec.is_grid:
        return Plan(tuple(arms.arms), ())
    if spec.combinations > MOST_ARMS:
        raise UsageError(
            f"the space has {spec.combinations} combinations",
            code="space_too_large",
            valid=[f"up to {MOST_ARMS}"],
            fix="--search optuna measures a part of them",
        )
    axes = axes_of(spec)
    for values in itertools.product(*axes.values()):
        arms.add(dict(zip(axes, values, strict=True)))
    if len(arms.arms) == 2:
        raise UsageError(
            "every combination is the current config",
            code="empty_space",
            seen=", ".join(map(str, spec.space)),
            fix="give a value that differs",
        )
    return Plan(tuple(arms.arms), tuple(arms.notes))


class ArmPlanner:
    """Combinations → arms, each config once; the A/A pair is there from the start."""

    def __init__(
        self, spec: SweepSpec, current: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.spec = spec
        self.configs = {name: _without_name(config) for name, config in {"": current, **variants}.items()}
        self.arms = [
            Arm("arm00", "current config", {}, self.configs[""], baseline=True),
            Arm("arm01", "current config, again", {}, self.configs[""], baseline=True),
        ]
        self.notes: list[str] = []
        self._known: dict[object, Arm] = {self._identity(self.arms[0]): self.arms[0]}

    def add(self, choice: Choice) -> Arm | None:
        """The combination's arm, new or known; None when its requests would not fit its model."""
        spec = self.spec
        settings = {path: v for path, v in choice.items() if path not in (VARIANT, CLIENT_BATCH)}
        variant = str(choice.get(VARIANT, ""))
        words = [variant] if variant else []
        words += [config_path.label(settings)] if settings else []
        batch = choice.get(CLIENT_BATCH)
        words += [f"client batch {batch}"] if batch is not None else []
        text = ", ".join(words) or "current config"
        config = config_path.with_values(self.configs[variant], settings)
        if "max_batch_size" in settings and not any("preferred_batch_size" in path for path in settings):
            self._fit_preferred(config, self.configs[variant], text)
        most = int(config.get("max_batch_size", 0))
        most_now = int(self.configs[""].get("max_batch_size", 0))
        if (batch or spec.batch_size) > max(1, most) and (batch or spec.batch_size <= max(1, most_now)):
            self.notes.append(f"{text}: left out, its max_batch_size {most} takes no such request")
            return None
        arm = Arm(f"arm{len(self.arms):02d}", text, settings, config, False, variant, batch)
        known = self._known.setdefault(self._identity(arm), arm)
        if known is arm:
            self.arms.append(arm)
        else:
            same = "the current config" if known.baseline else known.label
            if text != "current config":
                self.notes.append(f"{text}: the same as {same}, not measured twice")
        return known

    def _fit_preferred(self, config: dict[str, Any], current: Mapping[str, Any], text: str) -> None:
        """Preferred sizes follow another max_batch_size: Triton refuses a config with larger ones.

        One that is just max_batch_size is Triton's own filling of an empty list, and is left to it again.
        """
        if int(config["max_batch_size"]) == int(current.get("max_batch_size", 0)):
            return
        batching = config.get("dynamic_batching")
        sizes = [int(size) for size in (batching or {}).get("preferred_batch_size", [])]
        most = int(config["max_batch_size"])
        if sizes == [int(current.get("max_batch_size", 0))]:
            fitting: list[int] = []
        else:
            fitting = [size for size in sizes if size <= most]
            if fitting != sizes:
                self.notes.append(f"{text}: preferred_batch_size {sizes} becomes {fitting} to fit")
        if batching is not None and fitting != sizes:
            config["dynamic_batching"] = {**batching, "preferred_batch_size": fitting}

    def _identity(self, arm: Arm) -> object:
        """Equal for arms that no load of this sweep can tell apart.

        Two max_batch_size above all that can ever wait together are one: no batch gets there.
        """
        batch = arm.batch_size or self.spec.batch_size
        reach = max(self.spec.concurrency) * batch
        config = dict(arm.config)
        if self.spec.load_model is None and int(config.get("max_batch_size", 0)) > reach:
            config["max_batch_size"] = reach + 1
        return arm.variant, batch, config_path.identity(config)


def _without_name(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "name"}


def trials_of_round(
    spec: SweepSpec, arms: Sequence[Arm], round_: int, first_number: int, placement: Placement
) -> list[Trial]:
    """The trials of one round, in the order to run them.

    Side by side, all arms follow each other at one load point, so that they share what the machine does just
    then; rounds come in pairs of a shuffled order and its reverse (A B C, C B A), which takes out a steady
    drift. In place, where every change of arm is a reload, an arm's load points stay together, and arms that
    differ in the number of instances alone follow each other: Triton changes that without a reload.
    """
    shuffle = random.Random(f"{spec.seed}/{round_ // 2}")
    points = list(spec.concurrency)
    order = _shuffled(arms, shuffle, placement)
    if round_ % 2:
        order.reverse()
        points.reverse()
    pairs = (
        [(arm, point) for point in points for arm in order]
        if placement != "in_place"
        else [(arm, point) for arm in order for point in points]
    )
    return [Trial(first_number + position, round_, arm, point) for position, (arm, point) in enumerate(pairs)]


def _shuffled(arms: Sequence[Arm], shuffle: random.Random, placement: Placement) -> list[str]:
    mixed = list(arms)
    shuffle.shuffle(mixed)
    if placement != "in_place":
        return [arm.id for arm in mixed]
    families: dict[str, list[str]] = {}
    for arm in mixed:
        groups = [{**group, "count": 1} for group in arm.config.get("instance_group", [])]
        family = repr((arm.variant, sorted({**arm.config, "instance_group": groups}.items())))
        families.setdefault(family, []).append(arm.id)
    return [arm_id for family in families.values() for arm_id in family]


def trial_cost_s(spec: SweepSpec) -> float:
    """What one trial takes, before any was measured."""
    one_s = spec.warmup_s + spec.duration_s + TRIAL_OVERHEAD_S
    return one_s if spec.slo_p99_ms is None else PROBES_A_SEARCH * one_s


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
