"""(spec, lock, cache, repository on disk) → Observation of each model: digests, no imports of frameworks, nothing written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tritonsmith import __version__
from tritonsmith.builder.actions.batch_rows.report import ROWS_REVISION
from tritonsmith.builder.base.errors import ConfigError, SpecError, TritonsmithError
from tritonsmith.builder.base.files.digest import digest_of_value, total_digest
from tritonsmith.builder.base.files.package_files import (
    PACKAGE_PREFIX,
    package_reference,
    resolve_package_file,
)
from tritonsmith.builder.base.files.untrusted import read_bounded
from tritonsmith.builder.base.machine import Machine
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.base.toolchain import Toolchain
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.model_config.model_config import TEMPLATE, model_config_from_text
from tritonsmith.builder.model_config.templates import template_files
from tritonsmith.builder.plan.engine_targets import engine_targets
from tritonsmith.builder.plan.plan import (
    EngineObservation,
    EngineTarget,
    Observation,
    VariantObservation,
    action_key,
    request_digest,
)
from tritonsmith.builder.repository.lock import Lock, LockedModel
from tritonsmith.builder.repository.repository import model_files
from tritonsmith.builder.spec.model_directory import read_model_directory
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec, stated_tensors
from tritonsmith.builder.spec.variant_spec import Variant

# Raised when the same inputs would give another artifact: the exporter's own version.
EXPORT_REVISION = 3
CONVERT_REVISION = 4


def export_parameters(spec: ModelSpec) -> dict[str, Any]:
    """What an export depends on beside its sources' content; names and paths as written in the spec."""
    stated = {
        kind: [{k: t[k] for k in ("name", "data_type", "dims")} for t in stated_tensors(spec, kind)]
        for kind in ("input", "output")
    }
    parameters = {
        "revision": EXPORT_REVISION,
        "kind": spec.source.kind,
        "reference": spec.source.reference,
        "files": list(spec.source.files),
        "opset": spec.opset if spec.source.row.opset == "asked" else None,
        "max_batch_size": spec.max_batch_size,
        "dynamic_dims": _dims(spec),
        "samples": spec.accuracy.samples,
        **_jsonable(stated),
    }
    if spec.source.steps is not None:
        parameters["steps"] = [step.model_dump() for step in spec.source.steps]
    if spec.exporter is not None:
        parameters["exporter"] = spec.exporter
    # What is not stated is left out, so that an option that comes to be changes no key of before.
    for name, value in spec.source.options.items():
        if name in spec.source.model_fields_set and value not in ((), None):
            parameters[name] = list(value) if isinstance(value, tuple) else value
    if level := graph_level(spec):
        parameters["graph_level"] = level
    return parameters


def _dims(spec: ModelSpec) -> dict[str, Any]:
    return {k: v if isinstance(v, str) else v.model_dump() for k, v in sorted(spec.dynamic_dims.items())}


def graph_level(spec: ModelSpec) -> int:
    """Triton's optimization.graph.level of the model; 0 where nothing is stated."""
    optimization = spec.config.as_proto_json().get("optimization") or {}
    return int((optimization.get("graph") or {}).get("level") or 0)


def _jsonable(stated: Mapping[str, Any]) -> dict[str, Any]:
    return {
        kind: [{**t, "dims": None if t["dims"] is None else list(t["dims"])} for t in tensors]
        for kind, tensors in stated.items()
    }


def export_tools(spec: ModelSpec, toolchain: Toolchain) -> dict[str, str | None]:
    """Versions of what makes the artifact; files that are taken over depend on none. torch's exporter writes through
    onnxscript and onnx-ir."""
    return toolchain.fingerprint(*spec.source.row.distributions)


def config_digests(
    spec: ModelSpec, stated: RepositorySpec, repository: Path, templates: Path | None, cache: Cache
) -> dict[str, str]:
    """Digests of what is laid out beside the artifact, and of the checks that let the model through.

    stated: the spec that the model stands in.
    """
    files = [(p.name, cache.stats.digest(p)) for p in template_files(TEMPLATE, templates)]
    digests = {
        "spec": digest_of_value(
            [__version__, spec.name, spec.config.as_proto_json(), *_choice(spec, stated), *_states(spec)]
        ),
        "template": total_digest(files),
        "accuracy": digest_of_value(_bounds(spec)),
    }
    if spec.source.row.rows_checked and spec.max_batch_size != 0:
        digests["rows"] = digest_of_value(["rows", ROWS_REVISION])
    if spec.model_files:
        placed = {n: cache.stats.digest(stated.root / file) for n, file in spec.model_files.items()}
        digests["model_files"] = digest_of_value(placed)
    if spec.source.steps is not None:
        digests["steps"] = digest_of_value([_tensors_of(repository / s.model) for s in spec.source.steps])
    return digests


