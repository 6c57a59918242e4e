"""(what the spec wants, what the lock says, what is there) → BuildPlan; pure; every stale action carries its reason."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any, Literal

from tritonsmith.builder.actions.compile.target import EngineTarget
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.tabular import Tabular
from tritonsmith.builder.model_config.field_changes import FieldChange
from tritonsmith.builder.plan.changed import Changed, leaves, short, text_of_changes, under_engine
from tritonsmith.builder.plan.observation import EngineObservation, Observation, VariantObservation
from tritonsmith.builder.repository.lock import Lock, LockedModel

ActionKind = Literal[
    "export", "calibrate", "convert", "compile", "accuracy", "render", "lay_out", "remove", "forget"
]


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
    TARGET_CHANGED = "target_changed"
    TEMPLATE_CHANGED = "template_changed"
    ACCURACY_BOUND_CHANGED = "accuracy_bound_changed"
    EXPORT_CHANGED = "export_changed"
    GRAPH_CHANGED = "graph_changed"
    STEP_CHANGED = "step_changed"
    CALIBRATION_CHANGED = "calibration_changed"
    ROWS_UNCHECKED = "rows_unchecked"
    MISSING_ARTIFACT = "missing_artifact"
    CORRUPT_ARTIFACT = "corrupt_artifact"
    REMOVED_FROM_SPEC = "removed_from_spec"


# Reasons that say that something was lost or never looked at, not that anything else is wanted.
LOSSES = frozenset({StaleReason.MISSING_ARTIFACT, StaleReason.CORRUPT_ARTIFACT, StaleReason.ROWS_UNCHECKED})
# Reasons that only hand on what an earlier action of the model said.
CONSEQUENCES = frozenset({StaleReason.EXPORT_CHANGED, StaleReason.GRAPH_CHANGED})
# Actions whose artifacts are in the cache.
MAKES: tuple[ActionKind, ...] = ("export", "calibrate", "convert", "compile")
_LOST = "it is in no cache"
# Sources that are taken over as they are.
_NOT_JUDGED = ("directory", "python", "llm", "steps")
# Tools of an engine that the machine it is meant for decides about.
TARGET_TOOLS = ("tensorrt", "compute_capability", "platform")


@dataclass(frozen=True, slots=True)
class Action:
    """One step for one model; detail tells the value that changed, old → new, as text with digests cut short.

    engine:  of a compilation, what it is for.
    key:     where the cache has its artifact. A build fetches it from there; without one it runs the action.
    changes: the values that changed, whole.
    """

    model: str
    kind: ActionKind
    state: State
    reason: StaleReason | None = None
    detail: str = ""
    variant: str | None = None
    engine: EngineTarget | None = None
    key: str | None = None
    changes: tuple[Changed, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "model": self.model,
            **({} if self.variant is None else {"variant": self.variant}),
            "action": self.kind,
            "state": self.state.value,
            "reason": None if self.reason is None else self.reason.value,
            "detail": self.detail,
            **({} if self.engine is None else {"engine": self.engine.as_dict()}),
            **({"changes": [asdict(change) for change in self.changes]} if self.changes else {}),
        }


class Fate(str, Enum):
    """What becomes of a model as a whole."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a plan foresees beyond a model's actions.

    config:     fields of config.pbtxt that a build would change, as far as they can be told before it; None where nothing can.
    rows_check: what is exported is run in batches, too.
    """

    config: tuple[FieldChange, ...] | None = None
    rows_check: bool = False


@dataclass(frozen=True)
class BuildPlan(Tabular):
    """All actions, in the spec's order.

    errors:   of models that nothing can be said of, which have no action.
    outlooks: of models that change, where they were asked for.
    """

    actions: tuple[Action, ...]
    errors: tuple[TritonsmithError, ...] = ()
    outlooks: Mapping[str, Outlook] = field(default_factory=dict, hash=False)

    @cached_property
    def _of_model(self) -> dict[str, list[Action]]:
        found: dict[str, list[Action]] = {}
        for action in self.actions:
            found.setdefault(action.model, []).append(action)
        return found

    @property
    def stale(self) -> tuple[Action, ...]:
        """Actions that are not up to date."""
        return tuple(a for a in self.actions if a.state is not State.UP_TO_DATE)

    def caption(self) -> str:
        """How many models are stale, and how many nothing can be said of."""
        models = {action.model for action in self.actions}
        failed = f"; {len(self.errors)} could not be looked at" if self.errors else ""
        return f"{len({a.model for a in self.stale})} of {len(models)} models stale{failed}"

    def rows(self) -> list[dict[str, Any]]:
        """One row an action; engine: what a compilation is for."""
        return [
            {"model": a.model, "variant": a.variant, **a.as_dict(), "engine": a.engine and a.engine.name}
            for a in self.actions
        ]

    def fates(self) -> dict[str, Fate]:
        """Every model's, in the order of the actions."""
        return {model: _fate(actions) for model, actions in self._of_model.items()}

    def actions_of(self, model: str) -> tuple[Action, ...]:
        """One model's actions, in the order they run."""
        return tuple(self._of_model.get(model, ()))

    def of(self, model: str, kind: ActionKind, variant: str | None = None) -> Action:
        """One model's action."""
        return next(a for a in self._of_model[model] if (a.kind, a.variant) == (kind, variant))


