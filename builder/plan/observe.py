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
from tritonsmith.builder.actions.convert.action import conversion_identity, is_plain
from tritonsmith.builder.actions.export.action import source_identity
from tritonsmith.builder.base.errors import ConfigError, TritonsmithError
from tritonsmith.builder.base.files.digest import digest_of_value, total_digest
from tritonsmith.builder.base.files.untrusted import read_bounded
from tritonsmith.builder.base.machine.machine import Machine
from tritonsmith.builder.base.machine.toolchain import Toolchain
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.cache.actions import current_digest, find
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.model_config.model_config import TEMPLATE, model_config_from_text
from tritonsmith.builder.model_config.templates import template_files
from tritonsmith.builder.plan.engine_targets import engine_targets
from tritonsmith.builder.plan.observation import EngineObservation, Observation, VariantObservation
from tritonsmith.builder.repository.lock import Lock, LockedModel, LockedVariant
from tritonsmith.builder.repository.repository import model_files
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


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
    at = _Look(repository_spec, cache, toolchain, engine_targets(repository_spec, machine))
    observed: dict[str, Observation] = {}
    failures: dict[str, TritonsmithError] = {}
    for spec in (spec for spec in repository_spec.models if spec.name in names):
        try:
            config = config_digests(spec, repository_spec, repository, templates, cache)
            files = model_files(repository / spec.name, cache.stats)
            observed[spec.name] = at.model(spec, lock.models.get(spec.name), config, files)
        except Exception as error:  # noqa: PERF203 - one model's alone
            failures[spec.name] = failure_of(error, spec.name)
    return observed, failures


@dataclass(frozen=True, slots=True)
class _Look:
    """What every model's actions are looked for by."""

    repository: RepositorySpec
    cache: Cache
    toolchain: Toolchain
    targets: Sequence[EngineTarget]

    def model(
        self, spec: ModelSpec, locked: LockedModel | None, config: Mapping[str, str], files: Mapping[str, str]
    ) -> Observation:
        identity = source_identity(spec, self.toolchain)
        dependencies = self.digests({} if locked is None else locked.dependencies)
        key = self.key(identity, dependencies)
        was: Mapping[str, LockedVariant] = {} if locked is None else locked.variants
        return Observation(
            parameters=identity.parameters,
            tools=identity.tools,
            dependencies=dependencies,
            cached_key=key,
            variants={name: self.variant(spec, name, was.get(name), key) for name in spec.variants},
            config=config,
            files=files,
        )

    def variant(
        self, spec: ModelSpec, name: str, was: LockedVariant | None, base_key: str | None
    ) -> VariantObservation:
        """base_key: the export's artifact as it is now, None when it must be made."""
        identity = conversion_identity(spec, name, base_key, self.toolchain)
        plain = is_plain(spec.variants[name])
        dependencies = self.digests({} if was is None else was["dependencies"])
        key = base_key if plain else self.key(identity, dependencies)
        targets = self.targets if spec.variants[name].backend == "tensorrt" else ()
        engines = ((t, engine_identity(spec, name, key, t)) for t in targets)
        return VariantObservation(
            identity,
            dependencies,
            key,
            plain,
            tuple(EngineObservation(target, engine, self.key(engine)) for target, engine in engines),
        )

    def key(self, identity: Identity, now: Mapping[str, str | None] | None = None) -> str | None:
        return find(identity, self.repository.root, self.cache, now=now)

    def digests(self, names: Iterable[str]) -> dict[str, str | None]:
        return {name: current_digest(name, self.repository.root, self.cache) for name in names}
