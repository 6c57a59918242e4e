"""Nothing → small ONNX models and samples that the steps share: a multilayer perceptron and a convolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WIDTH, ROWS, SEED = 256, 8, 0
CONV = (3, 32, 32)


def perceptron(path: Path, layers: int = 3) -> Path:
    """x [batch, 256] → y [batch, 256]: MatMul, Add, Relu, `layers` times; the last without Relu."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(SEED)
    nodes, constants, at = [], [], "x"
    for n in range(layers):
        weight = (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        bias = rng.standard_normal(WIDTH).astype(np.float32) * np.float32(0.1)
        constants += [numpy_helper.from_array(weight, f"w{n}"), numpy_helper.from_array(bias, f"b{n}")]
        last = n + 1 == layers
        nodes.append(helper.make_node("MatMul", [at, f"w{n}"], [f"m{n}"], name=f"matmul{n}"))
        nodes.append(helper.make_node("Add", [f"m{n}", f"b{n}"], ["y" if last else f"a{n}"], name=f"add{n}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"a{n}"], [f"r{n}"], name=f"relu{n}"))
            at = f"r{n}"
    shape = ["batch", WIDTH]
    return _saved(path, nodes, constants, (("x", shape), ("y", shape)), TensorProto.FLOAT)


def convolution(path: Path) -> Path:
    """x [batch, 3, 32, 32] → y [batch, 8, 32, 32]: one Conv and a Relu, for which CUDA's provider needs cuDNN."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(SEED).standard_normal((8, 3, 3, 3)).astype(np.float32) / 5
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    io = (("x", ["batch", *CONV]), ("y", ["batch", 8, 32, 32]))
    return _saved(
        path, nodes, [numpy_helper.from_array(weight.astype(np.float32), "w")], io, TensorProto.FLOAT
    )


def _saved(path: Path, nodes: Any, constants: Any, io: Any, dtype: int) -> Path:
    import onnx
    from onnx import helper

    inputs, outputs = ([helper.make_tensor_value_info(name, dtype, shape)] for name, shape in io)
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def rows(shape: tuple[int, ...], seed: int = SEED) -> Any:
    """Standard normal float32 values."""
    import numpy as np

    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def converted(source: Path, precision: str, out: Path) -> Path:
    """The perceptron at a precision, by the product's own conversion; calibrated where it needs it, on other rows."""
    import numpy as np

    from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
    from tritonsmith.builder.actions.convert.convert import convert
    from tritonsmith.builder.actions.convert.request import ConvertRequest
    from tritonsmith.builder.base.precisions import precision_rows

    needed = precision_rows()[precision].calibration == "needs"
    out.mkdir(parents=True, exist_ok=True)
    samples = out.parent / f"{out.name}-calibration.npz"
    np.savez(samples, **{f"{n}/x": rows((ROWS, WIDTH), seed=100 + n) for n in range(16)})
    request = ConvertRequest(
        model="perceptron",
        source_onnx=str(source),
        precision=precision,
        calibration=CalibrationSpec(str(samples), str(out.parent)) if needed else None,
    )
    result = convert(request, out)
    return out / next(name for name in result.files if name.endswith(".onnx"))


def repository(root: Path, model: str, onnx: Path, kind: str, more: str = "") -> Path:
    """A model repository with one perceptron; kind: of its instances."""
    version = root / model / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(onnx.read_bytes())
    (root / model / "config.pbtxt").write_text(
        f'name: "{model}"\nbackend: "onnxruntime"\nmax_batch_size: 32\n'
        f'input {{ name: "x" data_type: TYPE_FP32 dims: [{WIDTH}] }}\n'
        f'output {{ name: "y" data_type: TYPE_FP32 dims: [{WIDTH}] }}\n'
        f"instance_group {{ kind: {kind} count: 1 }}\n{more}"
    )
    return root
