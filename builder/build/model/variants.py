"""(a model's fp32 artifact, its variants) → an Artifact for each, judged on held-out samples, and the one to serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.accuracy.accuracy import report_from_dict
from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
from tritonsmith.builder.actions.accuracy.judgement import Judgement, judgement_of, refusal
from tritonsmith.builder.actions.accuracy.request import GateRequest, GateResult, Metric
from tritonsmith.builder.actions.compile.compilers.tensorrt import PLAN
from tritonsmith.builder.actions.convert import ConvertRequest, run_convert, run_gate
from tritonsmith.builder.base.errors import BuildError, TritonsmithError, Where
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.base.toolchain import this_toolchain
from tritonsmith.builder.build.model.artifacts import files_to_serve, log_path, place_error
from tritonsmith.builder.build.model.engines import BuiltEngine, engine_artifacts
from tritonsmith.builder.cache.cache import Artifact, Cache
from tritonsmith.builder.model_config.model_config import model_config_as_stated, runs_on_cpus_alone
from tritonsmith.builder.plan.engine_profiles import engine_options, engine_profiles
from tritonsmith.builder.plan.engine_targets import plan_names
from tritonsmith.builder.plan.observe import (
    converted_parameters,
    converted_tools,
    engine_parameters,
    engine_tools,
    find_cached,
    graph_level,
    is_plain,
    portable_name,
    variant_request,
)
from tritonsmith.builder.plan.plan import action_key
from tritonsmith.builder.repository.lock import LockedVariant, finite
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
    spec: ModelSpec,
    base: Artifact,
    cached_keys: Mapping[str, str | None],
    repository: RepositorySpec,
    cache: Cache,
) -> tuple[BuiltVariant, ...]:
    """All variants of the model, judged; one that fails keeps its error and does not stop the others."""
    return tuple(_built(spec, name, base, cached_keys.get(name), repository, cache) for name in spec.variants)


def _built(
    spec: ModelSpec, name: str, base: Artifact, key: str | None, repository: RepositorySpec, cache: Cache
) -> BuiltVariant:
    if is_plain(spec.variants[name]):
        return BuiltVariant(
            name, base, "the export", judgement=judgement_of(spec.variants[name], base.record)
        )
    artifact = cache.get(key, "convert") if key else None
    action = "made" if artifact is None else "from cache"
    engines: tuple[BuiltEngine, ...] = ()
    judgement = Judgement()
    try:
        if spec.variants[name].backend == "tensorrt":
            # Before the conversion, which may take minutes.
            engine_options(spec.variants[name], _where(spec, name, repository))
            engine_profiles(spec, name, base.record, repository)
        artifact = artifact or _converted_artifact(spec, name, base, repository, cache)
        _refuse_what_no_instance_loads(spec, name, artifact, repository)
        judgement = _explained(spec, name, base, artifact, repository, cache)
        if spec.variants[name].backend == "tensorrt":
            engines = engine_artifacts(spec, name, artifact, repository, cache)
            action = "from cache" if all(engine.was_cached for engine in engines) else "made"
    except Exception as error:
        subject = f"{spec.name}/{name}"
        placed = place_error(failure_of(error, subject), subject, _where(spec, name, repository))
        return BuiltVariant(name, None, "failed", placed, judgement)
    return BuiltVariant(name, artifact, action, judgement=judgement, engines=engines)


def _refuse_what_no_instance_loads(
    spec: ModelSpec, name: str, artifact: Artifact, repository: RepositorySpec
) -> None:
    """BuildError for a graph that ONNX Runtime cannot load on a CPU where all instances are stated to be on CPUs."""
    lacks = artifact.record.get("lacks", "")
    if lacks and runs_on_cpus_alone(model_config_as_stated(spec, repository)):
        precision = spec.variants[name].precision
        raise BuildError(
            f"{spec.name}/{name}: no CPU can serve {precision}, and its instances are KIND_CPU: {lacks}",
            code="onnxruntime_rejects",
            where=_where(spec, name, repository),
            fix="instance_group: [{kind: KIND_GPU}], or another precision",
        )


def _explained(
    spec: ModelSpec, name: str, base: Artifact, artifact: Artifact, repository: RepositorySpec, cache: Cache
) -> Judgement:
    """The artifact's judgement; layers are compared now when bounds refuse it that did not when it was made."""
    judgement = judgement_of(spec.variants[name], artifact.record)
    onnx = next((n for n in artifact.record["served_files"] if n.endswith(".onnx")), None)
    if judgement.passed or judgement.layers or onnx is None or artifact.record["accuracy"]["samples"] == 0:
        return judgement
    key = action_key(f"layers of {artifact.key}", {})
    explained = cache.get(key, "layers")
    if explained is None:
        converted = tuple(artifact.record.get("converted", ()))
        judged = _judged(
            spec, name, base, artifact.directory / onnx, converted, repository, cache, layers=True
        )
        assert judged is not None
        with cache.workspace() as made:
            explained = cache.put(key, made, _layers(judged), f"compare layers {spec.name}/{name}")
    return replace(
        judgement,
        layers=tuple(explained.record["layers"]),
        exclude=tuple(explained.record["suggested_exclude"]),
    )


