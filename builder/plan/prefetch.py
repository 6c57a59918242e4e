"""(spec, a cache with a shared one behind it) → what observing will ask of the shared cache, read in a few round trips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tritonsmith.builder.base.machine import Machine
from tritonsmith.builder.base.toolchain import Toolchain
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.plan.engine_targets import engine_targets
from tritonsmith.builder.plan.observe import (
    converted_parameters,
    converted_tools,
    engine_key,
    export_parameters,
    export_tools,
    find_cached,
    is_plain,
    key_now,
    variant_request,
)
from tritonsmith.builder.plan.plan import request_digest
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
    exports = _fetched(
        {
            name: request_digest(export_parameters(model), export_tools(model, toolchain))
            for name, model in models.items()
        },
        spec.root,
        cache,
    )
    graphs: dict[_Variant, str] = {}
    requests: dict[_Variant, str] = {}
    for name, key in exports.items():
        for variant, stated in models[name].variants.items():
            if is_plain(stated):
                graphs[name, variant] = key
            else:
                parameters = converted_parameters(models[name], variant)
                tools = converted_tools(models[name], variant, toolchain)
                requests[name, variant] = variant_request(key, parameters, tools)
    graphs |= _fetched(requests, spec.root, cache)
    engines = [
        engine_key(models[name], variant, key, target)
        for (name, variant), key in graphs.items()
        if models[name].variants[variant].backend == "tensorrt"
        for target in engine_targets(spec, machine)
    ]
    cache.shared.prefetch_entries([key for key in engines if not cache.has_here(key)])


def _fetched(requests: Mapping[_Name, str], root: Path, cache: Cache) -> dict[_Name, str]:
    """Names of requests → keys of their artifacts, here or elsewhere; names without one are left out."""

    def now(request: str, dependencies: Sequence[str]) -> str | None:
        return key_now(request, dependencies, root, cache)

    keys = {name: _key_here(request, now, cache) for name, request in requests.items()}
    missing = {name: requests[name] for name, key in keys.items() if key is None}
    cache.prefetch(list(missing.values()), now)
    keys |= {name: find_cached(request, root, cache) for name, request in missing.items()}
    return {name: key for name, key in keys.items() if key is not None}


def _key_here(request: str, now: Callable[[str, Sequence[str]], str | None], cache: Cache) -> str | None:
    keys = (now(request, dependencies) for dependencies in cache.remembered_here(request))
    return next((key for key in keys if key is not None and cache.has_here(key)), None)