def _fate(actions: Sequence[Action]) -> Fate:
    last = actions[-1]
    if last.kind in ("remove", "forget"):
        return Fate.REMOVE
    if all(action.state is State.UP_TO_DATE for action in actions):
        return Fate.KEEP
    return Fate.ADD if (last.kind, last.reason) == ("lay_out", StaleReason.NEW) else Fate.CHANGE


def make_plan(
    observed: Mapping[str, Observation],
    lock: Lock,
    not_as_built: Collection[str] = (),
    errors: Iterable[TritonsmithError] = (),
) -> BuildPlan:
    """The plan for every model observed, and for those in the lock that the spec no longer has.

    not_as_built: of the latter, those whose directory is not what the lock says; the lock forgets them, and they stay.
    errors: of models that could not be observed.
    """
    actions: list[Action] = []
    for model, seen in observed.items():
        actions += _model(model, seen, lock.models.get(model))
    for gone in sorted(lock.models.keys() - observed.keys()):
        forget = gone in not_as_built
        detail = "its directory is not what was built, and stays" if forget else ""
        kind: ActionKind = "forget" if forget else "remove"
        actions.append(Action(gone, kind, State.TO_RUN, StaleReason.REMOVED_FROM_SPEC, detail))
    return BuildPlan(tuple(actions), tuple(errors))


def _model(model: str, seen: Observation, locked: LockedModel | None) -> list[Action]:
    export = _action(model, "export", _stale_export(seen, locked), seen.cached_key)
    made = [export]
    for name, variant in seen.variants.items():
        made += _variant(model, name, variant, locked, export)
    accuracy = _accuracy(model, seen, locked, made)
    render = _render(model, seen, locked, made)
    actions = [*made, *accuracy, render, _lay_out(model, seen, locked, [*made, *accuracy, render])]
    return actions if _first_stale(actions) is None else [_to_be_had(action) for action in actions]


def _to_be_had(action: Action) -> Action:
    """Of a model that is laid out anew: what nothing changed of is run again where the cache has lost it."""
    if action.state is State.UP_TO_DATE and action.key is None and action.kind in MAKES:
        return replace(action, state=State.TO_RUN, reason=StaleReason.MISSING_ARTIFACT, detail=_LOST)
    return action


@dataclass(frozen=True, slots=True)
class _Stale:
    reason: StaleReason
    detail: str = ""
    changes: tuple[Changed, ...] = ()


def _action(
    model: str,
    kind: ActionKind,
    stale: _Stale | None,
    cached: str | None,
    variant: str | None = None,
    engine: EngineTarget | None = None,
) -> Action:
    if stale is None:
        return Action(model, kind, State.UP_TO_DATE, None, "", variant, engine, cached)
    state = State.CACHED if cached else State.TO_RUN
    return Action(model, kind, state, stale.reason, stale.detail, variant, engine, cached, stale.changes)


