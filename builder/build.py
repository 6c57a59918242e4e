"""(spec, plan) → artifacts → gates → model_repository/ and lock: runs what is stale and nothing else."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from builder.cache import Artifact, Cache
from builder.digest import digest_of_value
from builder.errors import BuildError, GateError, SpecError, TritonsmithError, Where
from builder.export import ExportRequest, ExportResult, run_export
from builder.lint import LintOptions, check
from builder.lock import Lock, LockedModel, lock_path, read_lock, write_lock
from builder.model_config import model_config_from_spec, text_from_model_config
from builder.model_directory import read_model_directory
from builder.observe import (
    config_digests,
    export_parameters,
    export_tools,
    observe,
    portable_name,
)
from builder.package_files import PACKAGE_PREFIX, resolve_package_file
from builder.plan import Action, BuildPlan, Observation, State, action_key, make_plan, request_digest
from builder.repository import (
    exclusive,
    model_files,
    publish_model,
    refuse_foreign_model,
    remove_model,
    stage_model,
)
from builder.spec import ModelSpec, RepositorySpec, check_model_name, load_spec, stated_tensors
from builder.templates import check_user_directory
from builder.tensors import TensorSpec, dtype_from_config, tensor_from_dict
from builder.toolchain import this_toolchain

# Where an artifact keeps a directory that was taken over, apart from the cache's own record.
_TAKEN = "model"

Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)"""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Where things are and what is allowed; None means the default."""

    spec: Path
    repository: Path | None = None
    cache: Cache | None = None
    templates: Path | None = None
    overwrite: bool = False
    lint: bool = True


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


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The whole build; failed models are in outcomes with their error, and their old directory stands untouched."""

    repository: Path
    plan: BuildPlan
    outcomes: tuple[ModelOutcome, ...] = field(default=())

    @property
    def errors(self) -> tuple[TritonsmithError, ...]:
        """The failures, in the spec's order."""
        return tuple(o.error for o in self.outcomes if o.error is not None)


@dataclass(frozen=True, slots=True)
class _Context:
    spec: RepositorySpec
    options: BuildOptions
    cache: Cache
    repository: Path
    lock: Lock
    observed: Mapping[str, Observation]


def repository_of(options: BuildOptions) -> Path:
    """The directory to build: as asked, or model_repository/ beside the spec."""
    return (options.repository or options.spec.resolve().parent / "model_repository").absolute()


def plan_build(options: BuildOptions) -> tuple[RepositorySpec, BuildPlan]:
    """What a build would do now; reads only."""
    context = _context(options)
    plan = make_plan(context.observed, context.lock)
    context.cache.stats.save()
    return context.spec, plan


def build(options: BuildOptions, progress: Progress | None = None) -> BuildResult:
    """Brings the repository up to date with its spec.

    A model that fails is reported and left as it was; the others are built. A build that finds nothing
    stale writes nothing.
    """
    context = _context(options)
    plan = make_plan(context.observed, context.lock)
    if not plan.stale:
        context.cache.stats.save()
        return BuildResult(
            context.repository, plan, tuple(_unchanged(context, s) for s in context.spec.models)
        )
    tell = progress or (lambda what, done, total: None)
    with exclusive(context.repository) as staging:
        # Another build may have run while this one waited.
        context = _context(options)
        plan = make_plan(context.observed, context.lock)
        outcomes, lock = _build_models(context, plan, staging, tell)
        for action in plan.actions:
            if action.kind == "remove":
                remove_model(context.repository, action.model, staging)
        write_lock(lock_path(context.spec.path), lock)
    context.cache.stats.save()
    return BuildResult(context.repository, plan, tuple(outcomes))


def _context(options: BuildOptions) -> _Context:
    spec = load_spec(options.spec)
    check_user_directory(options.templates)
    cache = options.cache
    assert cache is not None
    repository = repository_of(options)
    for model in spec.models:
        _check_source(spec, model)
    lock = read_lock(lock_path(spec.path))
    observed = observe(spec, lock, cache, this_toolchain(), repository, options.templates)
    return _Context(spec, options, cache, repository, lock, observed)


