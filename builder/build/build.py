"""(spec, plan) → artifacts → gates → model_repository/ and lock: runs what is stale and nothing else."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import GateError, Where
from tritonsmith.builder.base.processes.failure import failure_of, is_full
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.build.context import (
    BuildOptions,
    Context,
    context_of,
    plan_build,
    reference_samples_path,
    repository_of,
)
from tritonsmith.builder.build.execution import Executor, LocalExecutor, Tell, Watch
from tritonsmith.builder.build.layout import failed, lay_out_model, variant_outcomes
from tritonsmith.builder.build.model.make import Made
from tritonsmith.builder.build.results import BuildResult, ModelOutcome
from tritonsmith.builder.plan.observe import config_digests
from tritonsmith.builder.plan.order import in_build_order, step_models
from tritonsmith.builder.plan.pins import with_pins
from tritonsmith.builder.plan.plan import CONSEQUENCES, LOSSES, BuildPlan, State
from tritonsmith.builder.plan.words import why
from tritonsmith.builder.repository.lock import Lock, LockedModel, lock_path, measured_again, write_lock
from tritonsmith.builder.repository.repository import locked, remove_model, staging_beside
from tritonsmith.builder.spec.spec import ModelSpec, load_spec

__all__ = [
    "BuildOptions",
    "BuildResult",
    "Context",
    "build",
    "context_of",
    "plan_build",
    "reference_samples_path",
]

# Between two writes of the lock while models are laid out.
_LOCK_EVERY_S = 1.0


def build(options: BuildOptions, tell: Tell | None = None) -> BuildResult:
    """Brings the repository up to date with its spec.

    A model that fails, whatever it raises, is reported and left as it was; the others are built. Only what no model
    could be laid out after ends it: a full disk under the repository, Ctrl-C. A build that finds nothing stale
    writes nothing. GateError `locked` when options.locked and the spec or a source differs from the lock.
    """
    if options.artifacts_only:
        context, plan = _planned(options)
        return _make_artifacts(context, plan, tell) if plan.stale else _nothing_to_do(context, plan)
    repository = repository_of(options)
    if not repository.parent.is_dir():
        load_spec(options.spec)  # one that cannot be read makes no directory
    # The only plan: another build may have run while this one waited, and the spec and its sources been edited.
    with locked(repository):
        context, plan = _planned(options)
        if not plan.stale:
            if not options.locked:
                _write_pins(context)
            return _nothing_to_do(context, plan)
        with staging_beside(repository) as staging:
            return _laid_out(context, plan, staging, tell)


def _planned(options: BuildOptions) -> tuple[Context, BuildPlan]:
    context = context_of(options)
    plan = context.plan()
    if options.locked:
        _refuse_unlocked(context, plan)
    return context, plan


def _write_pins(context: Context) -> None:
    """What the hub said is kept, also where the same is laid out already."""
    told = with_pins(context.lock, context.observed, context.pins)
    if told != context.lock:
        write_lock(lock_path(context.spec.path), told)


def _nothing_to_do(context: Context, plan: BuildPlan) -> BuildResult:
    context.cache.settle()
    context.cache.stats.save()
    return BuildResult(context.repository, plan, _told(context, _unobserved(context)))


def _laid_out(context: Context, plan: BuildPlan, staging: Path, tell: Tell | None) -> BuildResult:
    run = _Run(context, plan, staging, Watch(len(context.observed), tell or (lambda progress: None)))
    run.build()
    for action in plan.actions:
        if action.kind == "remove":
            remove_model(context.repository, action.model, staging)
        elif action.kind == "forget":
            place = context.repository / action.model
            note(
                f"warning: {place} is not what was built, so it stays, and the lock file forgets it; "
                f"if nothing needs it: rm -r {shlex.quote(str(place))}"
            )
    outcomes = run.outcomes()
    # What was laid out has its commit from there, and what failed stays as it was.
    unchanged = () if context.options.locked else [o.model for o in outcomes if o.action == "up-to-date"]
    write_lock(lock_path(context.spec.path), with_pins(run.lock(), unchanged, context.pins))
    context.cache.stats.save()
    return BuildResult(context.repository, plan, outcomes)


def _make_artifacts(context: Context, plan: BuildPlan, tell: Tell | None) -> BuildResult:
    """Everything stale into the cache; the repository and the lock stay as they are."""
    watch = Watch(len(context.observed), tell or (lambda progress: None))
    outcomes = _unobserved(context)
    stale = {action.model for action in plan.stale}
    with _executor(context, watch, len(stale)) as executor:
        waiting = {
            executor.submit(spec, plan.actions_of(spec.name)): spec
            for spec in context.spec.models
            if spec.name in stale
        }
        if context.failures and context.options.fail_fast:
            executor.stop()
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                spec = waiting.pop(future)
                outcomes[spec.name] = _of_artifacts(context, spec, future)
                watch.settled()
                if outcomes[spec.name].error is not None and context.options.fail_fast:
                    executor.stop()
    context.cache.stats.save()
    return BuildResult(context.repository, plan, _told(context, outcomes))


def _of_artifacts(context: Context, spec: ModelSpec, future: Future[Made]) -> ModelOutcome:
    try:
        made = future.result()
    except CancelledError:
        return _not_built(context, spec)
    except Exception as error:
        return _failed_or_stopped(context, spec, error)
    told = variant_outcomes(spec, made.variants, None)
    rows: Mapping[str, Any] = {} if made.rows is None else made.rows.as_dict()
    return ModelOutcome(spec.name, "cached", 1, made.base.directory, made.seconds, {}, None, told, rows)


def _unobserved(context: Context) -> dict[str, ModelOutcome]:
    """The outcomes of models that failed before anything was made of them."""
    return {
        spec.name: failed(context, spec, context.failures[spec.name], 0.0)
        for spec in context.spec.models
        if spec.name in context.failures
    }


def _told(context: Context, outcomes: Mapping[str, ModelOutcome]) -> tuple[ModelOutcome, ...]:
    """Of every model that was asked for, in the spec's order; those without an outcome were left alone."""
    asked = context.observed.keys() | context.failures.keys()
    return tuple(
        outcomes.get(spec.name) or _unchanged(context, spec)
        for spec in context.spec.models
        if spec.name in asked
    )


