"""(spec, plan) → artifacts → gates → model_repository/ and lock: runs what is stale and nothing else."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from builder.artifacts import check_source, files_to_serve, is_exported, make_artifact
from builder.cache import Artifact, Cache
from builder.console import note
from builder.ensemble import ensemble_config
from builder.errors import BuildError, GateError, SpecError, TritonsmithError, Where
from builder.judgement import Judgement
from builder.lint import LintOptions, check
from builder.lint.target import Target
from builder.lock import Lock, LockedModel, lock_path, read_lock, write_lock
from builder.model_config import (
    model_config_from_spec,
    model_config_from_text,
    text_from_model_config,
)
from builder.observe import (
    config_digests,
    observe,
)
from builder.plan import Action, BuildPlan, Observation, State, make_plan
from builder.planned import check_planned
from builder.repository import (
    exclusive,
    model_files,
    publish_model,
    refuse_foreign_model,
    remove_model,
    stage_model,
)
from builder.spec import ModelSpec, RepositorySpec, check_model_name, load_spec
from builder.templates import check_user_directory
from builder.tensors import tensor_from_dict
from builder.toolchain import this_toolchain
from builder.variants import BuiltVariant, build_variants, choose, locked_variants

# Where an artifact keeps a directory that was taken over, apart from the cache's own record.
_TAKEN = "model"

Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)"""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Where things are and what is allowed; None means the default.

    target: a Triton release, an image or a live server's URL that all must load on, in place of the spec's own.
    """

    spec: Path
    repository: Path | None = None
    cache: Cache | None = None
    templates: Path | None = None
    overwrite: bool = False
    lint: bool = True
    target: str | None = None


@dataclass(frozen=True, slots=True)
class VariantOutcome:
    """What became of one variant; accuracy: its worst deviation from the fp32 source; judged: what the gate says of it."""

    variant: str
    action: str
    served: bool
    accuracy: Mapping[str, Any]
    error: TritonsmithError | None = None
    judged: Judgement = field(default_factory=Judgement)


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """What became of one model.

    max_deviation: worst relative L2 of the export against its source; None when nothing was judged anew or before.
    """

    model: str
    action: str
    version: int
    directory: Path
    seconds: float
    accuracy: Mapping[str, Any]
    error: TritonsmithError | None = None
    variants: tuple[VariantOutcome, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The whole build; failed models are in outcomes with their error, and their old directory stands untouched."""

    repository: Path
    plan: BuildPlan
    outcomes: tuple[ModelOutcome, ...] = field(default=())

    @property
    def errors(self) -> tuple[TritonsmithError, ...]:
        """The failures, in the spec's order."""
        failed = [o.error for o in self.outcomes]
        failed += [v.error for o in self.outcomes for v in o.variants]
        return tuple(error for error in failed if error is not None)


@dataclass(frozen=True, slots=True)
class Context:
    """All that a build looks at before it changes anything."""

    spec: RepositorySpec
    options: BuildOptions
    cache: Cache
    repository: Path
    lock: Lock
    observed: Mapping[str, Observation]
    target: Target | None


def repository_of(options: BuildOptions) -> Path:
    """The directory to build: as asked, or model_repository/ beside the spec."""
    return (options.repository or options.spec.resolve().parent / "model_repository").absolute()


def plan_build(options: BuildOptions) -> tuple[RepositorySpec, BuildPlan]:
    """What a build would do now; reads only."""
    context = context_of(options)
    plan = make_plan(context.observed, context.lock)
    context.cache.stats.save()
    return context.spec, plan


def build(options: BuildOptions, progress: Progress | None = None) -> BuildResult:
    """Brings the repository up to date with its spec.

    A model that fails is reported and left as it was; the others are built. A build that finds nothing
    stale writes nothing.
    """
    context = context_of(options)
    plan = make_plan(context.observed, context.lock)
    if not plan.stale:
        context.cache.stats.save()
        return BuildResult(
            context.repository, plan, tuple(_unchanged(context, s) for s in context.spec.models)
        )
    tell = progress or (lambda what, done, total: None)
    with exclusive(context.repository) as staging:
        # Another build may have run while this one waited.
        context = context_of(options)
        plan = make_plan(context.observed, context.lock)
        outcomes, lock = _build_models(context, plan, staging, tell)
        for action in plan.actions:
            if action.kind == "remove":
                remove_model(context.repository, action.model, staging)
        write_lock(lock_path(context.spec.path), lock)
    context.cache.stats.save()
    return BuildResult(context.repository, plan, tuple(outcomes))


