"""(a built spec, a directory) → one model directory a variant, for sweeps and for looking at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tritonsmith.builder.actions.accuracy.judgement import judgement_of_weights
from tritonsmith.builder.actions.accuracy.laid_out import LanguageAccuracy, ServedAccuracy, write_accuracy
from tritonsmith.builder.actions.action import Artifact, Kind
from tritonsmith.builder.actions.compile.target import EngineTarget
from tritonsmith.builder.actions.convert.action import kind_of_variant
from tritonsmith.builder.base.errors import BuildError, TritonsmithError
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.build.context import BuildOptions, Context, context_of
from tritonsmith.builder.build.layout import config_text
from tritonsmith.builder.build.model.engines import BuiltEngine
from tritonsmith.builder.build.model.variants import BuiltVariant, served_files
from tritonsmith.builder.build.results import BuildResult
from tritonsmith.builder.model_config.language_model import argument_files, as_variant
from tritonsmith.builder.repository.lock import LockedModel, LockedVariant
from tritonsmith.builder.repository.repository import exclusive, publish_model, stage_model
from tritonsmith.builder.spec.spec import ModelSpec


def with_variants(result: BuildResult, options: BuildOptions, directory: Path) -> BuildResult:
    """The build's result with its variants laid out in the directory, as lay_out_variants does."""
    laid_out, failures = lay_out_variants(options, directory)
    return replace(result, variants=laid_out, variant_errors=failures)


def lay_out_variants(
    options: BuildOptions, directory: Path
) -> tuple[tuple[Path, ...], tuple[TritonsmithError, ...]]:
    """Writes DIRECTORY/MODEL__VARIANT for each variant that the last build made → (their paths, what became of others).

    They are models of their own to a server: it may serve them side by side. BuildError `variant_gone` is among the
    errors when a variant's artifact is no longer in the cache.
    """
    context = context_of(replace(options, update_revisions=False))
    made: list[Path] = []
    failures: list[TritonsmithError] = []
    with exclusive(directory.absolute()) as staging:
        for spec in context.spec.models:
            locked = context.lock.models.get(spec.name)
            if locked is None:
                continue
            for name in (n for n in spec.variants if n in locked.variants):
                try:
                    made.append(_lay_out(context, spec, locked, name, staging, directory.absolute()))
                except Exception as error:  # noqa: PERF203 - one variant's alone
                    failures.append(failure_of(error, f"{spec.name}/{name}"))
    return tuple(made), tuple(failures)


def _lay_out(
    context: Context, spec: ModelSpec, locked: LockedModel, name: str, staging: Path, directory: Path
) -> Path:
    entry = locked.variants[name]
    artifact = _artifact(context, spec, entry["key"], name, kind_of_variant(spec, name))
    engines = tuple(
        BuiltEngine(
            EngineTarget(None, capability or None, engine["tools"]["tensorrt"]),
            _artifact(context, spec, engine["key"], name, "compile"),
            True,
        )
        for capability, engine in entry.get("engines", {}).items()
    )
    built = BuiltVariant(name, artifact, "from cache", engines=engines)
    named = spec.model_copy(update={"name": f"{spec.name}__{name}"})
    served = served_files(built)
    served |= {place: context.spec.root / file for place, file in spec.model_files.items()}
    text = config_text(context, named, artifact, built)
    arguments = argument_files(as_variant(named, name), context.spec)
    staged = stage_model(staging, named.name, text, served, texts=arguments)
    write_accuracy(staged, _accuracy(spec, name, entry))
    publish_model(staged, directory)
    return directory / named.name


def _accuracy(spec: ModelSpec, name: str, entry: LockedVariant) -> ServedAccuracy:
    """What the variant's answers are held to; of a language model what the build measured and made of it."""
    variant = spec.variants[name]
    if spec.source.kind != "llm":
        return ServedAccuracy(variant.precision, variant.accuracy.stated_bounds())
    if variant.is_source:
        return ServedAccuracy(language=LanguageAccuracy(1.0, 1.0))  # the source itself
    measured = entry["accuracy"]
    return ServedAccuracy(
        variant.precision,
        language=LanguageAccuracy(
            measured.get("token_agreement"),
            measured.get("perplexity_ratio"),
            judgement_of_weights(variant, measured).failures,
            "" if "token_agreement" in measured else measured.get("note") or "not judged",
        ),
    )


def _artifact(context: Context, spec: ModelSpec, key: str, name: str, kind: Kind) -> Artifact:
    artifact = context.cache.get(key, kind)
    if artifact is None:
        raise BuildError(
            f"{spec.name}/{name} is no longer in the cache",
            code="variant_gone",
            where=context.spec.where(spec.name, "variants", name),
            fix="tritonsmith build",
        )
    return artifact
