"""(a variant's graph) → its TensorRT engine where there is a GPU; elsewhere TensorRT-RTX's proof, and an error that says so."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.actions.action import Artifact, Subject
from tritonsmith.builder.actions.compile.action import Graph, compile_action, proof_action
from tritonsmith.builder.actions.compile.target import EngineTarget, can_compile, not_here
from tritonsmith.builder.base.errors import ToolError
from tritonsmith.builder.base.machine.machine import Machine, this_machine
from tritonsmith.builder.cache.actions import fetched, perform, run
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.plan.engine_profiles import engine_options, engine_profiles


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """One engine of a variant: model.plan and its sidecar, for one kind of GPU."""

    target: EngineTarget
    artifact: Artifact
    was_cached: bool


def engine_artifacts(
    variant: Subject,
    converted: Artifact,
    targets: Sequence[EngineTarget],
    cache: Cache,
    machine: Machine | None = None,
) -> tuple[BuiltEngine, ...]:
    """One engine a target, from the cache or compiled here; machine: None for this one.

    One that is not in the cache and that the machine cannot compile: ToolError gpu_missing, tensorrt_missing or gpu_other,
    after TensorRT-RTX has shown, where it is installed, that the graph parses and lowers; BuildError when it does not.
    """
    machine = machine or this_machine()
    profiles = engine_profiles(variant.spec, variant.variant, converted.record, variant.repository)
    graph = Graph(variant, converted, profiles, engine_options(variant.stated, variant.where))
    built: list[BuiltEngine] = []
    missing: list[ToolError] = []
    # Those that this machine can compile are compiled even where another is missing, for the cache.
    for target in targets:
        try:
            built.append(_engine(graph, target, cache, machine))
        except ToolError as error:  # noqa: PERF203 - one target's alone
            missing.append(error)
    if missing:
        raise missing[0]
    return tuple(built)


def _engine(graph: Graph, target: EngineTarget, cache: Cache, machine: Machine) -> BuiltEngine:
    action = compile_action(graph, target)
    cached = fetched(action, action.identity.key(), cache)
    if cached is not None:
        return BuiltEngine(target, cached, True)
    if not can_compile(target, machine):
        error = not_here(target, machine)
        raise ToolError(
            f"{error.message}; {_proof(graph, cache)}",
            code=error.code,
            seen=error.seen,
            valid=error.valid,
            fix=error.fix,
        )
    return BuiltEngine(target, run(action, graph.of.repository.root, cache), False)


def _proof(graph: Graph, cache: Cache) -> str:
    """What TensorRT-RTX can show of the graph on this machine, in one phrase."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return "not proved: TensorRT-RTX is not installed (pip install 'tritonsmith[rtx]')"
    artifact, _ = perform(proof_action(graph, cache), graph.of.repository.root, cache)
    engine: Mapping[str, Any] = artifact.record["engine"]
    return f"but TensorRT-RTX {engine['version']} parses and lowers this graph here ({engine['bytes'] / 1e6:.1f} MB)"
