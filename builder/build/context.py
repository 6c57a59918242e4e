"""BuildOptions → Context: the spec, the lock, the sources and the repository as they are; reads only."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tritonsmith.builder.base.errors import SpecError, TritonsmithError, UsageError, Where, nearest, one_for
from tritonsmith.builder.base.machine.machine import Machine, this_machine
from tritonsmith.builder.base.machine.toolchain import this_toolchain
from tritonsmith.builder.build.check_source import callable_faults, source_faults
from tritonsmith.builder.build.target_check import check_planned
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.lint.target import Target
from tritonsmith.builder.model_config.templates import check_user_directory
from tritonsmith.builder.plan.observation import Observation
from tritonsmith.builder.plan.observe import observe
from tritonsmith.builder.plan.order import step_models, with_steps
from tritonsmith.builder.plan.pins import Pins, pinned, pins_of
from tritonsmith.builder.plan.plan import BuildPlan, make_plan
from tritonsmith.builder.plan.prefetch import prefetch
from tritonsmith.builder.repository.lock import Lock, lock_path, read_lock
from tritonsmith.builder.repository.repository import is_what_was_built
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec, load_spec


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Where things are and what is allowed; None means the default.

    target:         a Triton release, an image or a live server's URL that all must load on, in place of the spec's own.
    models:         only these, with the steps of ensembles among them; empty means all.
    locked:         refuse to build anything else than the lock file says.
    update_revisions: ask the hub anew for the commits of names that the spec leaves open.
    artifacts_only: make what is stale into the cache and lay nothing out.
    jobs:           actions that run at once; None: one a CPU.
    memory_bytes:   memory that they may use together; None: what is free.
    timeout_s:      of one action.
    fail_fast:      the first failure ends the build.
    executor:       "local", or "ray" with an optional address: "ray:auto", "ray:ray://HOST:10001".
    """

    spec: Path
    repository: Path | None = None
    cache: Cache | None = None
    templates: Path | None = None
    overwrite: bool = False
    lint: bool = True
    target: str | None = None
    models: tuple[str, ...] = ()
    locked: bool = False
    update_revisions: bool = False
    artifacts_only: bool = False
    jobs: int | None = None
    memory_bytes: int | None = None
    timeout_s: float | None = None
    fail_fast: bool = False
    executor: str = "local"


@dataclass(frozen=True, slots=True)
class Context:
    """All that a build looks at before it changes anything.

    observed:     only the models asked for, but for those in `failures`.
    failures:     why a model could not be observed; what is there of it stays as it is.
    not_as_built: models that left the spec and whose directories are not what the lock says.
    pins:         model → name on the hub as the spec has it, without a commit → the commit that `spec` has instead.
    """

    spec: RepositorySpec
    options: BuildOptions
    cache: Cache
    repository: Path
    lock: Lock
    observed: Mapping[str, Observation]
    target: Target | None
    not_as_built: frozenset[str] = frozenset()
    failures: Mapping[str, TritonsmithError] = field(default_factory=dict)
    pins: Pins = field(default_factory=dict)

    def seen(self, model: str) -> Observation:
        """What is known of the model; raises the error that it could not be observed for."""
        if model in self.failures:
            raise self.failures[model]
        return self.observed[model]

    def plan(self) -> BuildPlan:
        """What a build would do now. Models that left the spec are removed by a build of all."""
        kept = {
            name: model
            for name, model in self.lock.models.items()
            if name in self.observed or not (self.options.models or name in self.failures)
        }
        return make_plan(self.observed, Lock(kept), self.not_as_built, self.failures.values())


def repository_of(options: BuildOptions) -> Path:
    """The directory to build: as asked, or model_repository/ beside the spec; UsageError when that is a link.

    A link comes with a pull request as a lock file does, and together they would name any directory as ours.
    """
    if options.repository is not None:
        return options.repository.absolute()
    beside = options.spec.resolve().parent / "model_repository"
    if beside.is_symlink():
        target = beside.readlink()
        raise UsageError(
            "model_repository beside the spec is a link, and what is built in its place may be replaced",
            code="repository_link",
            where=Where(beside),
            seen=f"-> {target}",
            fix=f"--repository {shlex.quote(str(target))}, if that directory is meant",
        )
    return beside


