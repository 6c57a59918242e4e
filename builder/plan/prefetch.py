"""(spec, a cache with a shared one behind it) → what observing will ask of the shared cache, read in a few round trips."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tritonsmith.builder.actions.action import Identity
from tritonsmith.builder.actions.compile.action import engine_identity
from tritonsmith.builder.actions.convert.action import conversion_identity
from tritonsmith.builder.actions.export.action import source_identity
from tritonsmith.builder.base.machine.machine import Machine
from tritonsmith.builder.base.machine.toolchain import Toolchain
from tritonsmith.builder.cache.actions import find, key_now
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.plan.engine_targets import engine_targets
from tritonsmith.builder.spec.spec import RepositorySpec

_Variant = tuple[str, str]
"""(model, variant)"""
_Name = TypeVar("_Name", str, _Variant)


def prefetch(
    spec: RepositorySpec, cache: Cache, toolchain: Toolchain, names: Collection[str], machine: Machine
) -> None:
    """Reads at once what is known elsewhere of the models named; asks nothing about what the local cache has.

    Three rounds, because the key of a graph holds its export's, and that of an engine its graph's.
    """
    if cache.shared is None:
        return
    models = {m.name: m for m in spec.models if m.name in names}
    sources = {name: source_identity(model, toolchain) for name, model in models.items()}
    graphs: dict[_Variant, str] = {}
    conversions: dict[_Variant, Identity] = {}
    for name, key in _fetched(sources, spec.root, cache).items():
        for variant, stated in models[name].variants.items():
            if stated.is_source:
                graphs[name, variant] = key
            else:
                conversions[name, variant] = conversion_identity(models[name], variant, key, toolchain)
    graphs |= _fetched(conversions, spec.root, cache)
    engines = [
        engine_identity(models[name], variant, key, target).key()
        for (name, variant), key in graphs.items()
        if models[name].variants[variant].backend == "tensorrt"
        for target in engine_targets(spec, machine)
    ]
    cache.shared.prefetch_entries([key for key in engines if not cache.has_here(key)])


def _fetched(identities: Mapping[_Name, Identity], root: Path, cache: Cache) -> dict[_Name, str]:
    """Names of actions → keys of their artifacts, here or elsewhere; names without one are left out."""
    keys = {name: find(identity, root, cache, here=True) for name, identity in identities.items()}
    missing = {str(identities[name].request): identities[name] for name, key in keys.items() if key is None}

    def now(request: str, dependencies: Sequence[str]) -> str | None:
        return key_now(missing[request], dependencies, root, cache)

    cache.prefetch(list(missing), now)
    keys |= {name: find(identities[name], root, cache) for name, key in keys.items() if key is None}
    return {name: key for name, key in keys.items() if key is not None}