def _to_run(model: str, kind: ActionKind, stale: _Stale) -> Action:
    return _action(model, kind, stale, None)


def _stale_export(seen: Observation, locked: LockedModel | None) -> _Stale | None:
    if locked is None:
        return _Stale(StaleReason.NEW)
    changed = _changed(
        (StaleReason.SPEC_CHANGED, locked.parameters, seen.parameters),
        (StaleReason.TOOL_CHANGED, locked.tools, seen.tools),
        (StaleReason.SOURCE_CHANGED, locked.dependencies, seen.dependencies),
    )
    if changed is not None:
        return changed
    artifact = {k: v for k, v in locked.files.items() if k != "config.pbtxt"}
    present = {k: v for k, v in seen.files.items() if k in artifact}
    if present != artifact:
        missing = sorted(artifact.keys() - present.keys())
        reason = StaleReason.MISSING_ARTIFACT if missing else StaleReason.CORRUPT_ARTIFACT
        names = missing or sorted(k for k in artifact if present[k] != artifact[k])
        return _Stale(reason, ", ".join(names), leaves(artifact, present))
    return None


def _changed(*rows: tuple[StaleReason, Mapping[str, Any], Mapping[str, Any]]) -> _Stale | None:
    """The first row (reason, before, now) whose values differ."""
    for reason, before, now in rows:
        if dict(before) != dict(now):
            return _Stale(reason, text_of_changes(before, now), leaves(before, now))
    return None


def _variant(
    model: str, name: str, seen: VariantObservation, locked: LockedModel | None, export: Action
) -> list[Action]:
    """A variant's calibration, conversion and compilations; the export itself is only ever named anew."""
    was = None if locked is None else locked.variants.get(name)
    if seen.plain:
        return [] if was else [_action(model, "convert", _Stale(StaleReason.NEW), seen.cached_key, name)]
    stale = _stale_graph(seen, was, export)
    # They run as one process; the conversion's identity holds the data's.
    kinds: list[ActionKind] = ["calibrate", "convert"] if seen.is_calibrated else ["convert"]
    actions = [_action(model, kind, stale, seen.cached_key, name) for kind in kinds]
    graph = actions[-1]
    for engine in seen.engines:
        found = _stale_engine(engine, was, graph)
        actions.append(_action(model, "compile", found, engine.cached_key, name, engine.target))
    return actions


def _stale_graph(seen: VariantObservation, was: Mapping[str, Any] | None, export: Action) -> _Stale | None:
    if was is None:
        return _Stale(StaleReason.NEW)
    if export.state is State.TO_RUN:
        return _Stale(StaleReason.EXPORT_CHANGED)
    data = StaleReason.CALIBRATION_CHANGED if seen.is_calibrated else StaleReason.SOURCE_CHANGED
    return _changed(
        (StaleReason.SPEC_CHANGED, was["parameters"], seen.identity.parameters),
        (StaleReason.TOOL_CHANGED, was["tools"], seen.identity.tools),
        (data, was["dependencies"], seen.dependencies),
    )


def _stale_engine(seen: EngineObservation, was: Mapping[str, Any] | None, graph: Action) -> _Stale | None:
    before = None if was is None else was.get("engines", {}).get(seen.target.compute_capability or "")
    if was is None or (before is None and not was.get("engines")):
        return _Stale(StaleReason.NEW)
    if before is None:
        known, now = {"compute_capability": ", ".join(sorted(was["engines"]))}, seen.target.compute_capability
        return _changed((StaleReason.TARGET_CHANGED, known, {"compute_capability": now}))
    if graph.state is State.TO_RUN:
        return _Stale(StaleReason.GRAPH_CHANGED)
    return _changed(
        (StaleReason.SPEC_CHANGED, before["parameters"], seen.identity.parameters),
        (StaleReason.TARGET_CHANGED, _of_target(before["tools"]), _of_target(seen.identity.tools)),
        (StaleReason.TOOL_CHANGED, before["tools"], seen.identity.tools),
    )