def _refuse_unlocked(context: Context, plan: BuildPlan) -> None:
    """GateError when something else is wanted than the lock says; files that were lost may be made again."""
    differing = [a for a in plan.stale if a.reason not in LOSSES and a.reason not in CONSEQUENCES]
    if differing:
        first = differing[0]
        raise GateError(
            f"--locked, but {len({a.model for a in differing})} of {len(context.observed)} models differ from the lock "
            f"file: {first.model}: {first.kind}: {why(first)}",
            code="locked",
            where=Where(lock_path(context.spec.path)),
            fix="tritonsmith build, without --locked, and commit the lock file; tritonsmith plan shows all",
        )


@contextmanager
def _executor(context: Context, watch: Watch, models: int) -> Iterator[Executor]:
    """Where the build's models are made; on the way out, however it comes, nothing of it runs any more."""
    options = context.options
    executor: Executor
    kind, _, address = options.executor.partition(":")
    if kind == "ray":
        from tritonsmith.builder.build.ray_executor import RayExecutor

        executor = RayExecutor(context.spec, context.cache, options, watch, address or None, context.pins)
    else:
        executor = LocalExecutor(context.spec, context.cache, options, watch, models)
    try:
        yield executor
    finally:
        executor.stop()


@dataclass(frozen=True, slots=True)
class _Run:
    """One build: models are made several at a time, and laid out by this thread as soon as their steps are."""

    context: Context
    plan: BuildPlan
    staging: Path
    watch: Watch
    _outcomes: dict[str, ModelOutcome] = field(default_factory=dict)
    _locked: dict[str, LockedModel] = field(default_factory=dict)
    _seldom: Callable[[Callable[[], None]], None] = field(default_factory=lambda: _paced(_LOCK_EVERY_S))

    def build(self) -> None:
        """Settles every model that was asked for; the lock tells of those that are, even when this is broken off."""
        in_spec = {m.name for m in self.context.spec.models}
        self._locked.update({n: m for n, m in self.context.lock.models.items() if n in in_spec})
        self._outcomes.update(_unobserved(self.context))
        try:
            self._settle_all()
        except BaseException:
            with suppress(OSError):
                self._write_lock(at_once=True)
            raise

    def _settle_all(self) -> None:
        context = self.context
        left = [spec for spec in in_build_order(context.spec.models) if spec.name in context.observed]
        stale = [spec for spec in left if not self._is_up_to_date(spec)]
        with _executor(context, self.watch, len(stale)) as executor:
            futures = {spec.name: executor.submit(spec, self.plan.actions_of(spec.name)) for spec in stale}
            if context.failures and context.options.fail_fast:
                executor.stop()
            while left:
                settled = [spec for spec in left if self._may_settle(spec, left, futures)]
                running = [future for future in futures.values() if not future.done()]
                if not settled and running:
                    wait(running, return_when=FIRST_COMPLETED)
                    continue
                # With nothing running, only a cycle of ensembles is left, which the lint gate names.
                spec = (settled or left)[0]
                self._settle(spec, futures, executor)
                left.remove(spec)

    def _is_up_to_date(self, spec: ModelSpec) -> bool:
        return self.plan.of(spec.name, "lay_out").state is State.UP_TO_DATE

    def _may_settle(self, spec: ModelSpec, left: list[ModelSpec], futures: dict[str, Future[Made]]) -> bool:
        """Whether it is made, and no model that it calls waits still."""
        future = futures.get(spec.name)
        if future is not None and not future.done():
            return False
        steps = set(step_models(spec)) - {spec.name}
        # Asked of every model again and again: those that call nobody must not cost a look at all the others.
        return not steps or steps.isdisjoint(other.name for other in left)

    def _settle(self, spec: ModelSpec, futures: dict[str, Future[Made]], executor: Executor) -> None:
        self._outcomes[spec.name] = outcome = self._outcome(spec, futures.get(spec.name), executor)
        self.watch.settled()
        if outcome.error is not None and self.context.options.fail_fast:
            executor.stop()

    def _outcome(self, spec: ModelSpec, future: Future[Made] | None, executor: Executor) -> ModelOutcome:
        made: Made | None = None
        try:
            if future is None:
                if not self._steps_changed(spec):
                    return _unchanged(self.context, spec)
                if executor.stopped:
                    return _not_built(self.context, spec)
                future = executor.submit(spec, self.plan.actions_of(spec.name))
            made = future.result()
            outcome, entry = lay_out_model(self.context, self.plan, spec, made, self.staging)
        except CancelledError:
            return _not_built(self.context, spec)
        except Exception as error:
            if made is not None and is_full(error):
                raise  # the repository's own disk: no other model could be laid out either
            return _failed_or_stopped(self.context, spec, error)
        if entry is not None and not self.context.options.locked:
            self._locked[spec.name] = measured_again(self.context.lock.models.get(spec.name), entry)
            self._write_lock()
        return outcome

    def _write_lock(self, *, at_once: bool = False) -> None:
        """The lock follows the models, so that a build killed later does not do them again; text of all of them at
        each of a thousand models would take longer than the models do."""

        def write() -> None:
            write_lock(lock_path(self.context.spec.path), self.lock())

        if at_once:
            write()
        else:
            self._seldom(write)

    def _steps_changed(self, spec: ModelSpec) -> bool:
        """Whether this build gave an ensemble's steps other tensors than it was wired for."""
        if spec.source.row.reference != "steps":
            return False
        context = self.context
        now = config_digests(spec, context.spec, context.repository, context.options.templates, context.cache)
        return now["steps"] != context.observed[spec.name].config["steps"]

    def lock(self) -> Lock:
        """What the lock file says from now on."""
        return Lock(self._locked)

    def outcomes(self) -> tuple[ModelOutcome, ...]:
        """In the spec's order."""
        return _told(self.context, self._outcomes)