def _bounds(spec: ModelSpec) -> Any:
    """The bounds that the export and the variants must keep."""
    bounds = spec.accuracy.stated_bounds()
    if not spec.variants:
        return bounds
    return [bounds, {n: v.accuracy.stated_bounds() for n, v in spec.variants.items()}]


def _choice(spec: ModelSpec, stated: RepositorySpec) -> list[Any]:
    """What decides which variant is laid out, and whether its config is for a GPU; nothing without variants."""
    gpus = ["on GPUs"] if stated.target.gpus else []
    return [list(spec.preference), spec.on_fail, *gpus] if spec.variants else []


def _states(spec: ModelSpec) -> list[Any]:
    return [spec.state] if spec.state else []


def _tensors_of(model: Path) -> Any:
    """What an ensemble takes from a step's config: its tensors and how far it batches; None when it is not there."""
    try:
        config = model_config_from_text(read_bounded(model / "config.pbtxt").decode())
    except (OSError, ValueError, ConfigError):
        return None
    return [config.max_batch_size, *([str(t) for t in tensors] for tensors in (config.input, config.output))]


def resolve_dependency(name: str, root: Path) -> Path:
    """A dependency's portable name → its path on this machine; SpecError for a package that is not installed."""
    if name.startswith(PACKAGE_PREFIX):
        return resolve_package_file(name)
    return root / name


def portable_name(path: Path, root: Path) -> str:
    """A file → relative to the spec when below it, package:NAME/path when in an installed package, else absolute."""
    absolute = path.absolute()
    if absolute.is_relative_to(root):
        return absolute.relative_to(root).as_posix()
    return package_reference(absolute) or str(absolute)


def current_digest(name: str, root: Path, cache: Cache) -> str | None:
    """The content digest of a dependency now (of a name that ends in /: what is listed there); None when it is gone."""
    try:
        if name.endswith("/"):
            return read_model_directory(resolve_dependency(name, root)).listing_digest
        return cache.stats.digest(resolve_dependency(name, root))
    except (OSError, SpecError):
        return None


def observe(
    repository_spec: RepositorySpec,
    lock: Lock,
    cache: Cache,
    toolchain: Toolchain,
    repository: Path,
    templates: Path | None,
    names: Collection[str],
    machine: Machine,
) -> tuple[dict[str, Observation], dict[str, TritonsmithError]]:
    """(one Observation a model named, in the spec's order, why the others could not be observed)"""
    targets = engine_targets(repository_spec, machine)
    observed: dict[str, Observation] = {}
    failures: dict[str, TritonsmithError] = {}
    for spec in repository_spec.models:
        if spec.name not in names:
            continue
        locked = lock.models.get(spec.name)
        try:
            observed[spec.name] = _observe_model(
                repository_spec, spec, locked, cache, toolchain, repository, templates, targets
            )
        except Exception as error:
            failures[spec.name] = failure_of(error, spec.name)
    return observed, failures


def _observe_model(
    repository_spec: RepositorySpec,
    spec: ModelSpec,
    locked: LockedModel | None,
    cache: Cache,
    toolchain: Toolchain,
    repository: Path,
    templates: Path | None,
    targets: Sequence[EngineTarget],
) -> Observation:
    root = repository_spec.root
    parameters, tools = export_parameters(spec), export_tools(spec, toolchain)
    dependencies = {} if locked is None else {n: current_digest(n, root, cache) for n in locked.dependencies}
    cached_key = find_cached(request_digest(parameters, tools), root, cache)
    return Observation(
        parameters=parameters,
        tools=tools,
        dependencies=dependencies,
        cached_key=cached_key,
        variants=observe_variants(spec, locked, cached_key, root, cache, toolchain, targets),
        config=config_digests(spec, repository_spec, repository, templates, cache),
        files=model_files(repository / spec.name, cache.stats),
    )


def observe_variants(
    spec: ModelSpec,
    locked: LockedModel | None,
    base_key: str | None,
    root: Path,
    cache: Cache,
    toolchain: Toolchain,
    targets: Sequence[EngineTarget] = (),
) -> dict[str, VariantObservation]:
    """One VariantObservation a variant; base_key: the export's artifact as it is now, None when it must be made."""
    return {
        name: _observe_variant(spec, name, locked, base_key, root, cache, toolchain, targets)
        for name in spec.variants
    }