def _of_target(tools: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: tools.get(name) for name in TARGET_TOOLS}


def _accuracy(
    model: str, seen: Observation, locked: LockedModel | None, made: Sequence[Action]
) -> list[Action]:
    """The judgement of what was made; it is kept with the artifact, and another bound judges the same numbers again."""
    if seen.parameters.get("kind") in _NOT_JUDGED and not seen.variants:
        return []
    stale = _first_stale(made)
    if stale is not None:
        return [Action(model, "accuracy", stale.state, _cause(stale, locked))]
    bounds = (
        None
        if locked is None
        else _config_change("accuracy", StaleReason.ACCURACY_BOUND_CHANGED, seen, locked)
    )
    return [_action(model, "accuracy", bounds, None)]


_RENDERED_FROM: tuple[tuple[str, StaleReason], ...] = (
    ("spec", StaleReason.SPEC_CHANGED),
    ("template", StaleReason.TEMPLATE_CHANGED),
    ("steps", StaleReason.STEP_CHANGED),
    ("rows", StaleReason.ROWS_UNCHECKED),
)


def _render(model: str, seen: Observation, locked: LockedModel | None, made: Sequence[Action]) -> Action:
    stale = _first_stale(made)
    if locked is None or stale is not None:
        assert stale is not None
        return Action(model, "render", State.TO_RUN, _cause(stale, locked))
    engine = _changed((StaleReason.SPEC_CHANGED, under_engine(locked.engine), under_engine(seen.engine)))
    if engine is not None:
        return _to_run(model, "render", engine)
    for key, reason in _RENDERED_FROM:
        change = _config_change(key, reason, seen, locked)
        if change is not None:
            return _to_run(model, "render", change)
    before, now = ({"config.pbtxt": files.get("config.pbtxt")} for files in (locked.files, seen.files))
    if before != now:
        loss = StaleReason.CORRUPT_ARTIFACT if now["config.pbtxt"] else StaleReason.MISSING_ARTIFACT
        return _to_run(model, "render", _Stale(loss, text_of_changes(before, now), leaves(before, now)))
    return Action(model, "render", State.UP_TO_DATE)


def _lay_out(model: str, seen: Observation, locked: LockedModel | None, before: Sequence[Action]) -> Action:
    stale = _first_stale(before)
    if stale is not None:
        if stale.kind in ("accuracy", "render"):
            return replace(stale, kind="lay_out")
        return Action(model, "lay_out", State.TO_RUN, _cause(stale, locked))
    assert locked is not None
    added = _config_change("model_files", StaleReason.SOURCE_CHANGED, seen, locked)
    if added is not None:
        return _to_run(model, "lay_out", added)
    if dict(seen.files) != dict(locked.files):
        missing = sorted(locked.files.keys() - seen.files.keys())
        damage = StaleReason.MISSING_ARTIFACT if missing else StaleReason.CORRUPT_ARTIFACT
        changed = _Stale(damage, text_of_changes(locked.files, seen.files), leaves(locked.files, seen.files))
        return _to_run(model, "lay_out", changed)
    return Action(model, "lay_out", State.UP_TO_DATE)


def _first_stale(actions: Sequence[Action]) -> Action | None:
    return next((a for a in actions if a.state is not State.UP_TO_DATE), None)


def _cause(stale: Action, locked: LockedModel | None) -> StaleReason:
    """What an action says that is stale because an earlier one is."""
    is_new = locked is None and stale.reason is StaleReason.NEW
    return StaleReason.NEW if is_new else StaleReason.EXPORT_CHANGED


def _config_change(key: str, reason: StaleReason, seen: Observation, locked: LockedModel) -> _Stale | None:
    before, now = locked.config.get(key), seen.config.get(key)
    if before == now:
        return None
    return _Stale(reason, f"{key} {short(before)} → {short(now)}", (Changed(key, before, now),))
