"""(fp32 model, calibration samples, exponent) → the same function with ranges moved from activations to weights.

SmoothQuant (Xiao et al. 2022, arXiv:2211.10438, equation 4): s_j = max|X_j|^α / max|W_j|^(1−α) for each input
channel j; X is divided by s and W's rows multiplied by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.intermediates import run_intermediates

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

_SMALLEST = 1e-5


def smoothed(
    model: Any, path: str, samples: Sequence[Mapping[str, Array]], nodes: Sequence[str], alpha: float
) -> int:
    """Rewrites the model in place → number of activations that were scaled.

    nodes: those to be quantized; of these, MatMul and Gemm with a constant weight that no other node reads.
    path: a file of the same model, for running it.
    """
    import onnx

    groups = _groups(model, set(nodes))
    if not groups:
        return 0
    largest = _channel_maxima(path, samples, list(groups))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    scaled: dict[str, Any] = {}
    for activation, members in groups.items():
        scale = _scale(largest[activation], [(n, weights[n.input[1]]) for n in members], alpha)
        for node in members:
            _multiply_rows(node, weights[node.input[1]], scale)
            node.input[0] = f"{activation}_smooth"
        model.graph.initializer.append(
            onnx.numpy_helper.from_array((1.0 / scale).astype("float32"), f"{activation}_smoothing")
        )
        scaled[activation] = onnx.helper.make_node(
            "Mul",
            [activation, f"{activation}_smoothing"],
            [f"{activation}_smooth"],
            name=f"{activation}_smooth_mul",
        )
    _insert(model.graph, scaled)
    return len(scaled)


def _groups(model: Any, nodes: set[str]) -> dict[str, list[Any]]:
    """Activation → the nodes that multiply it with a constant matrix of their own, of one height."""
    import onnx

    weights = {
        t.name: t
        for t in model.graph.initializer
        if len(t.dims) == 2 and t.data_type == onnx.TensorProto.FLOAT
    }
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    found: dict[str, list[Any]] = {}
    for node in model.graph.node:
        usable = node.op_type in ("MatMul", "Gemm") and node.name in nodes and node.input[1] in weights
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        if usable and not transposed and readers[node.input[1]] == 1 and node.input[0] not in weights:
            found.setdefault(node.input[0], []).append(node)
    return found


def _channel_maxima(
    path: str, samples: Sequence[Mapping[str, Array]], names: Sequence[str]
) -> dict[str, Array]:
    """Largest magnitude of each channel (last axis) over all samples."""
    import numpy as np

    found: dict[str, Array] = {}
    inner = [name for name in names if all(name not in sample for sample in samples)]
    given = [name for name in names if name not in inner]
    fed = ((i, name, sample[name]) for i, sample in enumerate(samples) for name in given)
    for _, name, value in (*fed, *run_intermediates(path, inner, samples)):
        maxima = np.abs(value.reshape(-1, value.shape[-1])).max(axis=0)
        found[name] = np.maximum(found[name], maxima) if name in found else maxima
    return found


def _scale(largest: Array, members: Sequence[tuple[Any, Any]], alpha: float) -> Array:
    import numpy as np
    import onnx

    rows = [_rows(node, onnx.numpy_helper.to_array(weight)) for node, weight in members]
    weight_max = np.max([np.abs(matrix).max(axis=1) for matrix in rows], axis=0)
    scale = np.maximum(largest, _SMALLEST) ** alpha / np.maximum(weight_max, _SMALLEST) ** (1 - alpha)
    smoothing: Array = np.maximum(scale, _SMALLEST).astype(np.float32)
    return smoothing


def _rows(node: Any, matrix: Array) -> Array:
    """[input channels, output channels], whatever Gemm's transB says."""
    return matrix.T if _transposed(node) else matrix


def _transposed(node: Any) -> bool:
    return node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)


def _multiply_rows(node: Any, weight: Any, scale: Array) -> None:
    import onnx

    matrix = onnx.numpy_helper.to_array(weight)
    scaled = matrix * (scale[None, :] if _transposed(node) else scale[:, None])
    weight.CopyFrom(onnx.numpy_helper.from_array(scaled.astype(matrix.dtype), weight.name))


def _insert(graph: Any, after: Mapping[str, Any]) -> None:
    """Puts each new node behind the producer of the tensor it reads; graph inputs' readers come first."""
    nodes = list(graph.node)
    produced = {name for node in nodes for name in node.output}
    ordered = [node for name, node in after.items() if name not in produced]
    for node in nodes:
        ordered.append(node)
        ordered += [after[name] for name in node.output if name in after]
    copies = list(ordered)
    del graph.node[:]
    graph.node.extend(copies)
