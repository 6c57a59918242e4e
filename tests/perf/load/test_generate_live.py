"""generate_stream, request parameters and an ensemble's members, against a real tritonserver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.perf.conftest import LiveTriton
from tests.perf.load.test_load_kinds_live import Protocol, add_python_model, run
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.load.text import text_of_result
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.server import control

pytestmark = pytest.mark.server

# As many responses as x says; after as many as -x an error. Parameters that it does not get are an error, too.
STREAM = """
import json
import time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(pb.get_input_tensor_by_name(request, "x").as_numpy()[0])
            sender = request.get_response_sender()
            for number in range(abs(count)):
                time.sleep(0.01)
                text = json.dumps(json.loads(request.parameters() or "{}"), sort_keys=True)
                y = pb.Tensor("y", np.array([number], np.int32))
                sender.send(pb.InferenceResponse([y, pb.Tensor("text_output", np.array([text.encode()], object))]))
            if count < 0:
                sender.send(pb.InferenceResponse(error=pb.TritonError("no such number")))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
STREAM_CONFIG = """
backend: "python"
input [{ name: "x" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "y" data_type: TYPE_INT32 dims: [1] }, { name: "text_output" data_type: TYPE_STRING dims: [1] }]
model_transaction_policy { decoupled: true }
instance_group [{ kind: KIND_CPU count: 1 }]
"""
PLUS = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb.InferenceResponse([pb.Tensor("y", pb.get_input_tensor_by_name(r, "x").as_numpy() + 1)]) for r in requests
        ]
"""
TENSORS = """
max_batch_size: 4
input [{ name: "x" data_type: TYPE_FP32 dims: [2] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [2] }]
"""
PLUS_CONFIG = 'backend: "python"\ninstance_group [{ kind: KIND_CPU count: 1 }]\n' + TENSORS
STEP = '{ model_name: "%s" model_version: -1 input_map { key: "x" value: "%s" } output_map { key: "y" value: "%s" } }'
PIPE_CONFIG = (
    f'platform: "ensemble"\n{TENSORS}\nensemble_scheduling {{ step ['
    f"{STEP % ('gen_plus', 'x', 'a')}, {STEP % ('gen_plus', 'a', 'b')}, {STEP % ('gen_other', 'b', 'y')}] }}"
)
PARAMETERS = {"max_tokens": 256, "stream": True, "t": 0.5, "name": "a:b"}


@pytest.fixture(scope="module")
def models(triton: LiveTriton) -> Iterator[LiveTriton]:
    add_python_model(triton, "gen_stream", STREAM, STREAM_CONFIG)
    yield triton
    control.unload_model(triton.http_url, "gen_stream")


@pytest.fixture
def ensemble(triton: LiveTriton) -> Iterator[LiveTriton]:
    add_python_model(triton, "gen_plus", PLUS, PLUS_CONFIG)
    add_python_model(triton, "gen_other", PLUS, PLUS_CONFIG)
    (triton.repository / "gen_pipe" / "1").mkdir(parents=True)
    (triton.repository / "gen_pipe" / "config.pbtxt").write_text(PIPE_CONFIG)
    control.load_model(triton.http_url, "gen_pipe")
    yield triton
    for name in ("gen_pipe", "gen_other", "gen_plus"):
        control.unload_model(triton.http_url, name)


def samples(tmp_path: Path, count: int, wrong: int = 0) -> DataOptions:
    said = json.dumps(PARAMETERS, sort_keys=True).encode()
    y, text = np.arange(count, dtype=np.int32) + wrong, np.array([said] * count, object)
    arrays: dict[str, Any] = {"x": np.array([count], np.int32), "y": y, "text_output": text.astype(bytes)}
    np.savez(tmp_path / "s.npz", **arrays)
    return DataOptions(file=tmp_path / "s.npz")


@pytest.mark.parametrize("protocol", ["http", pytest.param("grpc", marks=pytest.mark.nightly)])
def test_a_streams_responses_and_its_parameters_are_right(
    models: LiveTriton, tmp_path: Path, protocol: Protocol
) -> None:
    options: dict[str, Any] = {"model": "gen_stream", "streaming": True, "parameters": PARAMETERS}
    options |= {"duration_s": None, "requests": 12, "warmup_s": 0}
    result = run(models, protocol, data=samples(tmp_path, 4), **options)
    records, streaming = result.records, result.summary.streaming
    assert records.failures() == {} and records.header.checked == len(records) == 12
    assert records.responses is not None and set(records.responses.tolist()) == {4}
    assert streaming is not None and streaming.inter_response_ns["p50"].value is not None
    assert streaming.inter_response_ns["p50"].value > 8e6
    assert f"{protocol} streaming" in text_of_result(result, Closed(3))
    wrong = run(models, protocol, data=samples(tmp_path, 2, wrong=1), **options)
    assert set(wrong.records.failures()) == {"wrong answer: output `y` differs from the expected values"}


def test_an_error_after_http_200_is_a_failure(models: LiveTriton, tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", x=np.array([-2], np.int32))
    result = run(
        models, "http", model="gen_stream", streaming=True, data=DataOptions(file=tmp_path / "e.npz"),
        duration_s=None, requests=5, warmup_s=0,
    )  # fmt: skip
    assert result.records.failures() == {"generate_stream: no such number": 5}
    assert result.records.responses is not None and set(result.records.responses.tolist()) == {3}


@pytest.mark.nightly
def test_an_ensembles_members_are_counted_by_triton(ensemble: LiveTriton) -> None:
    for grpc_only in (False, True):
        result = run(
            ensemble, "grpc", model="gen_pipe", grpc_only=grpc_only, duration_s=None, requests=40, warmup_s=0
        )
        assert result.records.failures() == {} and list(result.members) == ["gen_plus", "gen_other"]
        assert [counted.requests for counted in result.members.values()] == [80, 40]
        assert all(counted.mean_compute_infer_us > 0 for counted in result.members.values())
        assert result.server is not None and result.server.requests == 40
