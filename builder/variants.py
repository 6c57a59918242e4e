"""(a model's fp32 artifact, its variants) → an Artifact for each, judged on held-out samples, and the one to serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.accuracy import Bounds, report_from_dict
from builder.artifacts import log_path, place_error
from builder.cache import Artifact, Cache
from builder.calibration import CalibrationSpec
from builder.convert import ConvertRequest, run_convert, run_gate
from builder.engines import engine_artifact
from builder.errors import GateError, TritonsmithError
from builder.gate import GateRequest, GateResult, Metric
from builder.observe import (
    converted_parameters,
    converted_tools,
    find_cached,
    is_plain,
    portable_name,
    variant_parameters,
    variant_request,
    variant_tools,
)
from builder.plan import action_key
from builder.spec import ModelSpec, RepositorySpec
from builder.toolchain import this_toolchain


@dataclass(frozen=True, slots=True)
class BuiltVariant:
    """A variant that was made, from cache or anew, or could not be (error)."""

    name: str
    artifact: Artifact | None
    action: str
    error: TritonsmithError | None = None


def build_variants(
    spec: ModelSpec,
    base: Artifact,
    cached_keys: Mapping[str, str | None],
    repository: RepositorySpec,
    cache: Cache,
) -> tuple[BuiltVariant, ...]:
    """All variants of the model; one that fails keeps its error and does not stop the others."""
    return tuple(_built(spec, name, base, cached_keys.get(name), repository, cache) for name in spec.variants)


def _built(
    spec: ModelSpec, name: str, base: Artifact, key: str | None, repository: RepositorySpec, cache: Cache
) -> BuiltVariant:
    if is_plain(spec.variants[name]):
        return BuiltVariant(name, base, "the export")
    cached = cache.get(key) if key else None
    if cached is not None:
        return BuiltVariant(name, cached, "from cache")
    try:
        return BuiltVariant(name, make_variant(spec, name, base, repository, cache), "made")
    except TritonsmithError as error:
        return BuiltVariant(
            name, None, "failed", place_error(error, f"{spec.name}/{name}", _where(spec, name, repository))
        )


def _where(spec: ModelSpec, name: str, repository: RepositorySpec) -> Any:
    return repository.where(spec.name, "variants", name)


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
        error = by_name[name].error or _gate(spec, by_name[name], repository)
        if error is None:
            return by_name[name], tuple(passed_over)
        first = first or error
        passed_over.append(error.message)
        if spec.on_fail == "stop":
            break
    assert first is not None
    raise first


def _gate(spec: ModelSpec, built: BuiltVariant, repository: RepositorySpec) -> GateError | None:
    """The accuracy gate of one variant: what it refuses, and what might help; None when it lets it through."""
    assert built.artifact is not None
    variant = spec.variants[built.name]
    bounds = Bounds(**variant.accuracy.stated_bounds())
    report = report_from_dict(built.artifact.record["accuracy"])
    failures = (report.judged_by(bounds) if bounds.stated else report).failures
    told = [f"{d.output} ({d.runtime}): {', '.join(d.violations)}" for d in failures[:2]]
    told += [
        f"metric {m['value']} ({m['runtime']})"
        for m in built.artifact.record.get("metric", ())
        if not m["passed"]
    ]
    if not told:
        return None
    suggestion = ", ".join(built.artifact.record.get("suggested_exclude", ()))
    return GateError(
        f"{spec.name}/{built.name}: not accurate enough; {'; '.join(told)}",
        code="accuracy",
        where=_where(spec, built.name, repository),
        fix=f"exclude: [{suggestion}] in the variant keeps what loses most in fp32"
        if suggestion
        else "loosen its accuracy:, or serve another variant",
    )


def make_variant(
    spec: ModelSpec, name: str, base: Artifact, repository: RepositorySpec, cache: Cache
) -> Artifact:
    """The variant's graph, and for TensorRT the engine built from it."""
    converted = _converted_artifact(spec, name, base, repository, cache)
    if spec.variants[name].backend == "onnxruntime":
        return converted
    return engine_artifact(spec, name, base, converted, repository, cache)