def context_of(options: BuildOptions) -> Context:
    """Reads and checks the spec, the lock, the sources and the repository; changes nothing."""
    spec = load_spec(options.spec)
    check_user_directory(options.templates)
    cache = options.cache
    assert cache is not None
    repository = repository_of(options)
    for model in spec.models:
        check_source(spec, model)
    target = check_planned(spec, options.target)
    lock = read_lock(lock_path(spec.path))
    observed = observe(spec, lock, cache, this_toolchain(), repository, options.templates)
    return Context(spec, options, cache, repository, lock, observed, target)


def _build_models(
    context: Context, plan: BuildPlan, staging: Path, tell: Progress
) -> tuple[list[ModelOutcome], Lock]:
    outcomes: list[ModelOutcome] = []
    locked = {n: m for n, m in context.lock.models.items() if n in context.observed}
    total = len(context.spec.models)
    for number, spec in enumerate(_in_build_order(context.spec.models)):
        if plan.of(spec.name, "lay_out").state is State.UP_TO_DATE and not _steps_changed(context, spec):
            outcomes.append(_unchanged(context, spec))
            continue
        tell(f"{spec.name}: {_doing(plan.of(spec.name, 'export'))}", number, total)
        started = time.monotonic()
        try:
            outcome, entry = _build_model(context, spec, plan, staging, started)
            if entry is not None:
                locked[spec.name] = entry
                # The lock follows each model, so that a build killed later does not do this one again.
                write_lock(lock_path(context.spec.path), Lock(locked))
        except TritonsmithError as error:
            outcome = _failed(context, spec, error, started)
        outcomes.append(outcome)
    tell("done", total, total)
    asked = [spec.name for spec in context.spec.models]
    return sorted(outcomes, key=lambda outcome: asked.index(outcome.model)), Lock(locked)


def _steps_changed(context: Context, spec: ModelSpec) -> bool:
    """Whether this build gave an ensemble's steps other tensors than it was wired for."""
    if spec.source.kind != "steps":
        return False
    now = config_digests(
        spec, context.spec.root, context.repository, context.options.templates, context.cache
    )
    return now["steps"] != context.observed[spec.name].config["steps"]


def _in_build_order(models: Sequence[ModelSpec]) -> list[ModelSpec]:
    """An ensemble after the models of its steps, so that it is judged with them; else the spec's order."""
    by_name = {m.name: m for m in models}
    ordered: dict[str, ModelSpec] = {}
    entered: set[str] = set()

    def visit(model: ModelSpec) -> None:
        if model.name in entered:
            return  # done, or a cycle, which the lint gate names
        entered.add(model.name)
        for step in _step_models(model):
            if step in by_name:
                visit(by_name[step])
        ordered[model.name] = model

    for model in models:
        visit(model)
    return list(ordered.values())


def _called_models(models: Sequence[ModelSpec], model: ModelSpec) -> list[str]:
    """Names of all models that a request to an ensemble passes through, nested ensembles' steps included."""
    by_name = {m.name: m for m in models}
    found: dict[str, None] = {}
    waiting = _step_models(model)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += _step_models(by_name[name]) if name in by_name else []
    return list(found)


def _step_models(model: ModelSpec) -> list[str]:
    """Names of the models that an ensemble calls; empty for any other."""
    if model.source.steps is not None:
        return [step.model for step in model.source.steps]
    ensemble = model.config.as_proto_json().get("ensemble_scheduling", {})
    return [step["model_name"] for step in ensemble.get("step", ()) if "model_name" in step]


def _doing(export: Action) -> str:
    if export.state is State.UP_TO_DATE:
        return "laying out"
    return (
        "from cache"
        if export.state is State.CACHED
        else f"exporting ({export.reason.value if export.reason else ''})"
    )


