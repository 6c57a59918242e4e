"""Names, types and shapes → tiny ONNX models with answers that can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tritonsmith.builder.base.tensors import dtype_from_kserve

OPSET = 17
IR_VERSION = 8
Shape = Sequence[int | str]


def tensor(name: str, shape: Shape, dtype: str = "FP32") -> Any:
    """A graph input or output; dtype is Triton's wire name, a string dim is dynamic."""
    return helper.make_tensor_value_info(name, dtype_from_kserve(dtype).onnx, list(shape))


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Any:
    """A checked ModelProto."""
    initializers = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(proto)
    return proto


def identity(shape: Shape, *dtypes: str) -> Any:
    """in_FP32 → out_FP32 and so on, one pair a dtype, all of `shape`."""
    return model(
        [helper.make_node("Identity", [f"in_{d}"], [f"out_{d}"]) for d in dtypes],
        [tensor(f"in_{d}", shape, d) for d in dtypes],
        [tensor(f"out_{d}", shape, d) for d in dtypes],
    )


def affine(shape: Shape, scale: float = 2.0, offset: float = 1.0, x: str = "x", y: str = "y") -> Any:
    """y = scale · x + offset."""
    return model(
        [
            helper.make_node("Mul", [x, "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], [y]),
        ],
        [tensor(x, shape)],
        [tensor(y, shape)],
        {"scale": np.float32(scale).reshape(()), "offset": np.float32(offset).reshape(())},
    )


def sum_and_difference(shape: Shape) -> Any:
    """sum = a + b, difference = a - b."""
    return model(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        [tensor("a", shape), tensor("b", shape)],
        [tensor("sum", shape), tensor("difference", shape)],
    )


def multiples(shape: Shape, **factors: float) -> Any:
    """Outputs in the order given: each is its factor times x."""
    return model(
        [helper.make_node("Mul", ["x", f"times_{name}"], [name]) for name in factors],
        [tensor("x", shape)],
        [tensor(name, shape) for name in factors],
        {f"times_{name}": np.float32(factor).reshape(()) for name, factor in factors.items()},
    )


def nonzeros() -> Any:
    """places[found, 2] = where x[batch, 3] is not 0: as many rows as there are, whatever the batch has."""
    return model(
        [
            helper.make_node("NonZero", ["x"], ["columns"]),
            helper.make_node("Transpose", ["columns"], ["places"]),
        ],
        [tensor("x", ["batch", 3])],
        [tensor("places", ["found", 2], "INT64")],
    )


def lookup(table: Sequence[float]) -> Any:
    """value[batch, 1] = table[index[batch, 1]]; an index outside the table fails at run time."""
    return model(
        [helper.make_node("Gather", ["table", "index"], ["value"], axis=0)],
        [tensor("index", ["batch", 1], "INT64")],
        [tensor("value", ["batch", 1])],
        {"table": np.asarray(table, np.float32)},
    )


def with_controls() -> Any:
    """y = x + 10 · START + 100 · END + 1000 · READY + 10000 · CORRID; all tensors are [batch, 1]."""
    controls = {"START": 10.0, "END": 100.0, "READY": 1000.0, "CORRID": 10000.0}
    nodes, total = [], "x"
    for name in controls:
        source = name
        if name == "CORRID":
            nodes.append(helper.make_node("Cast", [name], ["corrid"], to=TensorProto.FLOAT))
            source = "corrid"
        nodes.append(helper.make_node("Mul", [source, f"w_{name}"], [f"m_{name}"]))
        nodes.append(helper.make_node("Add", [total, f"m_{name}"], [f"s_{name}"]))
        total = f"s_{name}"
    nodes.append(helper.make_node("Identity", [total], ["y"]))
    return model(
        nodes,
        [tensor("x", ["batch", 1])]
        + [tensor(n, ["batch", 1], "UINT64" if n == "CORRID" else "FP32") for n in controls],
        [tensor("y", ["batch", 1])],
        {f"w_{name}": np.float32(weight).reshape(()) for name, weight in controls.items()},
    )


def accumulator() -> Any:
    """total_out = total_in + x, y = total_out: the running sum of a sequence, its state fed from outside."""
    return model(
        [
            helper.make_node("Add", ["x", "total_in"], ["total_out"]),
            helper.make_node("Identity", ["total_out"], ["y"]),
        ],
        [tensor("x", ["batch", 1]), tensor("total_in", ["batch", 1])],
        [tensor("y", ["batch", 1]), tensor("total_out", ["batch", 1])],
    )


def scalar_scale() -> Any:
    """y[n] = x[n] · factor[] and count[] = the number of elements: a scalar in, a scalar out."""
    return model(
        [
            helper.make_node("Mul", ["x", "factor"], ["y"]),
            helper.make_node("Size", ["x"], ["count"]),
        ],
        [tensor("x", ["n"]), tensor("factor", [])],
        [tensor("y", ["n"]), tensor("count", [], "INT64")],
    )


def row_sums() -> Any:
    """Ragged rows: values[-1] flat and ends[-1] the accumulated lengths → totals[-1, 1], each row's sum."""
    return model(
        [
            helper.make_node("CumSum", ["values", "axis0"], ["running"]),
            helper.make_node("Sub", ["ends", "one"], ["last_f"]),
            helper.make_node("Cast", ["last_f"], ["last"], to=TensorProto.INT64),
            helper.make_node("Gather", ["running", "last"], ["upto"], axis=0),
            helper.make_node("Concat", ["zero", "upto"], ["padded"], axis=0),
            helper.make_node("Slice", ["padded", "start0", "minus1"], ["before"]),
            helper.make_node("Sub", ["upto", "before"], ["flat"]),
            helper.make_node("Unsqueeze", ["flat", "axis1"], ["totals"]),
        ],
        [tensor("values", ["n"]), tensor("ends", ["r"])],
        [tensor("totals", ["r", 1])],
        {
            "axis0": np.int64(0).reshape(()),
            "one": np.float32(1).reshape(()),
            "zero": np.zeros(1, np.float32),
            "start0": np.array([0], np.int64),
            "minus1": np.array([-1], np.int64),
            "axis1": np.array([1], np.int64),
        },
    )


def past_and_new() -> Any:
    """past [batch, past], new [batch, new], mask [batch, total] → y = [past, new] · mask, which needs total = past + new."""
    nodes = [
        helper.make_node("Concat", ["past", "new"], ["every"], axis=1),
        helper.make_node("Mul", ["every", "mask"], ["y"]),
    ]
    inputs = [tensor("past", ["n", "past"]), tensor("new", ["n", "new"]), tensor("mask", ["n", "total"])]
    return model(nodes, inputs, [tensor("y", ["n", "total"])])


def save(proto: Any, path: Path) -> Path:
    """Write the model as one file; parent directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path


def save_with_external_data(proto: Any, directory: Path) -> Path:
    """Write `directory`/model.onnx with its constants in a file beside it, as Triton wants such models."""
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(
        proto,
        str(directory / "model.onnx"),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="weights.bin",
        size_threshold=0,
    )
    return directory / "model.onnx"


def add_model(
    repository: Path, name: str, proto: Any, config: str | None = None, *, version: int = 1
) -> Path:
    """Lay `proto` out as a model of a Triton repository; without `config` it gets no config.pbtxt."""
    save(proto, repository / name / str(version) / "model.onnx")
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)
    return repository / name
