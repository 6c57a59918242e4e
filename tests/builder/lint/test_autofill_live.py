"""Our completion of a config against the live server's own, on ONNX models that say little about themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builder.lint.fixtures import onnx_bytes
from tritonsmith.builder.lint.read.model import read_model
from tritonsmith.builder.lint.rules.common import type_name
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import launch
from tritonsmith.perf.server.server import Server
from tritonsmith.perf.server.spec import ServerSpec

pytestmark = [pytest.mark.server, pytest.mark.slow]

FLOAT = ("FLOAT", ("batch", 4))
PLAIN = onnx_bytes()
FIXED = onnx_bytes({"x": ("FLOAT", (1, 4))}, {"y": ("FLOAT", (1, 4))})
VECTOR = onnx_bytes(
    {"x": ("FLOAT", ("batch",)), "i": ("INT64", ("batch", "n", 3))}, {"y": ("FLOAT", ("batch",))}
)
SCALAR = onnx_bytes({"x": FLOAT, "s": ("INT64", ())}, {"y": FLOAT})

CASES: dict[str, tuple[str | None, bytes]] = {
    "no_config": (None, PLAIN),
    "empty_config": ("", PLAIN),
    "backend_only": ('backend: "onnxruntime"', PLAIN),
    "platform_only": ('platform: "onnxruntime_onnx"', PLAIN),
    "filename_only": ('default_model_filename: "model.onnx"', PLAIN),
    "max_batch_size": ("max_batch_size: 16", PLAIN),
    "max_batch_size_1": ("max_batch_size: 1", PLAIN),
    "sequences": ("sequence_batching { }", PLAIN),
    "batcher": ("max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 7 }", PLAIN),
    "fixed": (None, FIXED),
    "vector": (None, VECTOR),
    "scalar": (None, SCALAR),
    "input_only": ('max_batch_size: 2 input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }', PLAIN),
    "output_only": ('output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }', PLAIN),
    "both": (
        'input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] } output { name: "y" data_type: TYPE_FP32 dims: [ -1, 4 ] }',
        PLAIN,
    ),
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    root = tmp_path_factory.mktemp("repository")
    for name, (config, data) in CASES.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").write_bytes(data)
        if config is not None:
            (root / name / "config.pbtxt").write_text(config)
    with launch(ServerSpec(repositories=(root,))) as server:
        yield server, root


def tensors(config: dict[str, Any], kind: str) -> list[tuple[str, str, list[int], bool]]:
    """What the server says of its tensors; an absent reshape has no key."""
    return sorted(
        (t["name"], t["data_type"], [int(d) for d in t["dims"]], "reshape" in t) for t in config.get(kind, [])
    )


@pytest.mark.parametrize("name", CASES)
def test_server_completes_alike(name: str, live: tuple[Server, Path]) -> None:
    server, root = live
    theirs = control.model_config(server.http_url, name)
    ours = read_model(root / name).config
    for key in ("name", "backend", "platform", "default_model_filename", "max_batch_size"):
        assert theirs[key] == getattr(ours, key), key
    assert ("dynamic_batching" in theirs) == ours.HasField("dynamic_batching")
    for kind in ("input", "output"):
        mine = sorted(
            (t.name, type_name(t.data_type), list(t.dims), t.HasField("reshape")) for t in getattr(ours, kind)
        )
        assert tensors(theirs, kind) == mine, kind
