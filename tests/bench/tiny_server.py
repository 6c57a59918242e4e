"""Small models on an embedded server, for the benchmarks beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.perf.load.load_test import ServedAt
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array

MODEL = "matmul"
CACHED = "cached"
LARGE = "large"
ROWS, COLUMNS = 64, 16
LARGE_ROWS = 65_536
CACHE_BYTES = 1 << 20


def write_model(repository: Path) -> None:
    """A repository with one ONNX model: y = x @ w, x FP32 [n, 64], y FP32 [n, 16]."""
    _write(repository, MODEL, _matmul(), ROWS)


def write_models(repository: Path) -> None:
    """That model; the same answered from Triton's response cache, so that the server costs next to nothing;
    and one with requests of 256 KiB, y the first 16 of x FP32 [n, 65536]."""
    write_model(repository)
    _write(repository, CACHED, _matmul(), ROWS, "response_cache { enable: true }\n")
    _write(repository, LARGE, _first_ones(), LARGE_ROWS)


def _write(repository: Path, name: str, proto: Any, rows: int, more: str = "") -> None:
    import onnx

    directory = repository / name / "1"
    directory.mkdir(parents=True)
    onnx.save(proto, directory / "model.onnx")
    (repository / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: 32\n'
        f'input [{{ name: "x" data_type: TYPE_FP32 dims: [{rows}] }}]\n'
        f'output [{{ name: "y" data_type: TYPE_FP32 dims: [{COLUMNS}] }}]\n'
        f"instance_group [{{ kind: KIND_CPU count: 1 }}]\ndynamic_batching {{}}\n{more}"
    )


def _matmul() -> Any:
    from onnx import helper, numpy_helper

    weights = np.random.default_rng(0).random((ROWS, COLUMNS), dtype=np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _model(node, ROWS, [numpy_helper.from_array(weights, "w")])


def _first_ones() -> Any:
    from onnx import helper, numpy_helper

    ends = [
        numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in (("from", 0), ("to", COLUMNS), ("axis", 1))
    ]
    return _model(helper.make_node("Slice", ["x", "from", "to", "axis"], ["y"]), LARGE_ROWS, ends)


def _model(node: Any, rows: int, constants: list[Any]) -> Any:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [node],
        MODEL,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", COLUMNS])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def payload_for(model: str) -> InferPayload:
    """One row of what the model takes."""
    rows = LARGE_ROWS if model == LARGE else ROWS
    x = np.random.default_rng(0).random((1, rows), dtype=np.float32)
    return InferPayload(model, (tensor_from_array("x", x),))


@contextmanager
def tiny_server(
    url: str | None, grpc_url: str = "", write: Callable[[Path], None] = write_model
) -> Iterator[ServedAt]:
    """The given URLs, or an embedded server's on a repository that `write` makes."""
    if url is not None:
        yield ServedAt(url, grpc_url)
        return
    from tritonsmith.perf.server.launch import ServerSpec, launch

    with tempfile.TemporaryDirectory() as directory:
        repository = Path(directory) / "model_repository"
        repository.mkdir()
        write(repository)
        cache_bytes = CACHE_BYTES if write is write_models else 0
        spec = ServerSpec(repositories=(repository,), cache_size_bytes=cache_bytes)
        with launch(spec) as server:
            yield ServedAt(f"http://{server.http_url}", server.grpc_url, server.metrics_url, server.pid)