def _converted_artifact(
    spec: ModelSpec, name: str, base: Artifact, repository: RepositorySpec, cache: Cache
) -> Artifact:
    """The ONNX at the variant's precision with its judgement, from the cache when nothing it depends on changed."""
    parameters = converted_parameters(spec, name)
    tools = converted_tools(spec, name, this_toolchain())
    identity = variant_request(base.key, parameters, tools)
    key = find_cached(identity, repository.root, cache)
    cached = cache.get(key) if key else None
    if cached is not None:
        return cached
    with cache.workspace() as made:
        record, used = _converted(spec, name, base, made, repository, cache)
        dependencies = {portable_name(Path(f), repository.root): cache.stats.digest(Path(f)) for f in used}
        key = action_key(identity, dependencies)
        record |= {"tools": tools, "dependencies": dependencies, "samples": None}
        artifact = cache.put(key, made, record)
        cache.remember(identity, dependencies, key)
    return artifact


def _converted(
    spec: ModelSpec, name: str, base: Artifact, made: Path, repository: RepositorySpec, cache: Cache
) -> tuple[dict[str, Any], Sequence[str]]:
    """(the artifact's record, calibration files) of the ONNX at the variant's precision; its files lie in `made`."""
    variant = spec.variants[name]
    onnx = base.directory / next(n for n in base.record["served_files"] if n.endswith(".onnx"))
    samples = base.record["samples"]
    calibration = (
        None if spec.calibration is None else CalibrationSpec(spec.calibration, str(repository.root))
    )
    request = ConvertRequest(
        model=f"{spec.name}/{name}",
        source_onnx=str(onnx),
        precision=variant.precision,
        exclude=variant.exclude,
        keep_io=variant.keep_io,
        calibration=calibration,
        held_out=None if samples is None else str(base.directory / str(samples)),
        options=variant.options,
    )
    log = log_path(cache, repository, f"{spec.name}/{name}")
    result = run_convert(request, made, log)
    judged = _judged(spec, name, onnx, made / result.onnx_file, result.converted, base, repository, cache)
    record = {
        "inputs": [t.as_dict() for t in result.inputs],
        "outputs": [t.as_dict() for t in result.outputs],
        "opset": result.opset,
        "ir_version": result.ir_version,
        "accuracy": {"passed": True, "samples": 0, "note": "no samples", "deviations": []}
        if judged is None
        else judged.accuracy.as_dict(),
        "metric": [] if judged is None else [asdict(value) for value in judged.metric],
        "findings": [] if judged is None else list(judged.findings),
        "layers": [] if judged is None else [layer.as_dict() for layer in judged.layers],
        "suggested_exclude": [] if judged is None else list(judged.exclude),
        "served_files": list(result.files),
        "kept_fp32": [{"name": k.name, "op_type": k.op_type, "reason": k.reason} for k in result.kept_fp32],
        "notes": list(result.notes),
        "calibration": {"digest": result.calibration_digest, "rows": result.calibration_rows},
        "seconds": round(result.seconds, 3),
    }
    return record, result.dependencies


def _judged(
    spec: ModelSpec,
    name: str,
    source: Path,
    candidate: Path,
    converted: tuple[str, ...],
    base: Artifact,
    repository: RepositorySpec,
    cache: Cache,
) -> GateResult | None:
    """The variant held against the fp32 source on the export's own samples; None when there are none."""
    samples, variant = base.record["samples"], spec.variants[name]
    if samples is None:
        return None
    metric = variant.accuracy.metric
    request = GateRequest(
        model=f"{spec.name}/{name}",
        precision=variant.precision,
        source=str(source),
        candidate=str(candidate),
        samples=str(base.directory / str(samples)),
        search_path=str(repository.root),
        metric=None if metric is None else Metric(metric.callable, metric.at_least, metric.at_most),
        served_by=variant.backend,
        candidates=converted,
    )
    with cache.workspace() as scratch:
        return run_gate(request, scratch, log_path(cache, repository, f"{spec.name}/{name}/gate"))


def locked_variants(spec: ModelSpec, built: Sequence[BuiltVariant]) -> dict[str, dict[str, Any]]:
    """What the lock keeps of each variant that was made."""
    kept: dict[str, dict[str, Any]] = {}
    for variant in built:
        if variant.artifact is None:
            continue
        record = variant.artifact.record
        worst = report_from_dict(record["accuracy"]).worst
        plain = is_plain(spec.variants[variant.name])
        kept[variant.name] = {
            "parameters": variant_parameters(spec, variant.name),
            "tools": {} if plain else variant_tools(spec, variant.name, this_toolchain()),
            "dependencies": {} if plain else record["dependencies"],
            "key": variant.artifact.key,
            "accuracy": {} if worst is None else {"relative_l2": worst.relative_l2, "cosine": worst.cosine},
        }
    return kept