def _check_source(spec: RepositorySpec, model: ModelSpec) -> None:
    """SpecError, with file and line, when a file that the source names is not there."""
    named: list[tuple[str, tuple[str, ...]]] = []
    if model.source.kind != "torch":
        named.append((model.source.reference, ("source", model.source.kind)))
    named += [(name, ("source", "files")) for name in model.source.files]
    named += [(file, ("model_files", name)) for name, file in model.model_files.items()]
    for reference, keys in named:
        where = spec.where(model.name, *keys)
        try:
            path = source_path(reference, spec.root)
        except SpecError as error:
            raise SpecError(
                error.message, code=error.code, where=where, seen=error.seen, valid=error.valid, fix=error.fix
            ) from None
        wanted = "directory" if keys[-1] == "directory" else "file"
        if not (path.is_dir() if wanted == "directory" else path.exists()):
            beside = (
                sorted(p.name for p in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else ()
            )
            raise SpecError(
                f"{model.name}: there is no {wanted} {reference!r}",
                code="source_missing",
                where=where,
                seen=path,
                valid=beside[:10],
            )


def source_path(reference: str, root: Path) -> Path:
    """A file as the spec names it → its path."""
    return resolve_package_file(reference) if reference.startswith(PACKAGE_PREFIX) else root / reference


def _build_models(
    context: _Context, plan: BuildPlan, staging: Path, tell: Progress
) -> tuple[list[ModelOutcome], Lock]:
    outcomes: list[ModelOutcome] = []
    locked = {n: m for n, m in context.lock.models.items() if n in context.observed}
    total = len(context.spec.models)
    for number, spec in enumerate(_in_build_order(context.spec.models)):
        lay_out = plan.of(spec.name, "lay_out")
        if lay_out.state is State.UP_TO_DATE:
            outcomes.append(_unchanged(context, spec))
            continue
        tell(f"{spec.name}: {_doing(plan.of(spec.name, 'export'))}", number, total)
        started = time.monotonic()
        try:
            outcome, entry = _build_model(context, spec, plan, staging, started)
            locked[spec.name] = entry
            # The lock follows each model, so that a build killed later does not do this one again.
            write_lock(lock_path(context.spec.path), Lock(locked))
        except TritonsmithError as error:
            outcome = _failed(context, spec, error, started)
        outcomes.append(outcome)
    tell("done", total, total)
    asked = [spec.name for spec in context.spec.models]
    return sorted(outcomes, key=lambda outcome: asked.index(outcome.model)), Lock(locked)


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
    context: _Context, spec: ModelSpec, plan: BuildPlan, staging: Path, started: float
) -> tuple[ModelOutcome, LockedModel]:
    refuse_foreign_model(
        context.repository, spec.name, spec.name in context.lock.models or context.options.overwrite
    )
    seen = context.observed[spec.name]
    artifact = context.cache.get(seen.cached_key) if seen.cached_key else None
    action = "laid out" if plan.of(spec.name, "export").state is State.UP_TO_DATE else "from cache"
    if artifact is None:
        if spec.source.kind == "directory":
            artifact, action = _take_over(context, spec), "taken over"
        else:
            artifact, action = _export(context, spec), "exported"
    judge(spec, artifact.record["accuracy"], context.spec)
    text = _config_text(context, spec, artifact)
    served = _served(context, spec, artifact)
    staged = stage_model(staging, spec.name, text, served, artifact.record.get("directories", ()))
    if context.options.lint:
        lint_gate(staged, context.repository, _called_models(context.spec.models, spec))
    files = model_files(staged, context.cache.stats)
    publish_model(staged, context.repository)
    entry = LockedModel(
        parameters=seen.parameters,
        tools=artifact.record["tools"],
        dependencies=artifact.record["dependencies"],
        key=artifact.key,
        config=config_digests(spec, context.spec.root, context.options.templates, context.cache),
        files=files,
        accuracy=_accuracy_summary(artifact.record["accuracy"]),
    )
    directory = context.repository / spec.name
    seconds = time.monotonic() - started
    return ModelOutcome(spec.name, action, 1, directory, seconds, entry.accuracy), entry


def _served(context: _Context, spec: ModelSpec, artifact: Artifact) -> dict[str, Path]:
    """Path in the model's directory → file: the artifact's, and those that the spec adds."""
    inside = Path() if spec.source.kind == "directory" else Path("1")
    names: Sequence[str] = artifact.record["served_files"]
    at = artifact.directory / _TAKEN if spec.source.kind == "directory" else artifact.directory
    served = {(inside / name).as_posix(): at / name for name in names}
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


def _take_over(context: _Context, spec: ModelSpec) -> Artifact:
    """A model's directory as it is, into the cache: it is served from there even when the original is gone."""
    root = context.spec.root
    directory = root / spec.source.reference
    content = read_model_directory(directory)
    listing = f"{portable_name(directory, root)}/"
    dependencies = {listing: content.listing_digest}
    extra = [source_path(f, root) for f in spec.source.files]
    for file in (*content.files.values(), *extra):
        dependencies[portable_name(file, root)] = context.cache.stats.digest(file)
    parameters, tools = export_parameters(spec), export_tools(spec, this_toolchain())
    identity = request_digest(parameters, tools)
    key = action_key(identity, dependencies)
    record = {
        "inputs": [],
        "outputs": [],
        "dependencies": dict(sorted(dependencies.items())),
        "accuracy": {"passed": True, "samples": 0, "note": "taken over as it is", "deviations": []},
        "served_files": list(content.files),
        "directories": list(content.directories),
        "samples": None,
        "tools": tools,
    }
    with context.cache.workspace() as made:
        for name, file in content.files.items():
            (made / _TAKEN / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, made / _TAKEN / name)
        artifact = context.cache.put(key, made, record)
        context.cache.remember(identity, dependencies, key)
    return artifact


def _config_text(context: _Context, spec: ModelSpec, artifact: Artifact) -> str:
    inputs = [tensor_from_dict(t) for t in artifact.record["inputs"]]
    outputs = [tensor_from_dict(t) for t in artifact.record["outputs"]]
    message = model_config_from_spec(spec, inputs, outputs, context.spec)
    return text_from_model_config(
        message, spec_name=context.spec.path.name, templates=context.options.templates
    )


