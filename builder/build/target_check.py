"""(spec, target) → nothing, or the error of the first model that the target could not load; nothing is built for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tritonsmith.builder.base.errors import GateError
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.base.machine.machine import Machine
from tritonsmith.builder.base.text.quantities import counted, text_of_bytes
from tritonsmith.builder.lint.read.onnx_io import OnnxProblem, read_onnx
from tritonsmith.builder.lint.target import Target, target_of_backend
from tritonsmith.builder.llm.memory import gpus_used, room_bytes
from tritonsmith.builder.llm.weights import read_weights
from tritonsmith.builder.plan.engine_profiles import engine_options
from tritonsmith.builder.plan.engine_targets import engine_targets
from tritonsmith.builder.plan.targets import (
    PlannedModel,
    ServingTarget,
    check_target,
    serving_target,
    target_from_reference,
)
from tritonsmith.builder.spec.model_spec import weights_of_variant
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec
from tritonsmith.builder.spec.variant_spec import Variant

_Q4_0_BITS = 4.5
# IR version that the exporter of torch writes.
_EXPORT_IR_VERSION = 10


def check_planned(spec: RepositorySpec, reference: str | None, machine: Machine) -> Target | None:
    """Holds every model and variant against the spec's `target:`, or against `reference` instead.

    reference: a release, an image or a live server's URL. machine: decides only where the spec names no TensorRT:
    engines are compiled for the target, by whichever machine has its GPU. Returns the target, None when none is stated.
    GateError names the model, what the target has and what would do.
    """
    if reference is not None:
        target = ServingTarget(target_from_reference(reference))
    elif spec.target.triton or spec.target.gpus or spec.target.tensorrt:
        target = serving_target(spec.target, spec.source.where(("target",)))
    else:
        return None
    for planned in (p for model in spec.models for p in _planned(model, spec, machine)):
        meant = target_of_backend(target.target, planned.backend)
        check_target(replace(target, target=meant), [planned])
    for model in spec.models:
        _check_memory(model, spec, target.kinds)
    return target.target


def _check_memory(model: ModelSpec, spec: RepositorySpec, kinds: Sequence[str]) -> None:
    """GateError target_memory for a language model whose weights alone are larger than what its GPUs give the engine."""
    path = source_path(model.source.reference, spec.root) if model.source.kind == "llm" else None
    if path is None or not kinds or not path.exists():
        return
    needed = _least_bytes(model, read_weights(path).weight_bytes, spec)
    for kind in kinds:
        room = room_bytes(kind, model.engine)
        if room is not None and needed > room:
            gpus = gpus_used(model.engine)
            raise GateError(
                f"{model.name}: its weights are larger than what the engine may use of {counted(gpus, kind + ' GPU')}",
                code="target_memory",
                where=spec.where(model.name, "source", "llm"),
                seen=f"{text_of_bytes(needed)} of weights, {text_of_bytes(room)} of memory",
                fix=f"engine: {{tensor_parallel_size: {2 ** math.ceil(math.log2(needed / room * gpus))}}}, or weights "
                "of fewer bits",
            )


def _least_bytes(model: ModelSpec, source_bytes: int, spec: RepositorySpec) -> float:
    """Of what may be served; of a variant that is still to be made at least that of F32 weights made to Q4_0."""
    sizes: list[float] = []
    for name in model.preference or ("",):
        file = weights_of_variant(model, name) if name else None
        stated = model.variants[name].llm if name else None
        if file is None:
            sizes.append(source_bytes)
        elif stated is not None and source_path(stated, spec.root).is_file():
            sizes.append(source_path(stated, spec.root).stat().st_size)
        else:
            sizes.append(source_bytes * _Q4_0_BITS / 32)
    return min(sizes)


def _planned(model: ModelSpec, spec: RepositorySpec, machine: Machine) -> Iterator[PlannedModel]:
    opset, ir_version = _versions(model, spec)
    tensorrt = engine_targets(spec, machine)[0].tensorrt
    # Weights of any type are the same backend's.
    variants = {} if model.source.kind == "llm" else model.variants
    for name, variant in (variants or {"": Variant()}).items():
        where = spec.where(model.name, "variants", name) if name else spec.where(model.name, "source")
        yield PlannedModel(
            model=f"{model.name}/{name}" if name else model.name,
            backend=_backend(model, variant, bool(name)),
            opset=opset,
            ir_version=ir_version,
            tensorrt=tensorrt,
            precision=variant.precision,
            options=engine_options(variant, where),
            where=where,
        )


def _backend(model: ModelSpec, variant: Variant, stated: bool) -> str:
    config = model.config.as_proto_json()
    if config.get("backend"):
        return str(config["backend"])
    return variant.backend if stated else model.source.row.backend


def _versions(model: ModelSpec, spec: RepositorySpec) -> tuple[int | None, int | None]:
    """(opset, IR version) that the model's ONNX file has or will have."""
    if model.source.row.opset == "asked":
        return model.opset, _EXPORT_IR_VERSION
    if model.source.row.opset is None:
        return None, None
    try:
        graph = read_onnx(source_path(model.source.reference, spec.root))
    except OnnxProblem:
        return None, None  # the export says what is wrong with it
    return graph.opset, graph.ir_version
