"""(fp32 model, variant, one sample) → how much each layer loses by itself and in sum, and which to exclude.

A layer's own loss comes from feeding it the fp32 model's values: what it reads is right, so what it gives
differs by its own rounding alone. Its total loss is the difference in a run of the whole variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.intermediates import run_intermediates
from tritonsmith.builder.base.files.json_forms import JsonForm

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

ROWS = 4
"""Rows of the sample looked at; which layers lose most shows on a few."""

OUTSTANDING = 2.0
"""A layer that loses this many times the median layer's own loss is proposed for exclusion."""


@dataclass(frozen=True, slots=True)
class LayerLoss(JsonForm):
    """One node of the fp32 model and the relative L2 of its first output in the variant.

    own_loss:   when it reads what the fp32 model computes.
    total_loss: when the whole variant runs.
    """

    node: str
    op_type: str
    own_loss: float
    total_loss: float


def layer_losses(source: Path, variant: Path, inputs: Mapping[str, Array]) -> tuple[LayerLoss, ...]:
    """Every node that both models have and that gives floats, the largest own loss first.

    BuildError intermediates when ONNX Runtime cannot load one of them as written, its own exceptions when it cannot run.
    """
    import onnx

    from tritonsmith.builder.actions.convert.graph import load_prepared

    original, changed = load_prepared(source), onnx.load(str(variant))
    first = _few_rows(original, inputs)
    kept = {name for node in changed.graph.node for name in node.output}
    nodes = [node for node in original.graph.node if node.output and node.output[0] in kept]
    read = {name for node in nodes for name in node.input} & {
        o for n in original.graph.node for o in n.output
    }
    wanted = [*dict.fromkeys([*read, *(node.output[0] for node in nodes)])]
    right = {name: value for _, name, value in run_intermediates(str(source), wanted, [first])}
    names = [node.output[0] for node in nodes if _is_float(right[node.output[0]])]
    total = {
        name: _loss(value, right[name]) for _, name, value in run_intermediates(str(variant), names, [first])
    }
    values = {**right, **first}
    pieces = _Pieces(changed, set(values))
    found = []
    for node in nodes:
        name = node.output[0]
        if name in total:
            own = _loss(pieces.run(name, values), right[name])
            found.append(LayerLoss(node.name, node.op_type, own, total[name]))
    return tuple(sorted(found, key=lambda loss: -loss.own_loss))


def _few_rows(model: Any, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """The first ROWS rows where the inputs are rows of one batch; all of them where the model fixes how many there are."""
    counts = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    dims = [value.type.tensor_type.shape.dim for value in model.graph.input if value.name in inputs]
    if len(counts) != 1 or any(not dim or dim[0].dim_value for dim in dims):
        return inputs
    return {name: array[:ROWS] for name, array in inputs.items()}


def suggested_exclude(losses: Sequence[LayerLoss], candidates: Sequence[str]) -> tuple[str, ...]:
    """Of the candidate nodes, those that lose outstandingly; the worst one when none stands out; a quarter at most."""
    ranked = [loss for loss in losses if loss.node in set(candidates)]
    if len(ranked) < 2:
        return ()
    median = ranked[len(ranked) // 2].own_loss
    outstanding = [loss.node for loss in ranked if loss.own_loss > OUTSTANDING * median]
    return tuple(outstanding[: max(1, len(ranked) // 4)] or [ranked[0].node])


class _Pieces:
    """Runs single layers of a model: from the known tensors nearest above an output to that output."""

    def __init__(self, model: Any, known: set[str]) -> None:
        self._model = model
        self._known = known
        self._producer = {name: node for node in model.graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def run(self, output: str, values: Mapping[str, Array]) -> Array:
        import onnx
        import onnxruntime as ort

        nodes, inputs = self._above(output)
        constants = {name for node in nodes for name in node.input if name in self._constants}
        graph = onnx.helper.make_graph(
            nodes,
            "layer",
            [onnx.helper.make_tensor_value_info(n, self._type(n, values), None) for n in inputs],
            [onnx.helper.make_empty_tensor_value_info(output)],
            [self._constants[name] for name in sorted(constants)],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {n: values[n] for n in inputs}
        result: Array = session.run([output], feeds)[0]
        return result

    def _type(self, name: str, values: Mapping[str, Array]) -> int:
        import onnx

        return int(onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype))

    def _above(self, output: str) -> tuple[list[Any], list[str]]:
        """Nodes between the output and the known tensors, in order, and those tensors.

        A known tensor that the model holds in fp16 is fed as fp32 and cast, as the model itself would read it.
        """
        import onnx

        inputs: dict[str, None] = {}
        ordered: list[Any] = []
        seen: set[int] = set()

        def visit(node: Any) -> None:
            if id(node) in seen:
                return
            seen.add(id(node))
            for name in node.input:
                if not name or name in self._constants:
                    continue
                if name in self._known:
                    inputs[name] = None
                else:
                    visit(self._producer[name])
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            ordered.append(copy)

        visit(self._producer[output])
        half = self._halves(inputs)
        casts = []
        for name in half:
            casts.append(
                onnx.helper.make_node("Cast", [name], [f"{name}__half"], to=onnx.TensorProto.FLOAT16)
            )
            for node in ordered:
                for index, read in enumerate(node.input):
                    if read == name:
                        node.input[index] = f"{name}__half"
        return [*casts, *ordered], list(inputs)

    def _halves(self, names: Mapping[str, None]) -> list[str]:
        import onnx

        from tritonsmith.builder.actions.accuracy.intermediates import element_types

        if not hasattr(self, "_types"):
            self._types = element_types(self._model)
        return [name for name in names if self._types.get(name) == onnx.TensorProto.FLOAT16]


def _is_float(array: Array) -> bool:
    return bool(array.dtype.kind == "f" and array.size)


def _loss(candidate: Array, reference: Array) -> float:
    import numpy as np

    if candidate.shape != reference.shape:
        return float("inf")
    c, r = candidate.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(c) & np.isfinite(r)
    if not np.array_equal(np.isfinite(c), np.isfinite(r)):
        return float("inf")
    norm = float(np.linalg.norm(r[finite]))
    distance = float(np.linalg.norm(c[finite] - r[finite]))
    return distance / norm if norm > 0 else distance
