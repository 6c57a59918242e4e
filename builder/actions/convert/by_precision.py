"""(request, prepared fp32 model, nodes to leave out) → the model at a precision, what stayed and what was converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.calibration import Calibration
from tritonsmith.builder.actions.accuracy.samples import SampleSet
from tritonsmith.builder.actions.convert import graph as graphs
from tritonsmith.builder.actions.convert.coverage import not_quantizable
from tritonsmith.builder.actions.convert.prepare import split_shared_constants
from tritonsmith.builder.actions.convert.request import ConvertRequest, KeptNode

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array


NONE: tuple[str, ...] = ()


Converted = tuple[Any, tuple[KeptNode, ...], tuple[str, ...], tuple[str, ...]]
"""(model, kept, names of converted nodes, notes)"""


def half(
    request: ConvertRequest,
    model: Any,
    excluded: Mapping[str, str],
    calibration: Calibration | None,
    held_out: SampleSet,
) -> Converted:
    """fp16 and bf16: by a cast of graph and weights; fp16 where nothing overflows."""
    from tritonsmith.builder.actions.convert.precisions.half import bf16_from_fp32, fp16_from_fp32
    from tritonsmith.builder.actions.convert.precisions.overflow import overflowing_nodes, unfit_constants

    types = {node.name: node.op_type for node in model.graph.node}
    notes: tuple[str, ...] = ()
    keep = dict(excluded)
    opset = graphs.opset_of(model)
    if request.precision == "fp16":
        samples = _range_samples(calibration, held_out)
        keep |= unfit_constants(model)
        if samples:
            keep |= overflowing_nodes(model, request.source_onnx, samples)
        else:
            notes = ("no samples: nodes were not checked for overflow in fp16",)
        model, kept = fp16_from_fp32(model, keep, request.keep_io)
    else:
        model, kept = bf16_from_fp32(model, keep, request.keep_io)
        if graphs.opset_of(model) != opset:
            notes = (f"opset raised from {opset} to {graphs.opset_of(model)} for bf16",)
    half = tuple(node.name for node in model.graph.node if node.name in types and node.name not in kept)
    return model, _kept(kept, types), half, notes


def _range_samples(
    calibration: Calibration | None, held_out: SampleSet, limit: int = 8
) -> list[Mapping[str, Array]]:
    samples = [sample.inputs for sample in held_out.samples]
    return [*samples, *(calibration.samples if calibration else ())][:limit]


def int4(request: ConvertRequest, model: Any, excluded: Mapping[str, str], options: Any) -> Converted:
    """int4: weights only, in blocks."""
    from tritonsmith.builder.actions.convert.precisions.quantize import quantizable_nodes
    from tritonsmith.builder.actions.convert.precisions.weight_only import int4_weights

    types = {node.name: node.op_type for node in model.graph.node}
    candidates = quantizable_nodes(model, ("MatMul",))
    kept = {name: reason for name, reason in excluded.items() if name in candidates}
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    kept |= {
        node.name: f"its weight has {ranks[node.input[1]]} dimensions, not 2"
        for node in model.graph.node
        if node.name in candidates and ranks[node.input[1]] != 2
    }
    kept |= not_quantizable(model, ("MatMul",), "int4")
    chosen = [name for name in candidates if name not in kept]
    if not chosen:
        return model, _kept(kept, types), (), ()
    return int4_weights(model, list(excluded), options), _kept(kept, types), tuple(chosen), ()


def nvfp4(
    request: ConvertRequest, model: Any, excluded: Mapping[str, str], calibration: Calibration | None
) -> Converted:
    """nvfp4: weights, and activations where there is calibration data."""
    from tritonsmith.builder.actions.convert.precisions.nvfp4 import nvfp4, unsuitable_nodes
    from tritonsmith.builder.actions.convert.precisions.quantize import quantizable_nodes

    types = {node.name: node.op_type for node in model.graph.node}
    candidates = quantizable_nodes(model, ("Gemm", "MatMul"))
    kept = {name: reason for name, reason in excluded.items() if name in candidates}
    kept |= unsuitable_nodes(model, [name for name in candidates if name not in kept])
    kept |= not_quantizable(model, ("Gemm", "MatMul"), "nvfp4")
    chosen = [name for name in candidates if name not in kept]
    if not chosen:
        return model, _kept(kept, types), (), ()
    samples = None if calibration is None else calibration.samples
    made, alone = nvfp4(model, chosen, request.source_onnx, samples)
    notes = (f"{len(alone)} of {len(chosen)} products are fp32 with nvfp4 weights",) if alone else ()
    return made, _kept(kept, types), tuple(chosen), notes


def quantized(
    request: ConvertRequest, model: Any, excluded: Mapping[str, str], options: Any, calibration: Calibration
) -> Converted:
    """int8 and fp8: by QuantizeLinear and DequantizeLinear around what was calibrated."""
    from tritonsmith.builder.actions.convert.precisions.quantize import (
        quantizable_nodes,
        quantized_fp8,
        quantized_int8,
    )
    from tritonsmith.builder.actions.convert.precisions.smooth import smoothed

    types = {node.name: node.op_type for node in model.graph.node}
    candidates = quantizable_nodes(model, options.op_types)
    kept = {name: reason for name, reason in excluded.items() if name in candidates}
    kept |= not_quantizable(model, options.op_types, request.precision)
    chosen = [name for name in candidates if name not in kept]
    notes: tuple[str, ...] = ()
    if not chosen:
        return model, _kept(kept, types), (), ()
    # What is not quantized reads the weight itself, not what its rounding gives back.
    split_shared_constants(model, set(types) - set(chosen))
    if options.smooth_quant is not None:
        count = smoothed(model, request.source_onnx, calibration.samples, chosen, options.smooth_quant)
        notes = (f"SmoothQuant, exponent {options.smooth_quant:g}, on {count} activations",)
    quantize = quantized_int8 if request.precision == "int8" else quantized_fp8
    return quantize(model, calibration.samples, chosen, options), _kept(kept, types), tuple(chosen), notes


def _kept(reasons: Mapping[str, str], types: Mapping[str, str]) -> tuple[KeptNode, ...]:
    return tuple(KeptNode(name, types[name], reason) for name, reason in reasons.items() if name in types)
