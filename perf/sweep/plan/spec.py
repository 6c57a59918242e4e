"""Plain data, a sweep.yaml or flags → SweepSpec."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tritonsmith.builder.base.errors import SpecError, Where, at, nearest
from tritonsmith.builder.spec.yaml_source import KeyPath, read_yaml
from tritonsmith.perf.data.repeat import POOL, repeat_from_text
from tritonsmith.perf.sweep.plan.config_path import model_and_path, with_values
from tritonsmith.perf.sweep.plan.field_value import CLIENT_BATCH
from tritonsmith.perf.sweep.plan.space import MAX_BATCH, check_batches, checked_space

Placement = Literal["auto", "side_by_side", "in_place"]
Objective = Literal["throughput", "p50", "p90", "p99", "ttft", "itl", "cost", "energy", "rate"]
Search = Literal["auto", "grid", "optuna", "random"]
MOST_ARMS = 200
DEFAULT_ROUNDS = 4
MOST_ROUNDS = 30


class SweepSpec(BaseModel):
    """What to sweep, from YAML or flags.

    model:         name in the repository.
    space:         path into Triton's model config → values; the arms are all combinations. The path
                   client.batch_size is the batch size of the requests; `OTHER:path` is of another composing
                   model of the ensemble load_model.
    variants:      name → directory of another model with the same inputs and outputs; each is combined with
                   the space as the model itself is.
    load_model:    the model that gets the load, an ensemble over `model`; by default `model` itself.
    beside:        other models of the server that are under load all the time → concurrency.
    concurrency:   load points; every arm is measured at every one.
    batch_size:    inferences in one request.
    rounds:        how often each arm meets each load point; without it 4, or with a budget as many as fit.
    duration_s, warmup_s: of each measurement.
    budget_s:      wall-clock time for all of it, reloads included.
    objective:     throughput (most inferences per second at a load point, of a language model output tokens), p50, p90
                   or p99 (least), ttft or itl (of a language model the least mean time to the first token, or between
                   tokens), cost (least per inference or token, from dollars_per_hour), energy (least of each), rate (highest
                   request rate of an open loop that keeps slo_p99_ms; there are no load points).
    at:            the one load point at which arms are compared; default: each of them.
    margin:        a difference below this share does not matter: 0.05 is 5 %.
    slo_p99_ms:    limit of the objective rate, which it stands for when no other is named.
    dollars_per_hour: price of the server.
    max_p99_ms:    an arm whose p99 is above at a load point does not count there.
    max_failures:  share of failed requests above which an arm does not count.
    max_wrong:     share of the checked answers that may be wrong, by rtol and atol of the data's outputs;
                   without it answers are held against the current config's alone, before the trials.
    answers:       same leaves out an arm whose answers are not the current config's (floats by rtol and atol, a
                   variant by its accuracy bounds); any ranks other models, too.
    repeat:        how requests repeat, see perf.data.repeat; without it never where an arm has a response cache, for
                   the pool's few would all be in it, and else the pool's again and again.
    max_memory_mib: of the server's process and the arm's instances (proportional set size), under load.
    search:        grid measures all combinations; optuna and random propose some of them, `proposals` in
                   all; auto is the grid as long as it has no more than 200.
    proposals:     combinations that a search other than the grid measures.
    seed:          of the order of trials and of the data.
    isl, osl:      of a language model: words of each request's text, and tokens of its answer; 64 where it is one.
    shared_prefix: of those words, how many all requests of a trial begin with.
    placement:     side_by_side | in_place | auto, see perf.sweep.run.scratch.
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
    margin: float = Field(default=0.05, gt=0, lt=1)
    slo_p99_ms: float | None = Field(default=None, gt=0)
    dollars_per_hour: float | None = Field(default=None, gt=0)
    max_p99_ms: float | None = Field(default=None, gt=0)
    max_failures: float = Field(default=0.01, ge=0, le=1)
    max_wrong: float | None = Field(default=None, ge=0, le=1)
    rtol: float = Field(default=1e-3, ge=0)
    atol: float = Field(default=1e-5, ge=0)
    answers: Literal["same", "any"] = "same"
    repeat: str | None = None
    max_memory_mib: float | None = Field(default=None, gt=0)
    search: Search = "auto"
    proposals: int = Field(default=24, ge=2, le=MOST_ARMS)
    isl: int | None = Field(default=None, ge=1)
    osl: int | None = Field(default=None, ge=1)
    shared_prefix: int = Field(default=0, ge=0)
    seed: int = 0
    placement: Placement = "auto"

    @field_validator("space")
    @classmethod
    def _space(cls, space: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for path, values in space.items():
            if not values:
                raise ValueError(f"{path} has no values")
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
    def objective_points(self) -> tuple[int, ...]:
        """The load points at which arms are compared."""
        return self.concurrency if self.at is None else (self.at,)

    def where_words(self, point: int) -> str:
        """`at concurrency 8`, or for the objective rate the limit that is kept."""
        return f"at concurrency {point}" if self.slo_p99_ms is None else f"at p99 ≤ {self.slo_p99_ms:g} ms"

    @property
    def target(self) -> str:
        """The model that gets the load."""
        return self.load_model or self.model

    @property
    def composing(self) -> tuple[str, ...]:
        """Other composing models whose settings are in the space."""
        models = (model_and_path(path)[0] for path in self.space)
        return tuple(dict.fromkeys(model for model in models if model and model != self.model))

    @property
    def combinations(self) -> int:
        """Points of the grid, the current config's among them."""
        return math.prod(len(values) for values in self.space.values()) * (1 + len(self.variants))

    @property
    def is_grid(self) -> bool:
        """Whether all combinations are measured."""
        return self.search == "grid" or (self.search == "auto" and self.combinations <= MOST_ARMS)


def spec_from_mapping(
    data: Mapping[str, Any], where: Callable[[KeyPath], Where | None] = lambda key: None
) -> SweepSpec:
    """Plain data → SweepSpec; an error names the key and the nearest valid one. where: a key path → its place in a file."""

    def bad(message: str, code: str = "bad_value", key: KeyPath = (), **more: Any) -> SpecError:
        return SpecError(message, code=code, where=where(key), **more)

    if data.get("slo_p99_ms") is not None:
        data = {"objective": "rate", **data, "concurrency": [1]}
    if isinstance(space := data.get("space"), Mapping):
        data = {**data, "space": checked_space(space, str(data.get("model")), where)}
    try:
        spec = SweepSpec.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            valid = list(SweepSpec.model_fields)
            near = nearest(key, valid)
            raise bad(f"unknown key '{key}'", "unknown_key", first["loc"], valid=valid, fix=near) from None
        if first["type"] == "missing":
            raise bad(f"'{key}' is missing", "missing_key") from None
        message = first["msg"].removeprefix("Value error, ")
        raise bad(f"{key}: {message}", key=first["loc"], seen=first.get("input")) from None
    if spec.objective == "cost" and spec.dollars_per_hour is None:
        fix = "--dollars-per-hour 2.50"
        raise bad("the objective cost needs the server's price", "missing_key", fix=fix)
    if (spec.objective == "rate") != (spec.slo_p99_ms is not None):
        fix = "--slo-p99 20ms without --objective"
        raise bad("the objective rate and slo_p99_ms belong together", seen=spec.objective, fix=fix)
    for path, values in spec.space.items():
        model, inner = model_and_path(path)
        if model and spec.load_model is None:
            message = f"{path} is of another model, which only counts under load on an ensemble of both"
            raise bad(message, key=("space", path), fix="--load-model ENSEMBLE")
        if path != CLIENT_BATCH and "[" not in inner:  # whether an element is there, the model's config tells
            with at(where(("space", path))):
                for value in values:
                    with_values({}, {inner: value})
    with at(where(("space", MAX_BATCH))):
        check_batches(spec.space, spec.batch_size)
    if spec.repeat is not None:
        repeats = repeat_from_text(spec.repeat) is not None
        if repeats and spec.max_wrong is not None:
            message = "answers are held against those of the data, and requests that are made one by one have none there"
            raise bad(
                message,
                seen=f"max_wrong beside repeat {spec.repeat}",
                fix=f"--repeat {POOL}, or no --max-wrong",
            )
    if spec.at is not None and spec.at not in spec.concurrency:
        raise bad("`at` is not one of the load points", seen=spec.at, valid=spec.concurrency)
    return spec


def spec_from_yaml(path: Path, over: Mapping[str, Any] | None = None) -> SweepSpec:
    """A sweep.yaml → SweepSpec; an error names file and line. Values of the space are read by their fields' types.

    over: keys and values of flags, which win over the file's.
    """
    try:
        source, as_text = read_yaml(path), read_yaml(path, as_text=True).data
    except SpecError as error:
        if error.code in ("spec_missing", "spec_unreadable"):
            message = f"cannot read it: {error.message}"
            raise SpecError(message, code="no_spec", where=Where(path)) from None
        raise SpecError(error.message, code="bad_yaml", where=error.where, seen=error.seen) from None
    data, given = source.data, over or {}
    if not isinstance(data, dict):
        raise SpecError("a sweep is a mapping of keys", code="bad_yaml", where=Where(path), seen=data)
    if isinstance(data.get("variants"), dict):  # relative to the file that names them
        data["variants"] = {name: str(path.parent / str(d)) for name, d in data["variants"].items()}
    if "space" in data:
        data["space"] = as_text["space"]

    def where(key: KeyPath) -> Where | None:
        return None if key and key[0] in given else source.where(key)

    return spec_from_mapping({**data, **given}, where)