def _layers(judged: GateResult) -> dict[str, Any]:
    return {
        "layers": [layer.as_dict() for layer in judged.layers],
        "suggested_exclude": list(judged.exclude),
    }


def _where(spec: ModelSpec, name: str, repository: RepositorySpec) -> Where:
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
        error = by_name[name].error
        if error is None and by_name[name].judgement.passed:
            return by_name[name], tuple(passed_over)
        error = error or refusal(
            f"{spec.name}/{name}", by_name[name].judgement, _where(spec, name, repository)
        )
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
        return files_to_serve(built.artifact)
    names = plan_names([engine.target for engine in built.engines])
    return {
        path.replace(PLAN, name): file
        for engine, name in zip(built.engines, names, strict=True)
        for path, file in files_to_serve(engine.artifact).items()
    }


def cc_model_filenames(built: BuiltVariant) -> dict[str, str]:
    """Compute capability → plan, as config.pbtxt has it, where a variant has several; else empty."""
    if len(built.engines) < 2:
        return {}
    names = plan_names([engine.target for engine in built.engines])
    return {str(e.target.compute_capability): n for e, n in zip(built.engines, names, strict=True)}


def _converted_artifact(
    spec: ModelSpec, name: str, base: Artifact, repository: RepositorySpec, cache: Cache
) -> Artifact:
    """The ONNX at the variant's precision with its judgement, from the cache when nothing it depends on changed."""
    parameters = converted_parameters(spec, name)
    tools = converted_tools(spec, name, this_toolchain())
    identity = variant_request(base.key, parameters, tools)
    key = find_cached(identity, repository.root, cache)
    cached = cache.get(key, "convert") if key else None
    if cached is not None:
        return cached
    with cache.workspace() as made:
        record, used = _converted(spec, name, base, made, repository, cache)
        dependencies = {portable_name(Path(f), repository.root): cache.stats.digest(Path(f)) for f in used}
        key = action_key(identity, dependencies)
        record |= {"tools": tools, "dependencies": dependencies, "samples": None}
        artifact = cache.put(key, made, record, f"convert {spec.name}/{name}")
        cache.remember(identity, dependencies, key)
    return artifact