def _observe_variant(
    spec: ModelSpec,
    name: str,
    locked: LockedModel | None,
    base_key: str | None,
    root: Path,
    cache: Cache,
    toolchain: Toolchain,
    targets: Sequence[EngineTarget],
) -> VariantObservation:
    parameters, tools = converted_parameters(spec, name), converted_tools(spec, name, toolchain)
    was = None if locked is None else locked.variants.get(name)
    dependencies = {} if was is None else {n: current_digest(n, root, cache) for n in was["dependencies"]}
    plain = is_plain(spec.variants[name])
    cached = base_key
    if base_key is not None and not plain:
        cached = find_cached(variant_request(base_key, parameters, tools), root, cache)
    has_engine = spec.variants[name].backend == "tensorrt"
    return VariantObservation(
        parameters,
        tools,
        dependencies,
        cached,
        plain=plain,
        calibrated=parameters["calibration"] is not None,
        engines=tuple(_observe_engine(spec, name, cached, t, cache) for t in targets) if has_engine else (),
    )


def _observe_engine(
    spec: ModelSpec, name: str, graph_key: str | None, target: EngineTarget, cache: Cache
) -> EngineObservation:
    key = None if graph_key is None else engine_key(spec, name, graph_key, target)
    cached = key if key is not None and cache.has(key) else None
    return EngineObservation(target, engine_parameters(spec, name), engine_tools(target), cached)


def is_plain(variant: Variant) -> bool:
    """Whether the variant is the export itself."""
    return variant.backend == "onnxruntime" and variant.row.exact


def converted_parameters(spec: ModelSpec, name: str) -> dict[str, Any]:
    """What a variant's graph depends on beside the export it is made from and the content of its calibration data."""
    variant = spec.variants[name]
    parameters: dict[str, Any] = {
        "revision": CONVERT_REVISION,
        "backend": variant.backend,
        "precision": variant.precision,
        "exclude": list(variant.exclude),
        "keep_io": variant.keep_io,
        "options": variant.conversion_options,
        "calibration": spec.calibration if variant.row.calibration else None,
    }
    if variant.accuracy.metric is not None:
        parameters["metric"] = variant.accuracy.metric.model_dump()
    return parameters


def converted_tools(spec: ModelSpec, name: str, toolchain: Toolchain) -> dict[str, str | None]:
    """Versions of what makes a variant's graph."""
    row = spec.variants[name].row
    return {} if row.exact else toolchain.fingerprint("onnx", "onnxruntime", *row.distributions)


def engine_parameters(spec: ModelSpec, name: str) -> dict[str, Any]:
    """What an engine depends on beside its graph, its TensorRT and its GPU."""
    batching = spec.config.as_proto_json().get("dynamic_batching", {})
    return {
        **spec.variants[name].engine_settings(),
        "max_batch_size": spec.max_batch_size,
        "preferred_batch_size": batching.get("preferred_batch_size", []),
        "dynamic_dims": _dims(spec),
    }


def engine_tools(target: EngineTarget) -> dict[str, str | None]:
    """Versions of what an engine is made by and for."""
    return {
        "tensorrt": target.tensorrt,
        "compute_capability": target.compute_capability,
        "platform": target.platform,
    }


def engine_key(spec: ModelSpec, name: str, graph_key: str, target: EngineTarget) -> str:
    """Identity of an engine: the graph, what it is built with and for. Its own bytes differ from build to build."""
    identity = variant_request(graph_key, engine_parameters(spec, name), engine_tools(target))
    return action_key(identity, {})


def variant_request(base_key: str, parameters: Mapping[str, Any], tools: Mapping[str, str | None]) -> str:
    """Identity of a variant but for its calibration data's content."""
    return digest_of_value({"action": "convert", "base": base_key, "parameters": parameters, "tools": tools})


def find_cached(request: str, root: Path, cache: Cache) -> str | None:
    """The key of an artifact that was made of the request with all dependencies as they are now, here or elsewhere."""
    keys = (key_now(request, names, root, cache) for names in cache.remembered(request))
    return next((key for key in keys if key is not None and cache.has(key)), None)


def key_now(request: str, dependencies: Iterable[str], root: Path, cache: Cache) -> str | None:
    """The request's key by the content that dependencies of these names have now; None when one is gone."""
    digests: dict[str, str] = {}
    for name in dependencies:
        digest = current_digest(name, root, cache)
        if digest is None:
            return None
        digests[name] = digest
    return action_key(request, digests)
