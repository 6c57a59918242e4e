"""(spec, plan, lock, cache, repository) → what each model that changes will have in config.pbtxt, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.action import Artifact, Kind
from tritonsmith.builder.actions.batch_rows import report_from_dict
from tritonsmith.builder.actions.convert.action import kind_of_variant
from tritonsmith.builder.base.errors import ConfigError, TritonsmithError
from tritonsmith.builder.base.files.untrusted import read_bounded
from tritonsmith.builder.build.model.engines import BuiltEngine
from tritonsmith.builder.build.model.gate_of_rows import is_inferred, unbatched
from tritonsmith.builder.build.model.variant_config import config_message
from tritonsmith.builder.build.model.variants import BuiltVariant
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.model_config.field_changes import field_changes
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.builder.plan.observation import Observation
from tritonsmith.builder.plan.observe import served_before
from tritonsmith.builder.plan.order import in_build_order, step_models
from tritonsmith.builder.plan.plan import Action, BuildPlan, Fate, Outlook, StaleReason, State
from tritonsmith.builder.repository.lock import Lock, LockedModel
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def with_outlooks(
    spec: RepositorySpec,
    plan: BuildPlan,
    observed: Mapping[str, Observation],
    lock: Lock,
    cache: Cache,
    repository: Path,
) -> BuildPlan:
    """The plan with an Outlook of every model that is added or changed; reads only, and of the cache only what is local.

    What an export will give is not known before it: until then the tensors are taken to be those of the last one.
    An ensemble that will be wired anew, because its steps come out otherwise, is stale in it.
    """
    look = _Look(spec, plan, lock, cache, repository)
    fates = plan.fates()
    found: dict[str, Outlook] = {}
    for model in in_build_order(spec.models):
        fate = fates.get(model.name)
        follows = fate is Fate.KEEP and any(step in found for step in step_models(model))
        if follows or fate in (Fate.ADD, Fate.CHANGE):
            meant = look.meant(model)
            laid_out = None if fate is Fate.ADD else look.laid_out(model.name)
            known = meant is not None and laid_out is not None
            changes = tuple(field_changes(laid_out, meant)) if known else None
            if changes or not follows:
                found[model.name] = Outlook(changes, "rows" in observed[model.name].config)
    wired = {name for name in found if fates[name] is Fate.KEEP}
    actions = tuple(_wired_anew(a) if a.model in wired else a for a in plan.actions)
    return replace(plan, actions=actions, outlooks=found)


def _wired_anew(action: Action) -> Action:
    if action.kind not in ("render", "lay_out"):
        return action
    return replace(action, state=State.TO_RUN, reason=StaleReason.STEP_CHANGED)


@dataclass(frozen=True, slots=True)
class _Look:
    spec: RepositorySpec
    plan: BuildPlan
    lock: Lock
    cache: Cache
    repository: Path
    foreseen: dict[str, Any] = field(default_factory=dict)
    """Model → its ModelConfig after a build, None where it cannot be told; of an ensemble its steps' come before."""

    def laid_out(self, name: str) -> Any:
        """The ModelConfig that lies in the repository; None when there is none that can be read."""
        try:
            return model_config_from_text(read_bounded(self.repository / name / "config.pbtxt").decode())
        except (OSError, ValueError, ConfigError):
            return None

    def meant(self, model: ModelSpec) -> Any:
        """The ModelConfig that a build would lay out; None when it cannot be told, or the build would refuse it."""
        try:
            message = self._meant(model)
        except TritonsmithError:
            message = None
        self.foreseen[model.name] = message
        return message

    def _meant(self, model: ModelSpec) -> Any:
        if model.source.row.reference == "steps":
            names = [step.model for step in model.source.steps or ()]
            steps = {n: self.foreseen[n] if n in self.foreseen else self.laid_out(n) for n in names}
            return None if None in steps.values() else config_message(model, {}, None, steps, self.spec)
        locked = self.lock.models.get(model.name)
        artifact = self._artifact(self.plan.of(model.name, "export").key, locked)
        if artifact is None:
            return None
        if (
            locked is not None
            and locked.rows
            and is_inferred(model)
            and report_from_dict(locked.rows).in_doubt
        ):
            model = unbatched(model)
        if not model.variants:
            return config_message(model, artifact.record, None, {}, self.spec)
        chosen = self._chosen(model, locked, artifact)
        if chosen is None or chosen.artifact is None:
            return None
        return config_message(model, chosen.artifact.record, chosen, {}, self.spec)

    def _artifact(self, key: str | None, locked: LockedModel | None) -> Artifact | None:
        """The source's as it is now, or as it was built last."""
        return self._first("source", key, None if locked is None else locked.key)

    def _first(self, kind: Kind, *keys: str | None) -> Artifact | None:
        found = (self.cache.get_here(key, kind) for key in keys if key is not None)
        return next((artifact for artifact in found if artifact is not None), None)

    def _chosen(self, model: ModelSpec, locked: LockedModel | None, base: Artifact) -> BuiltVariant | None:
        name = served_before(model, locked)
        assert name is not None
        graph, engines = base, list[BuiltEngine]()
        for action in () if model.variants[name].is_source else self._actions(model, name, "convert"):
            was = None if locked is None or name not in locked.variants else locked.variants[name]["key"]
            made = self._first(kind_of_variant(model, name), action.key, was)
            if made is None:
                return None
            graph = made
        for action in self._actions(model, name, "compile"):
            built = None if action.key is None else self.cache.get_here(action.key, "compile")
            if built is None or action.engine is None:
                return None
            engines.append(BuiltEngine(action.engine, built, True))
        if model.variants[name].backend == "tensorrt" and not engines:
            return None
        return BuiltVariant(name, graph, "from cache", engines=tuple(engines))

    def _actions(self, model: ModelSpec, variant: str, kind: str) -> list[Action]:
        return [a for a in self.plan.actions_of(model.name) if (a.variant, a.kind) == (variant, kind)]