def _converted(
    spec: ModelSpec, name: str, base: Artifact, made: Path, repository: RepositorySpec, cache: Cache
) -> tuple[dict[str, Any], Sequence[str]]:
    """(the artifact's record, calibration files) of the ONNX at the variant's precision; its files lie in `made`."""
    variant = spec.variants[name]
    samples = base.record["samples"]
    calibration = (
        None if spec.calibration is None else CalibrationSpec(spec.calibration, str(repository.root))
    )
    request = ConvertRequest(
        model=f"{spec.name}/{name}",
        source_onnx=str(_source(base)),
        precision=variant.precision,
        exclude=variant.exclude,
        keep_io=variant.keep_io,
        calibration=calibration,
        held_out=None if samples is None else str(base.directory / str(samples)),
        options=variant.conversion_options,
        graph_level=graph_level(spec) if variant.backend == "onnxruntime" else None,
    )
    log = log_path(cache, repository, f"{spec.name}/{name}")
    result = run_convert(request, made, log)
    judged = _judged(spec, name, base, made / result.onnx_file, result.converted, repository, cache)
    record = {
        "inputs": [t.as_dict() for t in result.inputs],
        "outputs": [t.as_dict() for t in result.outputs],
        "opset": result.opset,
        "ir_version": result.ir_version,
        "accuracy": {"passed": True, "samples": 0, "note": "no samples", "deviations": []}
        if judged is None
        else judged.accuracy.as_dict(),
        "metric": [] if judged is None else [asdict(value) for value in judged.metric],
        "findings": ["not judged: there are no samples; state accuracy.samples"]
        if judged is None
        else list(judged.findings),
        **({"layers": [], "suggested_exclude": []} if judged is None else _layers(judged)),
        "converted": list(result.converted),
        "served_files": list(result.files),
        "kept_fp32": [{"name": k.name, "op_type": k.op_type, "reason": k.reason} for k in result.kept_fp32],
        "notes": list(result.notes),
        "lacks": result.lacks,
        "coverage": None if result.coverage is None else result.coverage.as_dict(),
        "calibration": {"digest": result.calibration_digest, "rows": result.calibration_rows},
        "seconds": round(result.seconds, 3),
    }
    return record, result.dependencies


def _source(base: Artifact) -> Path:
    return base.directory / str(next(n for n in base.record["served_files"] if n.endswith(".onnx")))


def _judged(
    spec: ModelSpec,
    name: str,
    base: Artifact,
    candidate: Path,
    converted: tuple[str, ...],
    repository: RepositorySpec,
    cache: Cache,
    layers: bool = False,
) -> GateResult | None:
    """The variant held against the fp32 source on the export's own samples; None when there are none."""
    samples, variant = base.record["samples"], spec.variants[name]
    if samples is None:
        return None
    metric = variant.accuracy.metric
    request = GateRequest(
        model=f"{spec.name}/{name}",
        precision=variant.precision,
        source=str(_source(base)),
        candidate=str(candidate),
        samples=str(base.directory / str(samples)),
        search_path=str(repository.root),
        metric=None if metric is None else Metric(metric.callable, metric.at_least, metric.at_most),
        served_by=variant.backend,
        candidates=converted,
        always_layers=layers,
    )
    with cache.workspace() as scratch:
        return run_gate(request, scratch, log_path(cache, repository, f"{spec.name}/{name}/gate"))


def locked_variants(spec: ModelSpec, built: Sequence[BuiltVariant]) -> dict[str, LockedVariant]:
    """What the lock keeps of each variant that was made."""
    kept: dict[str, LockedVariant] = {}
    for variant in built:
        if variant.artifact is None:
            continue
        record = variant.artifact.record
        worst = report_from_dict(record["accuracy"]).worst
        plain = is_plain(spec.variants[variant.name])
        kept[variant.name] = {
            "parameters": converted_parameters(spec, variant.name),
            "tools": {} if plain else record["tools"],
            "dependencies": {} if plain else record["dependencies"],
            "key": variant.artifact.key,
            "accuracy": {}
            if worst is None
            else {"relative_l2": finite(worst.relative_l2), "cosine": finite(worst.cosine)},
        }
        if record.get("coverage") and not plain:
            kept[variant.name]["coverage"] = record["coverage"]
        if variant.engines:
            kept[variant.name]["engines"] = {
                str(engine.target.compute_capability or ""): {
                    "parameters": engine_parameters(spec, variant.name),
                    "tools": engine_tools(engine.target),
                    "key": engine.artifact.key,
                }
                for engine in variant.engines
            }
    return kept
