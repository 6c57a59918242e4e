"""Seeds and sizes → small fp32 networks with the ops that conversions care about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.onnx_models import save, tensor
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples

Array = np.ndarray[Any, Any]
WIDTH = 16


def network(
    nodes: list[Any],
    constants: dict[str, Array],
    shape: list[int | str],
    out: list[int | str],
    opset: int = 17,
) -> Any:
    """A checked model x → y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [tensor("x", shape)],
        [tensor("y", out)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def mlp(opset: int = 17, scale: float = 1.0) -> Any:
    """x[batch, 16] → MatMul "up" → Relu → MatMul "down" → y[batch, 8]; `scale` multiplies what lies between."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("MatMul", ["x", "w_up"], ["up_out"], name="up"),
        helper.make_node("Relu", ["up_out"], ["hidden"], name="relu"),
        helper.make_node("Mul", ["hidden", "scale"], ["scaled"], name="blow"),
        helper.make_node("Div", ["scaled", "scale"], ["back"], name="shrink"),
        helper.make_node("MatMul", ["back", "w_down"], ["y"], name="down"),
    ]
    constants = {
        "w_up": rng.standard_normal((WIDTH, 32)).astype(np.float32),
        "w_down": rng.standard_normal((32, 8)).astype(np.float32),
        "scale": np.float32(scale).reshape(()),
    }
    return network(nodes, constants, ["batch", WIDTH], ["batch", 8], opset)


def outlier_mlp() -> Any:
    """As mlp, but channel 0 of what "down" reads is 300 times as large as the others, and hardly weighs in y."""
    model = mlp()
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer).copy()
        if initializer.name == "w_up":
            values[:, 0] *= 300
        if initializer.name == "w_down":
            values[0, :] /= 300
        initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    return model


def conv(opset: int = 12) -> Any:
    """x[batch, 3, 8, 8] → Conv → Resize with Constant nodes, all nameless, at an old opset, as other exporters write."""
    rng = np.random.default_rng(4)
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32))
    roi = numpy_helper.from_array(np.zeros(8, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=_weight(rng)),
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Constant", [], ["roi"], value=roi),
        helper.make_node("Constant", [], ["scales"], value=scales),
        helper.make_node("Resize", ["c", "roi", "scales"], ["y"], mode="nearest"),
    ]
    return network(
        nodes, {"unused": np.zeros(1, np.float32)}, ["batch", 3, 8, 8], ["batch", 4, 16, 16], opset
    )


def _weight(rng: np.random.Generator) -> Any:
    return numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32))


def rows(shape: tuple[int, ...], seed: int) -> list[dict[str, Array]]:
    """Two samples of the input x; the seed tells calibration from held-out ones."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(2)]


def save_rows(samples: list[dict[str, Array]], path: Path) -> str:
    """Writes them as samples without answers."""
    labelled = tuple(Sample(inputs, {}, f"s{index}") for index, inputs in enumerate(samples))
    save_samples(SampleSet(labelled, "test"), path)
    return str(path)


def save_model(model: Any, path: Path) -> str:
    """Writes it → the path as text."""
    return str(save(model, path))