def _export(context: _Context, spec: ModelSpec) -> Artifact:
    request = export_request(spec, context.spec)
    log = (
        context.cache.root
        / "logs"
        / f"{digest_of_value([str(context.spec.path.resolve()), spec.name])[:16]}.log"
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    with context.cache.workspace() as directory:
        try:
            result = run_export(request, directory, log)
        except BuildError as error:
            raise _at_source(error, spec, context.spec) from None
        root = context.spec.root
        files = sorted({*result.dependencies, *(str(source_path(f, root)) for f in spec.source.files)})
        dependencies = {portable_name(Path(f), root): context.cache.stats.digest(Path(f)) for f in files}
        parameters, tools = export_parameters(spec), export_tools(spec, this_toolchain())
        identity = request_digest(parameters, tools)
        key = action_key(identity, dependencies)
        record = _record(result, directory, dependencies, tools)
        artifact = context.cache.put(key, directory, record)
        context.cache.remember(identity, dependencies, key)
    return artifact


def _at_source(error: BuildError, spec: ModelSpec, repository: RepositorySpec) -> BuildError:
    """The same error, saying which model of the spec it is about; its own place (the user's code, the file) stays."""
    line = repository.where(spec.name, "source", spec.source.kind)
    message = error.message.removeprefix(f"{spec.name}: ")
    if error.where is None:
        where, prefix = line, spec.name
    else:
        where, prefix = error.where, f"{spec.name} ({line.path.name}:{line.line})"
    return type(error)(
        f"{prefix}: {message}",
        code=error.code,
        where=where,
        seen=error.seen,
        valid=error.valid,
        fix=error.fix,
    )


def export_request(spec: ModelSpec, repository: RepositorySpec) -> ExportRequest:
    """The spec's model as an export to run."""
    reference = spec.source.reference
    samples = spec.accuracy.samples
    if samples is not None and ":" not in samples:
        samples = str(repository.root / samples)
    largest = spec.max_batch_size or 0
    return ExportRequest(
        model=spec.name,
        kind=cast(Any, spec.source.kind),
        reference=reference if spec.source.kind == "torch" else str(source_path(reference, repository.root)),
        search_path=str(repository.root),
        opset=spec.opset,
        max_batch_size=largest,
        inputs=_stated(spec, "input", largest > 0),
        outputs=_stated(spec, "output", largest > 0),
        dynamic_dims={
            n: (d.min, d.opt if d.opt is not None else d.max, d.max) for n, d in spec.dynamic_dims.items()
        },
        samples=samples,
        sample_batch_sizes=tuple(sorted({1, min(3, largest), largest})) if largest > 0 else (),
        seed=0,
    )


def _stated(spec: ModelSpec, kind: Any, batched: bool) -> tuple[TensorSpec, ...]:
    """The spec's tensors with whole shapes; a tensor without dims and data_type is left to the model."""
    return tuple(
        TensorSpec(
            t["name"],
            dtype_from_config(t["data_type"]),
            ("batch", *_model_dims(t)) if batched else tuple(_model_dims(t)),
        )
        for t in stated_tensors(spec, kind)
        if t["name"] and t["data_type"] and t["dims"] is not None
    )


def _model_dims(tensor: Mapping[str, Any]) -> Sequence[int | str]:
    reshape = tensor.get("reshape")
    return tuple(reshape["shape"] or ()) if reshape else tuple(tensor["dims"])


def _record(
    result: ExportResult, directory: Path, dependencies: Mapping[str, str], tools: Mapping[str, str | None]
) -> dict[str, Any]:
    return {
        "inputs": [t.as_dict() for t in result.inputs],
        "outputs": [t.as_dict() for t in result.outputs],
        "opset": result.opset,
        "ir_version": result.ir_version,
        "dependencies": dict(sorted(dependencies.items())),
        "accuracy": result.accuracy.as_dict(),
        "served_files": list(result.files),
        "samples": result.samples_path,
        "tools": dict(tools),
        "seconds": round(result.seconds, 3),
    }


def judge(spec: ModelSpec, accuracy: Mapping[str, Any], repository: RepositorySpec) -> None:
    """The accuracy gate: GateError when the export is further from its source than the spec allows."""
    from builder.accuracy import Bounds, report_from_dict

    bounds = Bounds(**spec.accuracy.model_dump(exclude={"samples"}))
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


def lint_gate(directory: Path, repository: Path, steps: Sequence[str] = ()) -> None:
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
        errors = [f for f in check([directory], LintOptions()) if f.severity == "error"]
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


def _unchanged(context: _Context, spec: ModelSpec) -> ModelOutcome:
    accuracy = context.lock.models[spec.name].accuracy
    return ModelOutcome(spec.name, "up-to-date", 1, context.repository / spec.name, 0.0, accuracy)


def _failed(context: _Context, spec: ModelSpec, error: TritonsmithError, started: float) -> ModelOutcome:
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
