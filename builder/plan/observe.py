"""(spec, lock, cache, repository on disk) → Observation of each model: digests, no imports of frameworks, nothing written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith import __version__
from tritonsmith.builder.actions.action import Identity
from tritonsmith.builder.actions.batch_rows.report import ROWS_REVISION
from tritonsmith.builder.actions.compile.action import engine_identity
from tritonsmith.builder.actions.compile.target import EngineTarget
from tritonsmith.builder.actions.convert.action import conversion_identity
from tritonsmith.builder.actions.export.action import source_identity
from tritonsmith.builder.base.errors import ConfigError, TritonsmithError
from tritonsmith.builder.base.files.digest import digest_of_value, total_digest
from tritonsmith.builder.base.files.untrusted import read_bounded
from tritonsmith.builder.base.machine.machine import Machine
from tritonsmith.builder.base.machine.toolchain import Toolchain
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.cache.actions import current_digest, find
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.model_config.language_model import as_variant, engine_arguments
from tritonsmith.builder.model_config.model_config import TEMPLATE, model_config_from_text
from tritonsmith.builder.model_config.templates import template_files
from tritonsmith.builder.plan.engine_targets import engine_targets
from tritonsmith.builder.plan.observation import EngineObservation, Observation, VariantObservation
from tritonsmith.builder.repository.lock import Lock, LockedModel, LockedVariant
from tritonsmith.builder.repository.repository import model_files
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def config_digests(
    model: ModelSpec, spec: RepositorySpec, repository: Path, templates: Path | None, cache: Cache
) -> dict[str, str]:
    """Digests of what is laid out beside the artifact, and of the checks that let the model through.

    spec: that the model stands in.
    """
    files = [(p.name, cache.stats.digest(p)) for p in template_files(TEMPLATE, templates)]
    digests = {
        "spec": digest_of_value(
            [__version__, model.name, model.config.as_proto_json(), *_choice(model, spec), *_states(model)]
        ),
        "template": total_digest(files),
        "accuracy": digest_of_value(_bounds(model)),
    }
    if model.source.row.rows_checked and model.max_batch_size != 0:
        digests["rows"] = digest_of_value(["rows", ROWS_REVISION])
    if model.model_files:
        placed = {n: cache.stats.digest(spec.root / file) for n, file in model.model_files.items()}
        digests["model_files"] = digest_of_value(placed)
    if model.source.steps is not None:
        digests["steps"] = digest_of_value([_tensors_of(repository / s.model) for s in model.source.steps])
    return digests


def _bounds(model: ModelSpec) -> Any:
    """The bounds that the export and the variants must keep."""
    bounds = model.accuracy.stated_bounds()
    if not model.variants:
        return bounds
    of = {n: v.accuracy.stated_bounds() | v.accuracy.language_bounds for n, v in model.variants.items()}
    return [bounds, of]


def served_before(model: ModelSpec, locked: LockedModel | None) -> str | None:
    """The variant that is likely to be laid out: what the gate will say of a new one is not known."""
    served = None if locked is None else locked.served
    if served is not None and model.on_fail == "next" and served in model.preference:
        return served
    return next(iter(model.preference), None)


def _choice(model: ModelSpec, spec: RepositorySpec) -> list[Any]:
    """What decides which variant is laid out, and whether its config is for a GPU; nothing without variants."""
    gpus = ["on GPUs"] if spec.target.gpus else []
    return [list(model.preference), model.on_fail, *gpus] if model.variants else []


def _states(model: ModelSpec) -> list[Any]:
    return [model.state] if model.state else []


def _tensors_of(model: Path) -> Any:
    """What an ensemble takes from a step's config: its tensors and how far it batches; None when it is not there."""
    try:
        config = model_config_from_text(read_bounded(model / "config.pbtxt").decode())
    except (OSError, ValueError, ConfigError):
        return None
    return [config.max_batch_size, *([str(t) for t in tensors] for tensors in (config.input, config.output))]


def observe(
    spec: RepositorySpec,
    lock: Lock,
    cache: Cache,
    toolchain: Toolchain,
    repository: Path,
    templates: Path | None,
    names: Collection[str],
    machine: Machine,
) -> tuple[dict[str, Observation], dict[str, TritonsmithError]]:
    """(one Observation a model named, in the spec's order, why the others could not be observed)"""
    at = _Look(spec, cache, toolchain, engine_targets(spec, machine))
    observed: dict[str, Observation] = {}
    failures: dict[str, TritonsmithError] = {}
    for model in (model for model in spec.models if model.name in names):
        try:
            config = config_digests(model, spec, repository, templates, cache)
            files = model_files(repository / model.name, cache.stats)
            observed[model.name] = at.model(model, lock.models.get(model.name), config, files)
        except Exception as error:  # noqa: PERF203 - one model's alone
            failures[model.name] = failure_of(error, model.name)
    return observed, failures


@dataclass(frozen=True, slots=True)
class _Look:
    """What every model's actions are looked for by."""

    spec: RepositorySpec
    cache: Cache
    toolchain: Toolchain
    targets: Sequence[EngineTarget]

    def model(
        self,
        model: ModelSpec,
        locked: LockedModel | None,
        config: Mapping[str, str],
        files: Mapping[str, str],
    ) -> Observation:
        identity = source_identity(model, self.toolchain)
        dependencies = self.digests({} if locked is None else locked.dependencies)
        key = self.key(identity, dependencies)
        was: Mapping[str, LockedVariant] = {} if locked is None else locked.variants
        return Observation(
            parameters=identity.parameters,
            tools=identity.tools,
            dependencies=dependencies,
            cached_key=key,
            variants={name: self.variant(model, name, was.get(name), key) for name in model.variants},
            config=config,
            files=files,
            engine=engine_arguments(as_variant(model, served_before(model, locked)), self.spec),
        )

    def variant(
        self, model: ModelSpec, name: str, was: LockedVariant | None, base_key: str | None
    ) -> VariantObservation:
        """base_key: the export's artifact as it is now, None when it must be made."""
        identity = conversion_identity(model, name, base_key, self.toolchain)
        plain = model.variants[name].is_source
        dependencies = self.digests({} if was is None else was["dependencies"])
        key = base_key if plain else self.key(identity, dependencies)
        targets = self.targets if model.variants[name].backend == "tensorrt" else ()
        engines = ((t, engine_identity(model, name, key, t)) for t in targets)
        return VariantObservation(
            identity,
            dependencies,
            key,
            plain,
            tuple(EngineObservation(target, engine, self.key(engine)) for target, engine in engines),
        )

    def key(self, identity: Identity, now: Mapping[str, str | None] | None = None) -> str | None:
        return find(identity, self.spec.root, self.cache, now=now)

    def digests(self, names: Iterable[str]) -> dict[str, str | None]:
        return {name: current_digest(name, self.spec.root, self.cache) for name in names}
