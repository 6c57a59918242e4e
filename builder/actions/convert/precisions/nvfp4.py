"""An fp32 model → the same with the constant matrices of its matrix products in NVFP4, and what they are multiplied with, too.

NVFP4: floats of four bits (E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6) in blocks of 16 along the summed dimension, one E4M3
scale a block and one fp32 scale a tensor. Weights are stored so, behind two DequantizeLinear; activations go through
TensorRT's operator TRT_FP4DynamicQuantize, which takes the blocks' scales from the values at run time. Sources:
TensorRT documentation, DynamicQuantize and Quantization Schemes; onnx-tensorrt, docs/operators.md; ONNX DequantizeLinear 23.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.intermediates import run_intermediates
from tritonsmith.builder.actions.convert.conversion import Conversion, Converted
from tritonsmith.builder.actions.convert.graph import at_opset, in_order, names_read
from tritonsmith.builder.actions.convert.precisions.quantize import chosen_nodes

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

OPSET, IR_VERSION = 23, 11
"""The first with FLOAT4E2M1 in DequantizeLinear."""
BLOCK = 16
E2M1_MAX, E4M3_MAX = 6.0, 448.0
_RANKS = (2, 3)
_PRODUCTS = ("Gemm", "MatMul")
DYNAMIC_QUANTIZE, DOMAIN = "TRT_FP4DynamicQuantize", "trt"


def convert_nvfp4(conversion: Conversion) -> Converted:
    """The products with a constant matrix whose blocks come out even."""
    model = conversion.model
    chosen, kept = chosen_nodes(conversion, _PRODUCTS, _unsuitable_nodes(model))
    if not chosen:
        return Converted(model, kept)
    samples = None if conversion.calibration is None else conversion.calibration.samples
    made, alone = nvfp4(model, chosen, conversion.request.source_onnx, samples)
    notes = (f"{len(alone)} of {len(chosen)} products are fp32 with nvfp4 weights",) if alone else ()
    return Converted(made, kept, chosen, notes)


def _unsuitable_nodes(model: Any) -> dict[str, str]:
    """Node name → why it cannot be brought to NVFP4."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in _PRODUCTS or node.input[1] not in shapes:
            continue
        shape = shapes[node.input[1]]
        if len(shape) != 2:
            found[node.name] = f"its weight has {len(shape)} dimensions, not 2"
        elif _attribute(node, "transA"):
            found[node.name] = "its activation is transposed (transA)"
        elif shape[_summed_axis(node)] % BLOCK:
            found[node.name] = f"its summed dimension is {shape[_summed_axis(node)]}, no multiple of {BLOCK}"
    return found


def nvfp4(
    model: Any, nodes: Sequence[str], path: str, samples: Sequence[Mapping[str, Array]] | None
) -> tuple[Any, tuple[str, ...]]:
    """(the model with the named products in NVFP4, products of which only the weight is); without samples all of these.

    path: a file of the same model, for running it on the samples, which give each activation its fp32 scale.
    """
    import onnx

    model = at_opset(model, OPSET)
    model.ir_version = max(model.ir_version, IR_VERSION)
    graph = model.graph
    products = [node for node in graph.node if node.name in set(nodes)]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    added: list[Any] = []
    known: dict[tuple[str, int], str] = {}
    scales = {} if samples is None else _activation_scales(path, samples, products)
    for node in products:
        weight, axis = node.input[1], _summed_axis(node)
        if (weight, axis) not in known:
            values = onnx.numpy_helper.to_array(constants[weight])
            known[weight, axis] = _stored_weight(graph, added, weight, values, axis)
        node.input[1] = known[weight, axis]
        if node.input[0] in scales:
            activation = node.input[0]
            if (activation, -1) not in known:
                known[activation, -1] = _quantized_activation(graph, added, activation, scales[activation])
            node.input[0] = known[activation, -1]
    if scales:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    read = {name for node in (*graph.node, *added) for name in names_read(node)}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.node.extend(added)
    alone = [node.name for node in products if not node.input[0].endswith("_act_nvfp4")]
    in_order(graph)
    return model, tuple(alone)


