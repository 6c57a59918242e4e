"""(Made, the spec) → the model's directory in the repository, behind the accuracy and lint gates, and its entry in the lock."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.action import Artifact
from tritonsmith.builder.base.errors import BuildError, GateError, SpecError, TritonsmithError, Where
from tritonsmith.builder.base.files.disk import clear_away, delete
from tritonsmith.builder.base.files.untrusted import fault_of_model_name
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.build.context import Context
from tritonsmith.builder.build.model.gate_of_export import accuracy_summary
from tritonsmith.builder.build.model.gate_of_rows import is_inferred, unbatched
from tritonsmith.builder.build.model.make import Made
from tritonsmith.builder.build.model.variant_config import config_message
from tritonsmith.builder.build.model.variants import (
    BuiltVariant,
    choose,
    locked_variants,
    served_files,
)
from tritonsmith.builder.build.results import ModelOutcome, VariantOutcome
from tritonsmith.builder.lint.deep.sessions import Loaded
from tritonsmith.builder.lint.target import Target, target_of_backend
from tritonsmith.builder.model_config.language_model import argument_files, as_variant, engine_arguments
from tritonsmith.builder.model_config.model_config import (
    model_config_from_text,
    text_from_model_config,
)
from tritonsmith.builder.plan.observe import config_digests
from tritonsmith.builder.plan.order import called_models
from tritonsmith.builder.plan.plan import BuildPlan, State
from tritonsmith.builder.repository.lock import LockedModel
from tritonsmith.builder.repository.repository import (
    has_trace_of_build,
    model_files,
    note_placed,
    publish_model,
    refuse_foreign_model,
    stage_model,
    was_placed,
)
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def lay_out_model(
    context: Context, plan: BuildPlan, spec: ModelSpec, made: Made, staging: Path
) -> tuple[ModelOutcome, LockedModel | None]:
    """Stages the model, lints it and makes it visible; what becomes of the lock's entry is the caller's.

    No entry when no variant passes its gate. TritonsmithError when a gate refuses or something cannot be written.
    """
    started = time.monotonic() - made.seconds
    is_locked = spec.name in context.lock.models
    there = context.observed[spec.name].files
    ours = context.options.overwrite or was_placed(staging, spec.name, there)
    if is_locked and not ours:
        ours = has_trace_of_build(context.repository / spec.name, there, context.lock.models[spec.name].files)
    refuse_foreign_model(context.repository, spec.name, ours)
    chosen: BuiltVariant | None = None
    if made.variants:
        try:
            chosen, passed_over = choose(spec, made.variants, context.spec)
        except TritonsmithError as error:
            told = variant_outcomes(spec, made.variants, None)
            return failed(context, spec, error, time.monotonic() - started, told), None
        for message in passed_over:
            note(f"warning: {message}; {chosen.name} is served instead")
    artifact = made.base if chosen is None or chosen.artifact is None else chosen.artifact
    refused = made.rows is not None and made.rows.in_doubt and is_inferred(spec)
    text = config_text(context, unbatched(spec) if refused else spec, artifact, chosen)
    texts = argument_files(as_variant(spec, None if chosen is None else chosen.name), context.spec)
    files = _served(context, spec, artifact, chosen, texts)
    staged = stage_model(staging, spec.name, text, files, artifact.record.get("directories", ()), texts)
    if context.options.lint:
        called = called_models(context.spec.models, spec)
        place = partial(_place_of, context.spec, spec.name)
        backend = spec.config.as_proto_json().get("backend") or spec.source.row.backend
        target = None if context.target is None else target_of_backend(context.target, backend)
        lint_gate(staged, context.repository, called, target, place, made.loaded)
    entry = _entry(context, spec, made, chosen, staged)
    _refuse_rotten(context, spec, artifact, files, entry)
    if context.options.locked:
        _refuse_another(context, spec, entry)
    action = _action(plan, spec, made)
    if dict(entry.files) == dict(there):
        # A server that polls need not load it again; and no leftover may stand where an ensemble looks for its steps.
        action = "unchanged"
        clear_away(staged)
    else:
        if not is_locked:
            note_placed(staging, spec.name, entry.files)
        publish_model(staged, context.repository)
    outcome = ModelOutcome(
        spec.name,
        action,
        1,
        context.repository / spec.name,
        time.monotonic() - started,
        entry.accuracy,
        variants=variant_outcomes(spec, made.variants, entry.served),
        rows=entry.rows or {},
    )
    return outcome, entry


def failed(
    context: Context,
    spec: ModelSpec,
    error: TritonsmithError,
    seconds: float,
    variants: tuple[VariantOutcome, ...] = (),
) -> ModelOutcome:
    """The outcome of a model that could not be built; its directory stands as it was."""
    directory = context.repository / spec.name
    return ModelOutcome(spec.name, "failed", 1, directory, seconds, {}, error, variants)


def variant_outcomes(
    spec: ModelSpec, variants: Sequence[BuiltVariant], served: str | None
) -> tuple[VariantOutcome, ...]:
    """What is told of the variants."""
    kept = locked_variants(spec, variants)
    return tuple(
        VariantOutcome(
            v.name,
            v.action,
            v.name == served,
            kept[v.name]["accuracy"] if v.name in kept else {},
            v.error,
            v.judgement,
            kept[v.name].get("coverage", {}) if v.name in kept else {},
        )
        for v in variants
    )


def _action(plan: BuildPlan, spec: ModelSpec, made: Made) -> str:
    if made.action != "from cache":
        return made.action
    return "laid out" if plan.of(spec.name, "export").state is State.UP_TO_DATE else "from cache"


def _entry(
    context: Context, spec: ModelSpec, made: Made, chosen: BuiltVariant | None, staged: Path
) -> LockedModel:
    return LockedModel(
        parameters=context.observed[spec.name].parameters,
        tools=made.base.record["tools"],
        dependencies=made.base.record["dependencies"],
        key=made.base.key,
        # Read anew: an ensemble's steps may have been laid out a moment ago.
        config=config_digests(
            spec, context.spec, context.repository, context.options.templates, context.cache
        ),
        files=model_files(staged, context.cache.stats),
        accuracy=accuracy_summary(made.base.record["accuracy"]),
        variants=locked_variants(spec, made.variants),
        served=None if chosen is None else chosen.name,
        rows=None if made.rows is None else made.rows.as_dict(),
        exporter=made.base.record.get("exporter"),
        engine=engine_arguments(as_variant(spec, None if chosen is None else chosen.name), context.spec),
        pinned=context.pins.get(spec.name, {}),
    )


def _refuse_rotten(
    context: Context, spec: ModelSpec, artifact: Artifact, files: Mapping[str, Path], entry: LockedModel
) -> None:
    """BuildError when a copy has other bytes than were put into the cache, though the file's stat shows no change."""
    for name, file in files.items():
        if not file.is_relative_to(artifact.directory):
            continue
        stored = artifact.files.get(file.relative_to(artifact.directory).as_posix())
        if stored is not None and stored != entry.files.get(name):
            context.cache.discard(artifact.key, f"{name} was copied with other bytes than were stored")
            raise BuildError(
                f"{spec.name}: {name} came out of the cache with other bytes than were put in",
                code="corrupt_artifact",
                where=Where(file),
                fix="tritonsmith build makes it anew; look after the disk, and run tritonsmith cache verify",
            )