def plan_build(options: BuildOptions) -> tuple[Context, BuildPlan]:
    """What a build would do now; reads only."""
    context = context_of(options)
    plan = context.plan()
    if plan.stale:  # what a plan that finds nothing stale need not import
        from tritonsmith.builder.build.model.foreseen import with_outlooks

        lock, cache, repository = context.lock, context.cache, context.repository
        plan = with_outlooks(context.spec, plan, context.observed, lock, cache, repository)
    context.cache.stats.save()
    return context, plan


def context_of(options: BuildOptions, machine: Machine | None = None, pins: Pins | None = None) -> Context:
    """Reads and checks the spec, the lock, the sources and the repository; changes nothing.

    machine: that the build is to run on; None for this one. pins: of a build that this one is a part of.
    """
    machine = machine or this_machine()
    spec = load_spec(options.spec)
    asked = _asked(spec, options.models)
    check_user_directory(options.templates)
    cache = options.cache
    assert cache is not None
    repository = repository_of(options)
    _refuse_what_is_not_there(spec, asked)
    lock = read_lock(lock_path(spec.path))
    update = options.update_revisions and pins is None
    spec, pins = pinned(spec, asked, pins or pins_of(lock), options.locked, update)
    target = check_planned(spec, options.target, machine)
    prefetch(spec, cache, this_toolchain(), asked, machine)
    observed, failures = observe(
        spec, lock, cache, this_toolchain(), repository, options.templates, asked, machine
    )
    refused = _refused(spec, observed, lock, cache)
    failures |= refused
    observed = {name: seen for name, seen in observed.items() if name not in refused}
    in_spec = {model.name for model in spec.models}
    not_as_built = frozenset(
        name
        for name, locked in lock.models.items()
        if name not in in_spec
        and os.path.lexists(repository / name)
        and not is_what_was_built(repository / name, locked.files, cache.stats)
    )
    return Context(spec, options, cache, repository, lock, observed, target, not_as_built, failures, pins)


def _refuse_what_is_not_there(spec: RepositorySpec, asked: set[str]) -> None:
    """The SpecError of a file that a model names and that is not there; all others of the kind are in its details."""
    models = [model for model in spec.models if model.name in asked]
    faults = [fault for model in models for fault in source_faults(spec, model)]
    if faults:
        raise one_for([*faults, *(fault for model in models for fault in callable_faults(spec, model))])


def _refused(
    spec: RepositorySpec, observed: Mapping[str, Observation], lock: Lock, cache: Cache
) -> dict[str, TritonsmithError]:
    """Model → why a build of it would fail, as far as that can be told without running anything.

    Only of those that a build would make anew: what was built was checked by the build.
    """
    faults: dict[str, list[SpecError]] = {}
    for model in spec.models:
        seen = observed.get(model.name)
        if seen is not None and not (seen.cached_key and all(v.cached_key for v in seen.variants.values())):
            faults[model.name] = callable_faults(spec, model)
    wired = [m for m in spec.models if m.source.steps is not None and _may_be_wired(m, observed, lock)]
    if wired:  # what a plan that finds nothing stale need not import
        from tritonsmith.builder.build.model.wires import wire_faults

        for model in wired:
            faults[model.name] = wire_faults(model, spec, observed, cache)
    return {name: one_for(found) for name, found in faults.items() if found}


def _may_be_wired(model: ModelSpec, observed: Mapping[str, Observation], lock: Lock) -> bool:
    """Whether an ensemble or a model of its steps is not what the lock says it was built from."""
    if model.name not in observed:
        return False
    for name in (model.name, *step_models(model)):
        seen, locked = observed.get(name), lock.models.get(name)
        if seen is None or locked is None or (seen.cached_key, seen.config) != (locked.key, locked.config):
            return True
    return False


def _asked(spec: RepositorySpec, models: tuple[str, ...]) -> set[str]:
    names = [m.name for m in spec.models]
    for name in models:
        if name not in names:
            guess = nearest(name, names)
            raise UsageError(
                f"{spec.path.name} has no model {name!r}",
                code="unknown_model",
                seen=name,
                valid=names[:20],
                fix=f"did you mean {guess!r}?" if guess else None,
            )
    return with_steps(spec.models, models) if models else set(names)


def reference_samples_path(options: BuildOptions, model: str) -> Path | None:
    """The .npz of the model's samples with its source's answers, as the last build recorded them; None when it is gone."""
    cache = options.cache
    assert cache is not None
    locked = read_lock(lock_path(options.spec)).models.get(model)
    artifact = None if locked is None else cache.get(locked.key, "source")
    if artifact is None or artifact.record["samples"] is None:
        return None
    return artifact.directory / str(artifact.record["samples"])