def _stored_weight(graph: Any, added: list[Any], name: str, values: Array, axis: int) -> str:
    """Two DequantizeLinear that give the weight again; their output's name."""
    import numpy as np
    import onnx

    codes, block_scales, scale = nvfp4_from_fp32(values, axis)
    # Two codes a byte, the first in the lower half.
    flat = codes.reshape(-1).view(np.uint8)
    packed = (flat[0::2] & 15) | (flat[1::2] << 4)
    kinds = onnx.TensorProto
    graph.initializer.extend(
        [
            onnx.helper.make_tensor(f"{name}_fp4", kinds.FLOAT4E2M1, codes.shape, packed.tobytes(), raw=True),
            onnx.helper.make_tensor(
                f"{name}_blocks", kinds.FLOAT8E4M3FN, block_scales.shape, block_scales.tobytes(), raw=True
            ),
            onnx.numpy_helper.from_array(np.float32(scale).reshape(()), f"{name}_scale"),
        ]
    )
    added += _dequantized(f"{name}_fp4", f"{name}_blocks", f"{name}_scale", f"{name}_nvfp4", axis)
    return f"{name}_nvfp4"


def nvfp4_from_fp32(values: Array, axis: int) -> tuple[Array, Array, float]:
    """(E2M1 codes, E4M3 scale of each block, fp32 scale): values ≈ codes × block scale × scale."""
    import ml_dtypes
    import numpy as np

    moved = np.moveaxis(values.astype(np.float32), axis, 0)
    blocks = moved.reshape(moved.shape[0] // BLOCK, BLOCK, *moved.shape[1:])
    largest = np.abs(blocks).max(axis=1)
    scale = float(max(largest.max(initial=0.0) / (E2M1_MAX * E4M3_MAX), np.finfo(np.float32).tiny))
    block_scales = (largest / E2M1_MAX / scale).astype(ml_dtypes.float8_e4m3fn)
    step = block_scales.astype(np.float32)[:, None] * np.float32(scale)
    scaled = np.divide(blocks, step, out=np.zeros_like(blocks), where=step > 0)
    codes = np.clip(scaled, -E2M1_MAX, E2M1_MAX).astype(ml_dtypes.float4_e2m1fn).reshape(moved.shape)
    return (
        np.ascontiguousarray(np.moveaxis(codes, 0, axis)),
        np.ascontiguousarray(np.moveaxis(block_scales, 0, axis)),
        scale,
    )


def _activation_scales(
    path: str, samples: Sequence[Mapping[str, Array]], products: Sequence[Any]
) -> dict[str, float]:
    """Largest magnitude of each activation ÷ the largest that both kinds of scale can say.

    TensorRT's quantizer takes matrices and batches of them; other activations are left out.
    """
    import numpy as np

    names = list(dict.fromkeys(node.input[0] for node in products))
    given = [name for name in names if all(name in sample for sample in samples)]
    fed = ((0, name, sample[name]) for sample in samples for name in given)
    inner = run_intermediates(path, [name for name in names if name not in given], samples)
    largest: dict[str, float] = {}
    for _, name, value in (*fed, *inner):
        if value.ndim not in _RANKS:
            continue
        largest[name] = max(largest.get(name, 0.0), float(np.abs(value).max(initial=0.0)))
    return {name: value / (E2M1_MAX * E4M3_MAX) for name, value in largest.items() if value > 0}


def _quantized_activation(graph: Any, added: list[Any], name: str, scale: float) -> str:
    import numpy as np
    import onnx

    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(scale).reshape(()), f"{name}_act_scale"))
    added.append(
        onnx.helper.make_node(
            DYNAMIC_QUANTIZE,
            [name, f"{name}_act_scale"],
            [f"{name}_act_fp4", f"{name}_act_blocks"],
            name=f"{name}_act_quantize",
            domain=DOMAIN,
            axis=-1,
            block_size=BLOCK,
            scale_type=int(onnx.TensorProto.FLOAT8E4M3FN),
        )
    )
    added += _dequantized(
        f"{name}_act_fp4", f"{name}_act_blocks", f"{name}_act_scale", f"{name}_act_nvfp4", -1
    )
    return f"{name}_act_nvfp4"


def _dequantized(codes: str, blocks: str, scale: str, output: str, axis: int) -> list[Any]:
    import onnx

    make = onnx.helper.make_node
    return [
        make("DequantizeLinear", [blocks, scale], [f"{blocks}_fp32"], name=f"{blocks}_dequantize"),
        make(
            "DequantizeLinear",
            [codes, f"{blocks}_fp32"],
            [output],
            name=f"{codes}_dequantize",
            axis=axis,
            block_size=BLOCK,
        ),
    ]


def _summed_axis(node: Any) -> int:
    """Of the weight, the dimension that is summed over."""
    return 1 if node.op_type == "Gemm" and _attribute(node, "transB") else 0


def _attribute(node: Any, name: str) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), 0)
