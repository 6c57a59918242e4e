"""(what the spec wants, what the lock says, what is there) → BuildPlan; pure; every stale action carries its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from builder.digest import digest_of_value
from builder.lock import Lock, LockedModel

ActionKind = Literal["export", "convert", "lay_out", "remove"]


class State(str, Enum):
    """Where an action stands."""

    UP_TO_DATE = "up-to-date"
    CACHED = "cached"
    TO_RUN = "to run"


class StaleReason(str, Enum):
    """Why an action is not up to date; a stable word for scripts."""

    NEW = "new"
    SPEC_CHANGED = "spec_changed"
    SOURCE_CHANGED = "source_changed"
    TOOL_CHANGED = "tool_changed"
    TEMPLATE_CHANGED = "template_changed"
    ACCURACY_BOUND_CHANGED = "accuracy_bound_changed"
    EXPORT_CHANGED = "export_changed"
    STEP_CHANGED = "step_changed"
    CALIBRATION_CHANGED = "calibration_changed"
    MISSING_ARTIFACT = "missing_artifact"
    CORRUPT_ARTIFACT = "corrupt_artifact"
    REMOVED_FROM_SPEC = "removed_from_spec"


@dataclass(frozen=True, slots=True)
class Action:
    """One step for one model; detail tells the value that changed, old → new."""

    model: str
    kind: ActionKind
    state: State
    reason: StaleReason | None = None
    detail: str = ""
    variant: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "model": self.model,
            **({} if self.variant is None else {"variant": self.variant}),
            "action": self.kind,
            "state": self.state.value,
            "reason": None if self.reason is None else self.reason.value,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class VariantObservation:
    """What is known of one variant before anything runs; the fields are those of Observation."""

    parameters: Mapping[str, Any]
    tools: Mapping[str, str | None]
    dependencies: Mapping[str, str | None]
    cached_key: str | None


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one model before anything runs.

    parameters:   the export's parameters as the spec has them now.
    tools:        versions of the tools that would run.
    dependencies: current digests of the dependencies in the lock; None for a file that is gone.
    cached_key:   key of a cached artifact that fits the parameters, tools and sources as they are now.
    config:       current digests of what config.pbtxt is rendered from.
    files:        digests of what lies in the model's directory now.
    """

    parameters: Mapping[str, Any]
    tools: Mapping[str, str | None]
    dependencies: Mapping[str, str | None]
    cached_key: str | None
    config: Mapping[str, str]
    files: Mapping[str, str]
    variants: Mapping[str, VariantObservation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """All actions, in the spec's order."""

    actions: tuple[Action, ...]

    @property
    def stale(self) -> tuple[Action, ...]:
        """Actions that are not up to date."""
        return tuple(a for a in self.actions if a.state is not State.UP_TO_DATE)

    def of(self, model: str, kind: ActionKind, variant: str | None = None) -> Action:
        """One model's action."""
        return next(a for a in self.actions if a.model == model and a.kind == kind and a.variant == variant)


def request_digest(parameters: Mapping[str, Any], tools: Mapping[str, str | None]) -> str:
    """Identity of an export but for its sources' content."""
    return digest_of_value({"action": "export", "parameters": parameters, "tools": tools})


def action_key(request: str, dependencies: Mapping[str, str]) -> str:
    """Identity of an export: request and sources' content."""
    return digest_of_value({"request": request, "dependencies": dependencies})


def make_plan(observed: Mapping[str, Observation], lock: Lock) -> BuildPlan:
    """The plan for every model observed, and for those in the lock that the spec no longer has."""
    actions: list[Action] = []
    for model, seen in observed.items():
        locked = lock.models.get(model)
        export = _export(model, seen, locked)
        converts = [_convert(model, name, variant, locked, export) for name, variant in seen.variants.items()]
        actions += [export, *converts, _lay_out(model, seen, locked, [export, *converts])]
    gone = sorted(lock.models.keys() - observed.keys())
    actions += [Action(m, "remove", State.TO_RUN, StaleReason.REMOVED_FROM_SPEC) for m in gone]
    return BuildPlan(tuple(actions))


def _export(model: str, seen: Observation, locked: LockedModel | None) -> Action:
    stale = _stale_export(seen, locked)
    if stale is None:
        return Action(model, "export", State.UP_TO_DATE)
    reason, detail = stale
    return Action(model, "export", State.CACHED if seen.cached_key else State.TO_RUN, reason, detail)


def _stale_export(seen: Observation, locked: LockedModel | None) -> tuple[StaleReason, str] | None:
    if locked is None:
        return StaleReason.NEW, ""
    if dict(seen.parameters) != dict(locked.parameters):
        return StaleReason.SPEC_CHANGED, _changes(locked.parameters, seen.parameters)
    if dict(seen.tools) != dict(locked.tools):
        return StaleReason.TOOL_CHANGED, _changes(locked.tools, seen.tools)
    if dict(seen.dependencies) != dict(locked.dependencies):
        return StaleReason.SOURCE_CHANGED, _changes(locked.dependencies, seen.dependencies)
    artifact = {k: v for k, v in locked.files.items() if k != "config.pbtxt"}
    present = {k: v for k, v in seen.files.items() if k in artifact}
    if present != artifact:
        missing = sorted(artifact.keys() - present.keys())
        reason = StaleReason.MISSING_ARTIFACT if missing else StaleReason.CORRUPT_ARTIFACT
        return reason, ", ".join(missing or sorted(k for k in artifact if present[k] != artifact[k]))
    return None


def _convert(
    model: str, name: str, seen: VariantObservation, locked: LockedModel | None, export: Action
) -> Action:
    stale = _stale_convert(name, seen, locked, export)
    if stale is None:
        return Action(model, "convert", State.UP_TO_DATE, variant=name)
    reason, detail = stale
    return Action(model, "convert", State.CACHED if seen.cached_key else State.TO_RUN, reason, detail, name)


def _stale_convert(
    name: str, seen: VariantObservation, locked: LockedModel | None, export: Action
) -> tuple[StaleReason, str] | None:
    was = None if locked is None else locked.variants.get(name)
    if was is None:
        return StaleReason.NEW, ""
    if export.state is State.TO_RUN:
        return StaleReason.EXPORT_CHANGED, ""
    for field_name, reason in (
        ("parameters", StaleReason.SPEC_CHANGED),
        ("tools", StaleReason.TOOL_CHANGED),
        ("dependencies", StaleReason.CALIBRATION_CHANGED),
    ):
        now, before = dict(getattr(seen, field_name)), dict(was[field_name])
        if now != before:
            return reason, _changes(before, now)
    return None


def _lay_out(model: str, seen: Observation, locked: LockedModel | None, before: Sequence[Action]) -> Action:
    stale = [a for a in before if a.state is not State.UP_TO_DATE]
    if stale:
        cause = (
            StaleReason.NEW
            if stale[0].reason is StaleReason.NEW and locked is None
            else StaleReason.EXPORT_CHANGED
        )
        return Action(model, "lay_out", State.TO_RUN, cause)
    assert locked is not None
    sources: tuple[tuple[str, StaleReason], ...] = (
        ("spec", StaleReason.SPEC_CHANGED),
        ("template", StaleReason.TEMPLATE_CHANGED),
        ("accuracy", StaleReason.ACCURACY_BOUND_CHANGED),
        ("model_files", StaleReason.SOURCE_CHANGED),
        ("steps", StaleReason.STEP_CHANGED),
    )
    for key, reason in sources:
        if seen.config.get(key) != locked.config.get(key):
            return Action(
                model,
                "lay_out",
                State.TO_RUN,
                reason,
                f"{key} {_short(locked.config.get(key))} → {_short(seen.config.get(key))}",
            )
    if dict(seen.files) != dict(locked.files):
        missing = sorted(locked.files.keys() - seen.files.keys())
        damage = StaleReason.MISSING_ARTIFACT if missing else StaleReason.CORRUPT_ARTIFACT
        return Action(model, "lay_out", State.TO_RUN, damage, _changes(locked.files, seen.files))
    return Action(model, "lay_out", State.UP_TO_DATE)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """`key: old → new` for each key that differs."""
    keys: Sequence[str] = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    return "; ".join(f"{k}: {_short(old.get(k))} → {_short(new.get(k))}" for k in keys)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value)
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}…"
