"""(a variant's graph, what it is compiled for) → the Action that compiles its engine, or TensorRT-RTX's proof of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic.config import with_config
from typing_extensions import TypedDict

from tritonsmith.builder.actions.action import (
    Action,
    Artifact,
    Identity,
    Ran,
    Subject,
    Workplace,
    request_digest,
)
from tritonsmith.builder.actions.compile.compilers.tensorrt import PLAN
from tritonsmith.builder.actions.compile.identity import AskedEngine, differences, refuse_other
from tritonsmith.builder.actions.compile.profiles import OptimizationProfile
from tritonsmith.builder.actions.compile.request import (
    CompileOptions,
    CompileRequest,
    CompileResult,
    EngineKind,
)
from tritonsmith.builder.actions.compile.run import run_compile
from tritonsmith.builder.actions.compile.target import EngineTarget
from tritonsmith.builder.actions.convert.action import ConvertRecord
from tritonsmith.builder.actions.export.action import stated_dims
from tritonsmith.builder.actions.record import MORE, Count
from tritonsmith.builder.base.files.untrusted import json_value, read_bounded
from tritonsmith.builder.base.machine.toolchain import this_toolchain
from tritonsmith.builder.base.tensors import tensor_from_dict
from tritonsmith.builder.spec.spec import ModelSpec


@with_config(MORE)
class _Engine(TypedDict):
    version: str
    compute_capability: str | None
    profiles: Count
    bytes: Count


@with_config(MORE)
class ProofRecord(TypedDict):
    """Of TensorRT-RTX's proof."""

    engine: _Engine


@with_config(MORE)
class CompileRecord(ConvertRecord, ProofRecord):
    """Of an engine."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A variant's graph, with what its engine is compiled by."""

    of: Subject
    artifact: Artifact
    profiles: tuple[OptimizationProfile, ...]
    options: CompileOptions

    def request(self, place: Workplace, engine: EngineKind, capability: str | None = None) -> CompileRequest:
        """As a compilation to run."""
        return CompileRequest(
            model=self.of.name,
            engine=engine,
            onnx=str(self.artifact.onnx),
            profiles=self.profiles,
            options=self.options,
            opset=self.artifact.record["opset"],
            timing_cache_directory=str(place.root / "timing"),
            compute_capability=capability,
        )


def engine_identity(spec: ModelSpec, name: str, graph_key: str | None, target: EngineTarget) -> Identity:
    """The graph, what it is built with and for; graph_key: None while the graph is not there."""
    batching = spec.config.as_proto_json().get("dynamic_batching", {})
    parameters = {
        **spec.variants[name].engine_settings(),
        "max_batch_size": spec.max_batch_size,
        "preferred_batch_size": batching.get("preferred_batch_size", []),
        "dynamic_dims": stated_dims(spec),
    }
    # Called as it always was: another word would be another key.
    request = (
        None if graph_key is None else request_digest("convert", parameters, target.tools, base=graph_key)
    )
    return Identity(parameters, target.tools, request)


def compile_action(graph: Graph, target: EngineTarget) -> Action:
    """model.plan and its sidecar. What was compiled, here or elsewhere, is held against what is asked for."""
    asked = AskedEngine(
        "tensorrt",
        target.tensorrt,
        target.compute_capability,
        target.platform,
        graph.options,
        graph.profiles,
        tuple(
            (t.name, t.dtype.config, t.wire_shape)
            for kind in ("inputs", "outputs")
            for t in map(tensor_from_dict, graph.artifact.record[kind])
        ),
    )
    return Action(
        "compile",
        f"compile {graph.of.name} for {target.name}",
        engine_identity(graph.of.spec, graph.of.variant, graph.artifact.key, target),
        partial(_compile, graph, target, asked),
        partial(_differences, asked),
    )


def _compile(graph: Graph, target: EngineTarget, asked: AskedEngine, made: Path, place: Workplace) -> Ran:
    request = graph.request(place, "tensorrt", target.compute_capability)
    result = run_compile(request, made, graph.of.log(place, f"/engine/{target.compute_capability}"))
    refuse_other(asked, made / PLAN, _sidecar(made), request.model)
    record = graph.artifact.record
    return Ran(
        {
            **record,
            "tools": target.tools,
            "served_files": [result.engine_path, result.sidecar_path],
            "engine": _told(result, graph.profiles),
            "notes": [*record["notes"], *result.notes],
        }
    )


def _differences(asked: AskedEngine, directory: Path) -> Sequence[str]:
    return differences(asked, directory / PLAN, _sidecar(directory))


def _sidecar(directory: Path) -> Mapping[str, Any]:
    """What lies beside the plan; nothing where it cannot be read, which differs from all that was asked."""
    try:
        told = json_value(read_bounded(directory / f"{PLAN}.json"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def proof_action(graph: Graph, place: Workplace) -> Action:
    """TensorRT-RTX's engine, kept in the cache and never laid out: it is no Triton plan."""
    request = graph.request(place, "tensorrt_rtx")
    parameters, tools = request.identity(), this_toolchain().fingerprint("tensorrt-rtx")
    identity = Identity(
        parameters, tools, request_digest("convert", parameters, tools, base=graph.artifact.key)
    )
    return Action("proof", f"prove {graph.of.name}", identity, partial(_prove, graph))


def _prove(graph: Graph, made: Path, place: Workplace) -> Ran:
    result = run_compile(graph.request(place, "tensorrt_rtx"), made, graph.of.log(place, "/proof"))
    return Ran({"engine": _told(result, graph.profiles)})


def _told(result: CompileResult, profiles: Sequence[OptimizationProfile]) -> dict[str, Any]:
    return {
        "version": result.version,
        "compute_capability": result.compute_capability,
        "profiles": len(profiles),
        "bytes": result.engine_bytes,
    }