def _build_model(
    context: Context, spec: ModelSpec, plan: BuildPlan, staging: Path, started: float
) -> tuple[ModelOutcome, LockedModel | None]:
    refuse_foreign_model(
        context.repository, spec.name, spec.name in context.lock.models or context.options.overwrite
    )
    seen = context.observed[spec.name]
    artifact = context.cache.get(seen.cached_key) if seen.cached_key else None
    action = "laid out" if plan.of(spec.name, "export").state is State.UP_TO_DATE else "from cache"
    if artifact is None:
        artifact = make_artifact(spec, context.spec, context.cache)
        action = "exported" if is_exported(spec) else "taken over"
    judge(spec, artifact.record["accuracy"], context.spec)
    base, chosen = artifact, None
    variants: tuple[BuiltVariant, ...] = ()
    if spec.variants:
        keys = (
            {name: v.cached_key for name, v in seen.variants.items()} if seen.cached_key == base.key else {}
        )
        variants = build_variants(spec, base, keys, context.spec, context.cache)
        try:
            chosen, passed_over = choose(spec, variants, context.spec)
        except TritonsmithError as error:
            refused = _failed(context, spec, error, started)
            return replace(refused, variants=_told(spec, variants, None)), None
        for message in passed_over:
            note(f"warning: {message}; {chosen.name} is served instead")
        assert chosen.artifact is not None
        artifact = chosen.artifact
    text = config_text(context, spec, artifact, chosen)
    served = _served(context, spec, artifact)
    staged = stage_model(staging, spec.name, text, served, artifact.record.get("directories", ()))
    if context.options.lint:
        lint_gate(staged, context.repository, _called_models(context.spec.models, spec), context.target)
    files = model_files(staged, context.cache.stats)
    if files == dict(seen.files):
        # A server that polls need not load it again; and no leftover may stand where an ensemble looks for its steps.
        action = "unchanged"
        shutil.rmtree(staged, ignore_errors=True)
    else:
        publish_model(staged, context.repository)
    entry = LockedModel(
        parameters=seen.parameters,
        tools=base.record["tools"],
        dependencies=base.record["dependencies"],
        key=base.key,
        config=config_digests(
            spec, context.spec.root, context.repository, context.options.templates, context.cache
        ),
        files=files,
        accuracy=_accuracy_summary(base.record["accuracy"]),
        variants=locked_variants(spec, variants),
        served=None if chosen is None else chosen.name,
    )
    directory = context.repository / spec.name
    seconds = time.monotonic() - started
    told = _told(spec, variants, entry.served)
    return ModelOutcome(spec.name, action, 1, directory, seconds, entry.accuracy, variants=told), entry


def _told(
    spec: ModelSpec, variants: Sequence[BuiltVariant], served: str | None
) -> tuple[VariantOutcome, ...]:
    kept = locked_variants(spec, variants)
    return tuple(
        VariantOutcome(
            v.name, v.action, v.name == served, kept.get(v.name, {}).get("accuracy", {}), v.error, v.judgement
        )
        for v in variants
    )


def _served(context: Context, spec: ModelSpec, artifact: Artifact) -> dict[str, Path]:
    """Path in the model's directory → file: the artifact's, and those that the spec adds."""
    served = files_to_serve(artifact)
    for name, file in spec.model_files.items():
        if name in served:
            raise SpecError(
                f"{spec.name}: {name!r} is one of the source's own files",
                code="file_twice",
                where=context.spec.where(spec.name, "model_files", name),
                fix="leave it out, or give it another name",
            )
        served[name] = context.spec.root / file
    return served


def config_text(
    context: Context, spec: ModelSpec, artifact: Artifact, chosen: BuiltVariant | None = None
) -> str:
    """config.pbtxt of an artifact; chosen: the variant it is."""
    inputs = [tensor_from_dict(t) for t in artifact.record["inputs"]]
    outputs = [tensor_from_dict(t) for t in artifact.record["outputs"]]
    if spec.source.kind == "steps":
        message = ensemble_config(spec, _step_configs(context, spec), context.spec)
    else:
        backend = None if chosen is None else spec.variants[chosen.name].backend
        message = model_config_from_spec(spec, inputs, outputs, context.spec, backend)
    return text_from_model_config(
        message, spec_name=context.spec.path.name, templates=context.options.templates
    )


