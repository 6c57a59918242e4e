"""(a model's fp32 artifact, its variants) → an Artifact for each, judged on held-out samples, and the one to serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from tritonsmith.builder.actions.accuracy.accuracy import report_from_dict
from tritonsmith.builder.actions.accuracy.action import layers_action
from tritonsmith.builder.actions.accuracy.judgement import (
    Judgement,
    judgement_of,
    judgement_of_weights,
    refusal,
)
from tritonsmith.builder.actions.action import Artifact, Subject, place_error
from tritonsmith.builder.actions.compile.action import engine_identity
from tritonsmith.builder.actions.compile.compilers.tensorrt import PLAN
from tritonsmith.builder.actions.compile.target import plan_names
from tritonsmith.builder.actions.convert.action import (
    conversion_identity,
    convert_action,
    kind_of_variant,
)
from tritonsmith.builder.actions.language.action import measured_of, reference_action, weights_action
from tritonsmith.builder.base.errors import BuildError, TritonsmithError
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.build.model.engines import BuiltEngine, engine_artifacts
from tritonsmith.builder.cache.actions import fetched, perform
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.model_config.model_config import model_config_as_stated, runs_on_cpus_alone
from tritonsmith.builder.plan.engine_profiles import engine_options, engine_profiles
from tritonsmith.builder.plan.plan import Action
from tritonsmith.builder.repository.lock import Accuracy, LockedVariant, finite
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


@dataclass(frozen=True, slots=True)
class BuiltVariant:
    """A variant that was made, from cache or anew, or could not be (error).

    artifact: its graph; engines: what TensorRT made of it, one a kind of GPU, and what is served then.
    """

    name: str
    artifact: Artifact | None
    action: str
    error: TritonsmithError | None = None
    judgement: Judgement = field(default_factory=Judgement)
    engines: tuple[BuiltEngine, ...] = ()


def build_variants(
    spec: ModelSpec, base: Artifact, planned: Sequence[Action], repository: RepositorySpec, cache: Cache
) -> tuple[BuiltVariant, ...]:
    """All variants of the model, judged; one that fails keeps its error and does not stop the others."""
    return tuple(
        _built(Subject(spec, repository, name), base, [a for a in planned if a.variant == name], cache)
        for name in spec.variants
    )


def _built(variant: Subject, base: Artifact, planned: Sequence[Action], cache: Cache) -> BuiltVariant:
    name, stated, root = variant.variant, variant.stated, variant.repository.root
    if stated.is_source:
        return BuiltVariant(name, base, "the export", judgement=judgement_of(stated, base.record))
    if kind_of_variant(variant.spec, name) == "weights":
        return _built_weights(variant, base, planned, cache)
    conversion = convert_action(variant, base)
    artifact = fetched(conversion, next(a.key for a in planned if a.kind == "convert"), cache)
    action = "made" if artifact is None else "from cache"
    engines: tuple[BuiltEngine, ...] = ()
    judgement = Judgement()
    try:
        if stated.backend == "tensorrt":
            # Before the conversion, which may take minutes.
            engine_options(stated, variant.where)
            engine_profiles(variant.spec, name, base.record, variant.repository)
        if artifact is None:
            # Another variant or model may have made the same meanwhile.
            artifact, _ = perform(conversion, root, cache)
        _refuse_what_no_instance_loads(variant, artifact)
        judgement = _explained(variant, base, artifact, cache)
        if stated.backend == "tensorrt":
            targets = [a.engine for a in planned if a.engine is not None]
            engines = engine_artifacts(variant, artifact, targets, cache)
            action = "from cache" if all(engine.was_cached for engine in engines) else "made"
    except Exception as error:
        placed = place_error(failure_of(error, variant.name), variant.name, variant.where)
        return BuiltVariant(name, None, "failed", placed, judgement)
    return BuiltVariant(name, artifact, action, judgement=judgement, engines=engines)


def _built_weights(variant: Subject, base: Artifact, planned: Sequence[Action], cache: Cache) -> BuiltVariant:
    """Of a language model: the source is asked only where the variant's own answers are not known."""
    name, stated, root = variant.variant, variant.stated, variant.repository.root
    sought = weights_action(variant, base, None)
    artifact = fetched(sought, next(a.key for a in planned if a.kind == "convert"), cache)
    action = "made" if artifact is None else "from cache"
    try:
        if artifact is None:
            reference, _ = perform(reference_action(variant, base), root, cache)
            artifact, _ = perform(weights_action(variant, base, reference), root, cache)
    except Exception as error:
        placed = place_error(failure_of(error, variant.name), variant.name, variant.where)
        return BuiltVariant(name, None, "failed", placed)
    judgement = judgement_of_weights(stated, measured_of(artifact.record), artifact.record["findings"])
    return BuiltVariant(name, artifact, action, judgement=judgement)


