"""SweepSpec + the model's current config → the arms to measure, each config once; pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.sweep.plan import config_path
from tritonsmith.perf.sweep.plan.config_path import model_and_path
from tritonsmith.perf.sweep.plan.field_value import CLIENT_BATCH
from tritonsmith.perf.sweep.plan.spec import MOST_ARMS, SweepSpec


@dataclass(frozen=True, slots=True)
class Arm:
    """One config that is measured.

    id:       short and stable within a run: arm00 and arm01 are the A/A pair.
    settings: what differs from the current config, path → value; empty for the A/A pair.
    config:   the whole model config as Triton's load API takes it, without a name.
    variant:  which of the spec's variants; empty for the model itself.
    batch_size: of the client's requests; None is the spec's.
    others, other_settings: of other composing models, model → config, and what differs in it.
    """

    id: str
    label: str
    settings: Mapping[str, Any]
    config: Mapping[str, Any] = field(repr=False)
    baseline: bool = False
    variant: str = ""
    batch_size: int | None = None
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    other_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


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
    spec: SweepSpec,
    current: Mapping[str, Any],
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    files: Mapping[str, str] | None = None,
    composing: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """The grid as arms, without the combinations that are the same config.

    current:  the model's config as the server uses it; variants: those of the spec's variants.
    files:    variant → digest of its files, "" for the model itself; where it is known, variants of equal files
              and config are one.
    composing: configs of the other composing models whose settings are in the space.
    Raises UsageError for a value that Triton's proto does not take, and when no combination differs from the
    current config. Of a space that is not searched by grid the A/A pair alone is planned.
    """
    check_space(spec)
    arms = ArmPlanner(spec, current, variants or {}, files, composing)
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
        self,
        spec: SweepSpec,
        current: Mapping[str, Any],
        variants: Mapping[str, Mapping[str, Any]],
        files: Mapping[str, str] | None = None,
        composing: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """See plan_arms."""
        self.spec = spec
        self._files = files or {}
        self.configs = {name: _without_name(config) for name, config in {"": current, **variants}.items()}
        self._composing = {name: _without_name(config) for name, config in (composing or {}).items()}
        self.arms = [
            Arm(id_, label, {}, self.configs[""], baseline=True, others=self._composing)
            for id_, label in (("arm00", "current config"), ("arm01", "current config, again"))
        ]
        self.notes: list[str] = []
        self._known: dict[object, Arm] = {self._identity(self.arms[0]): self.arms[0]}

    def add(self, choice: Choice) -> Arm | None:
        """The combination's arm, new or known; None when its requests would not fit its model."""
        spec = self.spec
        of_model: dict[str, dict[str, Any]] = {}
        for key, value in choice.items():
            if key not in (VARIANT, CLIENT_BATCH):
                name, path = model_and_path(key)
                of_model.setdefault("" if name == spec.model else name, {})[path] = value
        settings = of_model.pop("", {})
        variant = str(choice.get(VARIANT, ""))
        words = [variant] if variant else []
        words += [config_path.label(settings)] if settings else []
        words += [f"{name} {config_path.label(values)}" for name, values in of_model.items()]
        batch = choice.get(CLIENT_BATCH)
        words += [f"client batch {batch}"] if batch is not None else []
        text = ", ".join(words) or "current config"
        config = config_path.with_values(self.configs[variant], settings)
        _check_requests_fit(spec.model, self.configs[variant], settings)
        for name, values in of_model.items():
            _check_requests_fit(name, self._composing[name], values)
        if "max_batch_size" in settings and not any("preferred_batch_size" in path for path in settings):
            self._fit_preferred(config, self.configs[variant], text)
        most = int(config.get("max_batch_size", 0))
        most_now = int(self.configs[""].get("max_batch_size", 0))
        if (batch or spec.batch_size) > max(1, most) and (batch or spec.batch_size <= max(1, most_now)):
            self.notes.append(f"{text}: left out, its max_batch_size {most} takes no such request")
            return None
        others = {
            name: config_path.with_values(known, of_model.get(name, {}))
            for name, known in self._composing.items()
        }
        arm = Arm(f"arm{len(self.arms):02d}", text, settings, config, False, variant, batch, others, of_model)
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

        Two max_batch_size above all that can ever wait together are one: no batch gets there. In an open loop,
        and behind an ensemble, any number may wait.
        """
        batch = arm.batch_size or self.spec.batch_size
        reach = max(self.spec.concurrency) * batch
        config = _without_own_name(arm.config, (self.spec.model, f"{self.spec.model}__{arm.variant}"))
        closed = self.spec.slo_p99_ms is None and self.spec.load_model is None
        if closed and int(config.get("max_batch_size", 0)) > reach:
            config["max_batch_size"] = reach + 1
        others = tuple((name, config_path.identity(other)) for name, other in sorted(arm.others.items()))
        return self._files.get(arm.variant, arm.variant), batch, config_path.identity(config), others


def _check_requests_fit(model: str, current: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """UsageError for a max_batch_size that gives requests a batch dimension or takes it from them."""
    now, then = (int(config.get("max_batch_size") or 0) for config in (current, {**current, **settings}))
    if bool(now) != bool(then):
        raise UsageError(
            f"max_batch_size {then} changes the requests: '{model}' has {now} now, "
            + ("and without batching" if now else "and with batching")
            + " its requests and its dims have another shape",
            code="bad_value",
            seen=then,
            valid=["1 and more"] if now else [0],
            fix="1: a batch of one request at most" if now else "max_batch_size in models.yaml, and build",
        )


def _without_own_name(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The config; weights of a language model in its own directory, `/models/chat/1/FILE`, by the file's name: it is known."""
    engine = config.get(config_path.ENGINE, {})
    *_, model, version, file = ("", "", *str(engine.get("model", "")).split("/"))
    if model not in names:
        return dict(config)
    return {**config, config_path.ENGINE: {**engine, "model": f"{version}/{file}"}}


def _without_name(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "name"}