def _step_configs(context: Context, spec: ModelSpec) -> dict[str, Any]:
    """The configs of an ensemble's steps, as they were laid out a moment ago or before."""
    configs: dict[str, Any] = {}
    for step in spec.source.steps or ():
        config = context.repository / step.model / "config.pbtxt"
        if not config.is_file():
            raise BuildError(
                f"{spec.name}: its step {step.model!r} is not in the repository, because it could not be built",
                code="step_missing",
                where=context.spec.where(spec.name, "source", "steps"),
            )
        configs[step.model] = model_config_from_text(config.read_text(encoding="utf-8"), Where(config))
    return configs


def judge(spec: ModelSpec, accuracy: Mapping[str, Any], repository: RepositorySpec) -> None:
    """The accuracy gate: GateError when the export is further from its source than the spec allows."""
    from builder.accuracy import Bounds, report_from_dict

    bounds = Bounds(**spec.accuracy.stated_bounds())
    report = report_from_dict(accuracy)
    failures = (report.judged_by(bounds) if bounds.stated else report).failures
    if failures:
        told = [
            f"{d.output} ({d.runtime}, sample {d.sample}): {', '.join(d.violations)}" for d in failures[:3]
        ]
        raise GateError(
            f"{spec.name}: the export does not answer like its source; " + "; ".join(told),
            code="accuracy",
            where=repository.where(spec.name, "accuracy"),
            fix="accuracy: {relative_l2: …} in the spec, if this is good enough for your use",
        )


def reference_samples_path(options: BuildOptions, model: str) -> Path | None:
    """The .npz of the model's samples with its source's answers, as the last build recorded them; None when it is gone."""
    cache = options.cache
    assert cache is not None
    locked = read_lock(lock_path(options.spec)).models.get(model)
    artifact = None if locked is None else cache.get(locked.key)
    if artifact is None or artifact.record["samples"] is None:
        return None
    return artifact.directory / str(artifact.record["samples"])


def lint_gate(
    directory: Path, repository: Path, steps: Sequence[str] = (), target: Target | None = None
) -> None:
    """GateError when the staged model has a finding of severity error.

    steps: the models that an ensemble calls; they are looked up in the repository that it will join.
    """
    links = [
        directory.parent / s
        for s in dict.fromkeys(steps)
        if check_model_name(s) is None and s != directory.name and (repository / s).is_dir()
    ]
    try:
        for link in links:
            link.symlink_to(repository / link.name, target_is_directory=True)
        errors = [f for f in check([directory], LintOptions(target=target)) if f.severity == "error"]
    finally:
        for link in links:
            link.unlink(missing_ok=True)
    if errors:
        raise GateError(
            f"{directory.name}: Triton would not load this model: "
            + "; ".join(f"{f.rule} {f.message}" for f in errors[:5]),
            code="lint",
            fix=f"tritonsmith check --explain {errors[0].rule}",
        )


def _accuracy_summary(accuracy: Mapping[str, Any]) -> dict[str, Any]:
    from builder.accuracy import report_from_dict

    report = report_from_dict(accuracy)
    worst = report.worst
    if worst is None:
        return {"samples": 0, "note": report.note}
    return {
        "samples": report.samples,
        "relative_l2": worst.relative_l2,
        "cosine": worst.cosine,
        "max_abs": worst.max_abs,
    }


def _unchanged(context: Context, spec: ModelSpec) -> ModelOutcome:
    accuracy = context.lock.models[spec.name].accuracy
    return ModelOutcome(spec.name, "up-to-date", 1, context.repository / spec.name, 0.0, accuracy)


def _failed(context: Context, spec: ModelSpec, error: TritonsmithError, started: float) -> ModelOutcome:
    directory = context.repository / spec.name
    return ModelOutcome(spec.name, "failed", 1, directory, time.monotonic() - started, {}, error)


def disk_full(error: OSError, path: Path) -> BuildError:
    """An OSError for a full or read-only disk as the error people see."""
    return BuildError(
        f"cannot write: {error.strerror}",
        code="disk",
        where=Where(Path(error.filename or path)),
        fix="free space and build again",
    )
