"""Time `check` on a repository of 1,000 models of 1 MB ONNX each, ensembles among them, and on one model.

`python -m tests.bench.lint_models [COUNT]`; prints, asserts nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tritonsmith.builder.base.text.console import emit_text, note
from tritonsmith.builder.lint.check import report

_TENSOR = "data_type: TYPE_FP32 dims: [ 512 ]"
_PLAIN = f"""\
backend: "onnxruntime"
max_batch_size: 8
input [ {{ name: "x" {_TENSOR} }} ]
output [ {{ name: "y" {_TENSOR} }} ]
dynamic_batching {{ max_queue_delay_microseconds: 500 }}
instance_group [ {{ kind: KIND_AUTO count: 2 }} ]
model_warmup {{ name: "zero" batch_size: 1 inputs {{ key: "x" value {{ {_TENSOR} zero_data: true }} }} }}
"""
_STEP = (
    '{{ model_name: "{}" model_version: -1 input_map {{ key: "x" value: "{}" }} '
    'output_map {{ key: "y" value: "{}" }} }}'
)
_EVERY = 20
"""One model in so many is an ensemble of the two before it."""


def _graph() -> bytes:
    import numpy as np
    from onnx import TensorProto, helper

    weights = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    initializer = helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h0"])]
    nodes += [helper.make_node("Relu", [f"h{i}"], [f"h{i + 1}"]) for i in range(60)]
    nodes.append(helper.make_node("Identity", ["h60"], ["y"]))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", 512)) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [initializer])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())


def make_repository(root: Path, count: int) -> None:
    """Write `count` models below `root`."""
    data = _graph()
    for number in range(count):
        model = root / f"m{number}"
        (model / "1").mkdir(parents=True)
        if number % _EVERY == _EVERY - 1:
            steps = [_STEP.format(f"m{number - 1}", "IN", "A"), _STEP.format(f"m{number - 2}", "A", "OUT")]
            (model / "config.pbtxt").write_text(
                f'platform: "ensemble"\nmax_batch_size: 8\ninput {{ name: "IN" {_TENSOR} }}\n'
                f'output {{ name: "OUT" {_TENSOR} }}\nensemble_scheduling {{ step [ {", ".join(steps)} ] }}\n'
            )
        else:
            (model / "config.pbtxt").write_text(_PLAIN)
            (model / "1" / "model.onnx").write_bytes(data)


def main(count: int = 1000) -> None:
    """Make the repository, time it, and remove it."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        note(f"writing {count} models …")
        make_repository(root, count)
        for attempt in (1, 2, 3):
            started = time.perf_counter()
            found = report([root])
            seconds = time.perf_counter() - started
            emit_text(
                f"run {attempt}: {found.models} models, {len(found.findings)} findings: {seconds:.2f} s"
            )
        for attempt in (1, 2, 3):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "tritonsmith", "check", str(root / "m0")], capture_output=True
            )
            seconds = time.perf_counter() - started
            emit_text(f"run {attempt}: one model, start-up included: {seconds:.2f} s")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