def _refuse_what_no_instance_loads(variant: Subject, artifact: Artifact) -> None:
    """BuildError for a graph that ONNX Runtime cannot load on a CPU where all instances are stated to be on CPUs."""
    lacks = artifact.record.get("lacks", "")
    if lacks and runs_on_cpus_alone(model_config_as_stated(variant.spec, variant.repository)):
        raise BuildError(
            f"{variant.name}: no CPU can serve {variant.stated.precision}, and its instances are KIND_CPU: {lacks}",
            code="onnxruntime_rejects",
            where=variant.where,
            fix="instance_group: [{kind: KIND_GPU}], or another precision",
        )


def _explained(variant: Subject, base: Artifact, artifact: Artifact, cache: Cache) -> Judgement:
    """The artifact's judgement; layers are compared now when bounds refuse it that did not when it was made."""
    judgement = judgement_of(variant.stated, artifact.record)
    is_told = judgement.passed or judgement.layers
    if is_told or artifact.onnx is None or artifact.record["accuracy"]["samples"] == 0:
        return judgement
    explained, _ = perform(layers_action(variant, base, artifact), variant.repository.root, cache)
    layers, exclude = explained.record["layers"], explained.record["suggested_exclude"]
    return replace(judgement, layers=tuple(layers), exclude=tuple(exclude))


def choose(
    spec: ModelSpec, built: Sequence[BuiltVariant], repository: RepositorySpec
) -> tuple[BuiltVariant, tuple[str, ...]]:
    """(the variant to lay out, why better liked ones were passed over).

    The first of `serve` decides, unless on_fail is `next`. GateError, or the variant's own error, when none will do.
    """
    by_name = {b.name: b for b in built}
    passed_over: list[str] = []
    first: TritonsmithError | None = None
    for name in spec.preference:
        error = by_name[name].error
        if error is None and by_name[name].judgement.passed:
            return by_name[name], tuple(passed_over)
        variant = Subject(spec, repository, name)
        error = error or refusal(variant.name, by_name[name].judgement, variant.where)
        first = first or error
        passed_over.append(error.message)
        if spec.on_fail == "stop":
            break
    assert first is not None
    raise first


def served_files(built: BuiltVariant) -> dict[str, Path]:
    """Path in the model's directory → file of the variant; several engines are called after their GPUs."""
    assert built.artifact is not None
    if not built.engines:
        return built.artifact.served
    names = plan_names([engine.target for engine in built.engines])
    return {
        path.replace(PLAN, name): file
        for engine, name in zip(built.engines, names, strict=True)
        for path, file in engine.artifact.served.items()
    }


def cc_model_filenames(built: BuiltVariant) -> dict[str, str]:
    """Compute capability → plan, as config.pbtxt has it, where a variant has several; else empty."""
    if len(built.engines) < 2:
        return {}
    names = plan_names([engine.target for engine in built.engines])
    return {str(e.target.compute_capability): n for e, n in zip(built.engines, names, strict=True)}


def locked_variants(spec: ModelSpec, built: Sequence[BuiltVariant]) -> dict[str, LockedVariant]:
    """What the lock keeps of each variant that was made."""
    kept: dict[str, LockedVariant] = {}
    for variant in built:
        if variant.artifact is None:
            continue
        record = variant.artifact.record
        plain = spec.variants[variant.name].is_source
        kept[variant.name] = {
            "parameters": conversion_identity(spec, variant.name, None).parameters,
            "tools": {} if plain else record["tools"],
            "dependencies": {} if plain else record["dependencies"],
            "key": variant.artifact.key,
            "accuracy": _summary(record),
        }
        if record.get("coverage") and not plain:
            kept[variant.name]["coverage"] = record["coverage"]
        if variant.engines:
            kept[variant.name]["engines"] = {
                str(engine.target.compute_capability or ""): {
                    "parameters": engine_identity(spec, variant.name, None, engine.target).parameters,
                    "tools": engine.target.tools,
                    "key": engine.artifact.key,
                }
                for engine in variant.engines
            }
    return kept


def _summary(record: Mapping[str, Any]) -> Accuracy:
    """The worst deviation, or what was measured of a language model."""
    if "judged" in record:
        told = {k: finite(v) if isinstance(v, float) else v for k, v in measured_of(record).items()}
        return cast(Accuracy, told)
    worst = report_from_dict(record["accuracy"]).worst
    if worst is None:
        return {}
    return {"relative_l2": finite(worst.relative_l2), "cosine": finite(worst.cosine)}
