"""The arms of a sweep on a live server: what is loaded under which name, and what a trial looks at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import (
    ServerError,
    ToolError,
    TrialError,
    TritonsmithError,
    UsageError,
)
from tritonsmith.perf.data import ModelInterface, interface_from_metadata
from tritonsmith.perf.data.interface import composing_models
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import Server
from tritonsmith.perf.server.stubs.deaths import Death, Stubs
from tritonsmith.perf.sweep.attached.changes import Changes, ModelBefore, ServerBefore
from tritonsmith.perf.sweep.language import check_engine
from tritonsmith.perf.sweep.plan import Arm, Placement, SweepSpec
from tritonsmith.perf.sweep.plan.config_changes import config_changes
from tritonsmith.perf.sweep.plan.config_path import ENGINE, is_of_engine
from tritonsmith.perf.sweep.run import scratch
from tritonsmith.perf.sweep.trial import MemberConfig, Subject, apply_config, instance_count, member_config
from tritonsmith.perf.usage.consumption import energy_j


@dataclass(frozen=True, slots=True)
class Found:
    """What the server says before anything is changed.

    current, metadata: of the swept model. interface: of the model that gets the load. variants: name → config.
    beside: model → interface. composing: of the others in the space, name → config.
    refused: variants that Triton does not load, with its reason; their configs are as they state them.
    overrides: models that were served with another config than their repository has → where that differed.
    members: the other models that the ensemble under load is composed of, those of ensembles inside it too.
    """

    current: Mapping[str, Any]
    metadata: Mapping[str, Any]
    interface: ModelInterface
    variants: Mapping[str, Mapping[str, Any]]
    beside: Mapping[str, ModelInterface]
    composing: Mapping[str, Mapping[str, Any]]
    refused: Mapping[str, TrialError] = field(default_factory=dict)
    overrides: Mapping[str, Sequence[str]] = field(default_factory=dict)
    members: Mapping[str, MemberConfig] = field(default_factory=dict)


class ArmServer:
    """One server and the models that a sweep loads on it.

    source:  the model's directory, None when its files are elsewhere.
    scratch: one of the server's repositories to write to, None when there is none.
    changes: of a server that others share.
    """

    placement: Placement = "in_place"

    def __init__(
        self,
        spec: SweepSpec,
        server: Server,
        source: Path | None,
        scratch: Path | None,
        changes: Changes | None = None,
    ) -> None:
        self.spec = spec
        self.server = server
        self.source = source
        self.scratch = scratch
        self.changes = changes
        self.applied: Arm | None = None  # in place: the arm that serves
        self._loaded_before: set[str] = set()
        self._ours: set[str] = set()
        self._others: tuple[str, ...] = ()
        self._tells_energy = False
        self._changed = False
        self._served: dict[str, Mapping[str, Any]] = {}
        self._stubs = _stubs_of(server)
        self._dead: dict[str, Death] = {}

    @property
    def others(self) -> tuple[str, ...]:
        """Models at work that are not the swept one: its ensemble and what that is composed of, models beside."""
        return self._others

    @property
    def _ensemble(self) -> tuple[str, ...]:
        """The model that gets the load, where it is not the swept one itself."""
        return (self.spec.load_model,) if self.spec.load_model else ()

    @property
    def url(self) -> str:
        """HTTP host:port."""
        return self.server.http_url

    def name_of(self, arm: Arm) -> str:
        """The model's name on the server that stands for the arm."""
        if self.placement == "side_by_side" or _engine_of(arm) is not None:
            return scratch.scratch_name(self.spec.model, arm)
        return f"{self.spec.model}__{arm.variant}" if arm.variant else self.spec.model

    def subject(self, arm: Arm) -> Subject:
        """What a trial of this arm puts under load and looks at."""
        name = self.name_of(arm)
        target = self.spec.load_model or name
        return Subject(
            self.server, self.url, target, name, self._others, self.server.metrics_url, self._tells_energy
        )

    # Before the first arm.

    def look(self) -> Found:
        """Load what is involved as it is and read it; UsageError for what cannot be swept."""
        spec, url = self.spec, self.url
        involved = [spec.model, *spec.composing, *self._ensemble, *spec.beside]
        self._loaded_before = {name for name in involved if control.is_model_ready(url, name)}
        overrides = {} if self.changes is None else self._begin(self.changes, involved)
        for name in involved:
            control.load_model(url, name)
        current = scratch.with_engine(control.model_config(url, spec.model), self.source)
        check_engine(spec, current, has_scratch=self.scratch is not None)
        target = control.model_config(url, spec.target)
        inside = self._inside(target)
        composing = list(inside)
        for name in (spec.model, *spec.composing) if spec.load_model and composing else ():
            if name not in composing:
                raise UsageError(
                    f"'{name}' is no composing model of the ensemble '{spec.load_model}'",
                    code="not_composing",
                    seen=name,
                    valid=composing,
                )
        names = (*self._ensemble, *composing, *spec.beside)
        self._others = tuple(dict.fromkeys(name for name in names if name != spec.model))
        self._tells_energy = energy_j(self.server.metrics_url, self.server.pid) is not None
        if spec.objective == "energy" and not self._tells_energy:
            raise ToolError(
                "the server tells no GPU energy, so there is no objective energy",
                code="no_gpu_metrics",
                seen=f"no nv_energy_consumption at {self.server.metrics_url or 'its metrics port'}/metrics, nor by NVML",
                fix="--objective throughput, or a server with a GPU and GPU metrics",
            )
        if spec.max_memory_mib is not None and self.server.pid is None:
            raise UsageError(
                "the memory of a server elsewhere cannot be seen",
                code="no_memory",
                fix="sweep with --launch embedded or binary:PATH, or without --max-memory",
            )
        metadata = control.model_metadata(url, spec.model)
        variants: dict[str, Mapping[str, Any]] = {}
        refused: dict[str, TrialError] = {}
        for name, path in spec.variants.items():
            try:
                variants[name] = self._look_at_variant(name, Path(path), metadata)
            except TrialError as error:  # noqa: PERF203
                variants[name] = {**current, **(scratch.config_of(Path(path)) or {})}
                refused[name] = error
        return Found(
            current,
            metadata,
            interface_from_metadata(control.model_metadata(url, spec.target), target),
            variants,
            {
                name: interface_from_metadata(
                    control.model_metadata(url, name), control.model_config(url, name)
                )
                for name in spec.beside
            },
            {name: control.model_config(url, name) for name in spec.composing},
            refused,
            overrides,
            {
                name: member_config(config)
                for name, config in inside.items()
                if name != spec.model and not composing_models(config)
            },
        )

    def _inside(self, ensemble: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The models that it is composed of → their configs, those of ensembles inside it too; none of another model."""
        found: dict[str, dict[str, Any]] = {}
        waiting = [*composing_models(ensemble)]
        while waiting:
            name = waiting.pop(0)
            if name not in found:
                found[name] = control.model_config(self.url, name)
                waiting += composing_models(found[name])
        return found

    def _begin(self, changes: Changes, involved: Sequence[str]) -> dict[str, Sequence[str]]:
        """Notes what a server that others share has loaded, then loads what is swept with its own config."""
        ours = (self.spec.model, *self.spec.composing)
        served = {
            name: control.model_config(self.url, name) if name in self._loaded_before else None
            for name in involved
        }
        changes.begin(
            ServerBefore(
                self.url, models={name: ModelBefore(config, name in ours) for name, config in served.items()}
            )
        )
        differing = {name: changes.load_own(name) for name in dict.fromkeys(ours) if served[name] is not None}
        return {name: fields for name, fields in differing.items() if fields}

    def _look_at_variant(self, name: str, directory: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The variant's own config as Triton completes it; UsageError when its inputs or outputs differ, TrialError
        when Triton does not load it."""
        if self.scratch is None:
            raise UsageError(
                "variants need a server of this machine",
                code="no_scratch",
                fix="--launch embedded or binary:PATH",
            )
        if not directory.is_dir():
            raise UsageError(f"variant {name} is no model directory", code="variant_missing", seen=directory)
        model = f"{self.spec.model}__{name}"
        scratch.make_scratch_model(directory, self.scratch, model)
        self._ours.add(model)
        config = scratch.config_of(directory)
        control.load_model(self.url, model, None if config is None else {**config, "name": model})
        completed = scratch.with_engine(control.model_config(self.url, model), directory)
        seen = control.model_metadata(self.url, model)
        control.unload_model(self.url, model)
        for side in ("inputs", "outputs"):
            ours, theirs = _tensors(metadata, side), _tensors(seen, side)
            if ours != theirs:
                raise UsageError(
                    f"variant {name} has other {side} than '{self.spec.model}'",
                    code="variant_differs",
                    seen="; ".join(theirs),
                    valid=["; ".join(ours)],
                )
        return completed

    # Arms.

    def load(self, arms: Sequence[Arm]) -> dict[str, TritonsmithError]:
        """Side by side: load them, two at a time; arm id → error of those refused. In place: nothing."""
        if self.placement == "in_place":
            return {}
        assert self.scratch is not None and self.source is not None
        self._changed = True
        for arm in arms:
            self._make(arm)
        if self.spec.model not in self.spec.beside:
            control.unload_model(self.url, self.spec.model)
        pool = ThreadPoolExecutor(2)
        try:
            errors = pool.map(self._load_one, arms)
            return {arm.id: error for arm, error in zip(arms, errors, strict=True) if error is not None}
        finally:
            # After Ctrl-C nothing waits for a load, which may take minutes: the server ends, and its answer with it.
            pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, arm: Arm) -> None:
        """The arm's scratch model, not loaded yet."""
        directory = Path(self.spec.variants[arm.variant]) if arm.variant else self.source
        assert self.scratch is not None and directory is not None
        scratch.make_scratch_model(directory, self.scratch, self.name_of(arm), _engine_of(arm))
        self._ours.add(self.name_of(arm))

    def _load_one(self, arm: Arm) -> TritonsmithError | None:
        try:
            apply_config(self.server, self.url, self.name_of(arm), arm)
        except TritonsmithError as error:
            return error
        return None

    def unload(self, arms: Iterable[Arm]) -> None:
        """Side by side: give the memory of these arms back."""
        if self.placement == "side_by_side":
            self._unload(self.name_of(arm) for arm in arms)

    def apply(self, arm: Arm) -> None:
        """In place: make the arm the one that serves. Raises TrialError with Triton's reason."""
        if self.placement != "in_place" or self.applied is arm:
            return
        before, self.applied = self.applied, None
        self._changed = True
        name = self.name_of(arm)
        if before is not None and self.name_of(before) != name:
            control.unload_model(self.url, self.name_of(before))
        elif before is not None and (before.config, before.others) == (arm.config, arm.others):
            self.applied = arm
            return
        if arm.variant or _engine_of(arm) is not None:
            self._make(arm)
        if before is None or (self.name_of(before), before.config) != (name, arm.config):
            apply_config(self.server, self.url, name, arm, before=instance_count(arm.config))
        for other, config in arm.others.items():
            if before is None or before.others.get(other) != config:
                changed = Arm(arm.id, arm.label, arm.other_settings.get(other, {}), config)
                apply_config(self.server, self.url, other, changed, before=instance_count(config))
        if self.spec.load_model:
            control.load_model(self.url, self.spec.load_model)
        if self.changes is not None:
            self._served = {n: control.model_config(self.url, n) for n in (name, *arm.others)}
        self.applied = arm

    def check_unchanged(self) -> None:
        """ServerError when another client loaded a model of the arm with another config while a trial ran.

        A sweep of another machine is not seen by any lock, and what was measured under it is of no arm.
        """
        for name, config in self._served.items():
            differing = config_changes(config, control.model_config(self.url, name))
            if differing:
                raise ServerError(
                    f"another client changed '{name}' on {self.url} during a trial: {'; '.join(differing)}",
                    code="server_shared",
                    fix="one sweep of a server at a time, from whatever machine",
                )

    def check_stubs(self, arm: Arm) -> None:
        """TrialError when a Python stub died of a model that the arm's trials need; that model is loaded again first.

        To be called before a trial and after it: with what is left of its instances a model is another, and slower.
        """
        if self._stubs is None:
            return
        if died := self._stubs.settled():
            names = [row.name for row in control.repository_index(self.url)]
            self._dead |= {death.stub.model_of(names): death for death in died}
        needed = [name for name in (self.name_of(arm), *self._others) if name in self._dead]
        if not needed:
            return
        said = [f"model '{name}': {self._dead[name].sentence}" for name in needed]
        for name in needed:
            del self._dead[name]
            try:
                control.reload_model(self.url, name)
            except TrialError as error:
                said.append(error.message)
        raise TrialError("; ".join(said), code="stub_died")

    def restarted(self, server: Server) -> None:
        """The server is a new one: nothing is loaded on it."""
        self.server = server
        self.applied = None
        self._stubs = _stubs_of(server)
        self._dead = {}
        for name in self._others:
            control.load_model(self.url, name)

    def leave_as_found(self) -> None:
        """Unload the scratch models and give the model its own config back."""
        if self.changes is not None:
            self.changes.restore(swept=self._changed)
            return
        if not self.server.alive():
            return
        spec = self.spec
        ours = (spec.model, *spec.composing)
        involved = (*self._ensemble, *ours, *spec.beside)
        # An override stays until its model is unloaded, so a changed model is loaded afresh.
        again = set(ours) if self._changed else set()
        self._unload([*self._ours, *(n for n in involved if n in again or n not in self._loaded_before)])
        for name in (*again, *self._ensemble):
            if name in self._loaded_before:
                control.load_model(self.url, name)

    def _unload(self, names: Iterable[str]) -> None:
        loaded = {row.name for row in control.repository_index(self.url) if row.state == "READY"}
        with ThreadPoolExecutor(8) as pool:  # a stub takes a second or two to end
            list(
                pool.map(lambda name: control.unload_model(self.url, name), [n for n in names if n in loaded])
            )


def _stubs_of(server: Server) -> Stubs | None:
    return None if server.pid is None else Stubs(server.pid)


def widest(interface: ModelInterface, arms: Sequence[Arm]) -> ModelInterface:
    """The interface with the largest max_batch_size of the arms: each request fits the arms it is meant for."""
    most = max((int(arm.config.get("max_batch_size", 0)) for arm in arms), default=0)
    return replace(interface, max_batch_size=max(interface.max_batch_size, most))


def _engine_of(arm: Arm) -> Mapping[str, Any] | None:
    """What model.json is to hold where the arm changes it."""
    return arm.config[ENGINE] if any(is_of_engine(path) for path in arm.settings) else None


def _tensors(metadata: Mapping[str, Any], side: str) -> list[str]:
    return sorted(f"{t['name']} {t['datatype']} {[int(d) for d in t['shape']]}" for t in metadata[side])