def _refuse_another(context: Context, spec: ModelSpec, entry: LockedModel) -> None:
    """GateError when what is about to be laid out is not what the lock says, byte for byte."""
    locked = context.lock.models[spec.name]
    differing = sorted(
        name
        for name in entry.files.keys() | locked.files.keys()
        if entry.files.get(name) != locked.files.get(name)
    )
    if not differing and entry.key == locked.key:
        return
    engine = any(name.endswith(".plan") for name in differing)
    raise GateError(
        f"{spec.name}: --locked, but what was made is not what the lock file says",
        code="locked",
        where=Where(context.spec.path),
        seen=", ".join(differing) or f"key {entry.key[:12]}",
        fix="engines differ from build to build: give the --remote-cache that has the locked one"
        if engine
        else "tritonsmith build, without --locked, and commit the lock file",
    )


def _served(
    context: Context,
    spec: ModelSpec,
    artifact: Artifact,
    chosen: BuiltVariant | None,
    written: Collection[str],
) -> dict[str, Path]:
    """Path in the model's directory → file: the artifact's, and those that the spec adds. written: paths of what is neither."""
    served = artifact.served if chosen is None else served_files(chosen)
    for name, file in spec.model_files.items():
        if name in served or name in written:
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
    steps = _step_configs(context, spec) if spec.source.row.reference == "steps" else {}
    message = config_message(spec, artifact.record, chosen, steps, context.spec)
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


def _place_of(spec: RepositorySpec, model: str, field: str | None) -> Where:
    """The line of the spec that states the field, `output[0].dims`, or the source's line where nothing does."""
    source, keys = spec.where(model, "source"), _keys(field or "")
    stated = keys and spec.where(model, keys[0]) != spec.where(model)
    return spec.where(model, *keys) if stated else source


def _keys(field: str) -> list[str | int]:
    return [int(key) if key.isdecimal() else key for key in re.findall(r"\w+", field)]


def lint_gate(
    directory: Path,
    repository: Path,
    steps: Sequence[str] = (),
    target: Target | None = None,
    place: Callable[[str | None], Where | None] = lambda field: None,
    loaded: Mapping[int, Loaded] | None = None,
) -> None:
    """GateError when the staged model has a finding of severity error; a name that clients encode is told of.

    steps: the models that an ensemble calls; they are looked up in the repository that it will join.
    place: a field of the config, or None → where the user wrote it. loaded: what sessions of its ONNX files showed.
    """
    from tritonsmith.builder.lint.check import (  # all rules: not for a build that finds nothing stale
        LintOptions,
        check,
    )

    links = [
        directory.parent / s
        for s in dict.fromkeys(steps)
        if fault_of_model_name(s) is None and s != directory.name and (repository / s).is_dir()
    ]
    try:
        for link in links:
            link.symlink_to(repository / link.name, target_is_directory=True)
        options = LintOptions(target=target, loaded={directory.name: loaded} if loaded else {})
        findings = check([directory], options)
    finally:
        for link in links:
            delete(link)
    for f in (f for f in findings if f.rule == "REPO015"):
        at = "" if (where := place(f.field)) is None else f"{where}: "
        note(f"warning: {at}{directory.name}: {f.message}; tritonsmith check --explain {f.rule}")
    if errors := [f for f in findings if f.severity == "error"]:
        raise GateError(
            f"{directory.name}: Triton would not load this model: "
            + "; ".join(f"{f.rule} {f.message}" for f in errors[:5]),
            code="lint",
            where=place(errors[0].field),
            fix=f"{errors[0].fix}; tritonsmith check --explain {errors[0].rule} tells more",
        )