def _paced(seconds: float) -> Callable[[Callable[[], None]], None]:
    """Gives what does a thing at once, then not more often than that, nor for more than a twentieth of the time."""
    due_s = -math.inf

    def do(thing: Callable[[], None]) -> None:
        nonlocal due_s
        begun_s = time.monotonic()
        if begun_s >= due_s:
            thing()
            ended_s = time.monotonic()
            due_s = ended_s + max(seconds, 20 * (ended_s - begun_s))

    return do


def _unchanged(context: Context, spec: ModelSpec) -> ModelOutcome:
    entry = context.lock.models[spec.name]
    directory = context.repository / spec.name
    return ModelOutcome(spec.name, "up-to-date", 1, directory, 0.0, entry.accuracy, rows=entry.rows or {})


def _not_built(context: Context, spec: ModelSpec) -> ModelOutcome:
    return ModelOutcome(spec.name, "not built", 1, context.repository / spec.name, 0.0, {})


def _failed_or_stopped(context: Context, spec: ModelSpec, error: Exception) -> ModelOutcome:
    """What was stopped because another model failed is not built; it has no failure of its own."""
    failure = failure_of(error, spec.name)
    if failure.code.endswith("_cancelled"):
        return _not_built(context, spec)
    return failed(context, spec, failure, 0.0)
