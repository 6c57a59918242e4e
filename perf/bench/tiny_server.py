"""A model of one 64×16 MatMul on an embedded server, for the benchmarks beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from perf.load import ServedAt
from perf.wire.payload import InferPayload, tensor_from_array

MODEL = "matmul"
ROWS, COLUMNS = 64, 16


def write_model(repository: Path) -> None:
    """A repository with one ONNX model: y = x @ w, x FP32 [n, 64], y FP32 [n, 16]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).random((ROWS, COLUMNS), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        MODEL,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", ROWS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", COLUMNS])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    directory = repository / MODEL / "1"
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")
    (repository / MODEL / "config.pbtxt").write_text(
        f'name: "{MODEL}"\nbackend: "onnxruntime"\nmax_batch_size: 32\n'
        f'input [{{ name: "x" data_type: TYPE_FP32 dims: [{ROWS}] }}]\n'
        f'output [{{ name: "y" data_type: TYPE_FP32 dims: [{COLUMNS}] }}]\n'
        "instance_group [{ kind: KIND_CPU count: 1 }]\ndynamic_batching {}\n"
    )


def payload_for(model: str) -> InferPayload:
    """One row of 64 floats."""
    x = np.random.default_rng(0).random((1, ROWS), dtype=np.float32)
    return InferPayload(model, (tensor_from_array("x", x),))


@contextmanager
def tiny_server(url: str | None, grpc_url: str = "") -> Iterator[ServedAt]:
    """The given URLs, or an embedded server's on a repository of its own."""
    if url is not None:
        yield ServedAt(url, grpc_url)
        return
    from perf.server.launch import ServerSpec, launch

    with tempfile.TemporaryDirectory() as directory:
        repository = Path(directory) / "model_repository"
        write_model(repository)
        with launch(ServerSpec(kind="embedded", repositories=(repository,))) as server:
            yield ServedAt(f"http://{server.http_url}", server.grpc_url)
