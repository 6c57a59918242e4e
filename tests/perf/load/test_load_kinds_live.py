"""Streams, sequences, shared memory and gRPC alone, against a real tritonserver, every answer compared."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tests import onnx_models
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples
from tritonsmith.builder.base.errors import ToolError, TrialError, UsageError
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.load.load_test import LoadTest, run_load_test, server_of
from tritonsmith.perf.load.memory_regions import register_cuda
from tritonsmith.perf.load.result import LoadTestResult
from tritonsmith.perf.load.text import result_as_dict, text_of_result
from tritonsmith.perf.records.schedule import Closed, Open
from tritonsmith.perf.server import control
from tritonsmith.perf.wire.payload import request_parameters
from tritonsmith.perf.wire.rest import call_json

pytestmark = pytest.mark.server
NO_GPU = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
Protocol = Literal["http", "grpc"]

STREAM = """
import time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(pb.get_input_tensor_by_name(request, "x").as_numpy()[0])
            sender = request.get_response_sender()
            for number in range(count):
                time.sleep(0.01)
                sender.send(pb.InferenceResponse([pb.Tensor("y", np.array([number], np.int32))]))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
STREAM_CONFIG = """
backend: "python"
input [{ name: "x" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "y" data_type: TYPE_INT32 dims: [1] }]
model_transaction_policy { decoupled: true }
instance_group [{ kind: KIND_CPU count: 1 }]
"""
SUM = """
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        answers = []
        for request in requests:
            get = lambda name: pb.get_input_tensor_by_name(request, name).as_numpy().ravel()[0]
            number, x = int(get("CORRID")), int(get("x"))
            self.sums[number] = x if get("START") else self.sums[number] + x
            y = np.array([[self.sums.pop(number) if get("END") else self.sums[number]]], np.int32)
            answers.append(pb.InferenceResponse([pb.Tensor("y", y)]))
        return answers
"""
SUM_CONFIG = """
backend: "python"
max_batch_size: 4
input [{ name: "x" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "y" data_type: TYPE_INT32 dims: [1] }]
sequence_batching {
  oldest { max_candidate_sequences: 4 }
  control_input [
    { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },
    { name: "END" control [{ kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] }] },
    { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }
  ]
}
instance_group [{ kind: KIND_CPU count: 1 }]
"""
SLOW = """
import time
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.8)
        return [
            pb.InferenceResponse([pb.Tensor("y", pb.get_input_tensor_by_name(r, "x").as_numpy())])
            for r in requests
        ]
"""
SLOW_CONFIG = """
backend: "python"
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""


QUEUE_CONFIG = """
backend: "python"
max_batch_size: 1
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching {
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 10000000
    allow_timeout_override: true
    max_queue_size: 8
  }
}
"""


def add_python_model(triton: LiveTriton, name: str, code: str, config: str) -> None:
    directory = triton.repository / name
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "model.py").write_text(code)
    (directory / "config.pbtxt").write_text(config)
    control.load_model(triton.http_url, name)


@pytest.fixture(scope="module")
def kinds(triton: LiveTriton) -> Iterator[LiveTriton]:
    add_python_model(triton, "kinds_stream", STREAM, STREAM_CONFIG)
    add_python_model(triton, "kinds_sum", SUM, SUM_CONFIG)
    proto = onnx_models.identity(["b", "n"], "FP32", "BYTES")
    triton.load("kinds_identity", proto, "max_batch_size: 8\ninstance_group { count: 1 kind: KIND_CPU }\n")
    yield triton
    for name in ("kinds_stream", "kinds_sum", "kinds_identity"):
        control.unload_model(triton.http_url, name)


def run(
    triton: LiveTriton, protocol: Protocol, load: Any = None, *, grpc_only: bool = False, **options: Any
) -> LoadTestResult:
    test = LoadTest(
        load=load or Closed(3),
        protocol=protocol,
        grpc_url=triton.grpc_url,
        metrics_url=triton.server.metrics_url,
        validate_every=1,
        **{"duration_s": 0.5, "warmup_s": 0.1, **options},
    )
    return run_load_test(f"grpc://{triton.grpc_url}" if grpc_only else f"http://{triton.http_url}", test)


def data(tmp_path: Path, document: Any) -> DataOptions:
    (tmp_path / "data.json").write_text(json.dumps(document))
    return DataOptions(file=tmp_path / "data.json")


def test_a_decoupled_models_responses_are_those_that_tritonclient_sees(
    kinds: LiveTriton, tmp_path: Path
) -> None:
    import tritonclient.grpc as triton_grpc

    document = {"data": [{"x": [n]} for n in (1, 3, 6)]}
    result = run(kinds, "grpc", model="kinds_stream", streaming=True, data=data(tmp_path, document))
    records = result.records
    assert result.records.failures() == {}
    assert records.responses is not None and records.last_response_ns is not None
    for index, want in enumerate((1, 3, 6)):
        assert set(records.responses[records.payload_index == index].tolist()) == {want}
    six = records.payload_index == 2
    between_ms = (records.last_response_ns - records.first_byte_ns)[six] / 5e6
    assert np.median(between_ms) > 8

    arrivals: list[float] = []
    with triton_grpc.InferenceServerClient(kinds.grpc_url) as client:
        client.start_stream(lambda result, error: arrivals.append(time.monotonic()))
        x = triton_grpc.InferInput("x", [1], "INT32")
        x.set_data_from_numpy(np.array([6], np.int32))
        client.async_stream_infer("kinds_stream", [x])
        client.stop_stream()
    assert len(arrivals) == 6
    theirs_ms = (arrivals[-1] - arrivals[0]) / 5 * 1e3
    assert theirs_ms / 3 < np.median(between_ms) < theirs_ms * 3, "the machine may be busy"

    text = text_of_result(result, Closed(3))
    assert "grpc streaming" in text and "responses/s" in text and "longest gap" in text
    assert "CPU cores" in text, "the server's process was found by its port"
    said = result_as_dict(result)
    assert said["summary"]["streaming"]["responses_per_request"]["max"] == 6
    assert said["resources"]["process"]["processes"] >= 2


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_sequences_keep_their_state_under_load(kinds: LiveTriton, tmp_path: Path, protocol: Protocol) -> None:
    options: dict[str, Any] = {"model": "kinds_sum", "sequences": True, "duration_s": None}
    result = run(kinds, protocol, requests=60, data=sums(tmp_path), **options)
    assert result.records.failures() == {}
    assert result.records.header.checked == len(result.records) >= 50
    drawn = run(kinds, protocol, requests=50, **options)
    assert drawn.records.failures() == {}


@pytest.mark.parametrize(
    ("protocol", "grpc_only"),
    [("http", False), pytest.param("grpc", False, marks=pytest.mark.nightly), ("grpc", True)],
)
def test_values_travel_through_shared_memory(
    kinds: LiveTriton, tmp_path: Path, protocol: Protocol, grpc_only: bool
) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for rows, width in ((1, 3), (8, 700), (2, 1)):
        x = rng.random((rows, width), dtype=np.float32)
        words = np.array([[b"w" * int(n) for n in row] for row in rng.integers(0, 9, (rows, width))], object)
        samples.append(Sample({"in_FP32": x, "in_BYTES": words}, {"out_FP32": x, "out_BYTES": words}))
    save_samples(SampleSet(tuple(samples)), tmp_path / "s.npz")
    options: dict[str, Any] = {"model": "kinds_identity", "shared_memory": "system"}
    options["data"] = DataOptions(file=tmp_path / "s.npz")
    options |= {"duration_s": None, "requests": 90, "warmup_s": 0.0}
    result = run(kinds, protocol, Closed(8), grpc_only=grpc_only, **options)
    assert result.records.failures() == {}
    assert result.records.header.checked == len(result.records) == 90
    assert result.server is not None
    for output in (samples[0].outputs, samples[1].outputs):
        output["out_FP32"] = output["out_FP32"] + 1
    save_samples(SampleSet(tuple(samples)), tmp_path / "s.npz")
    wrong = run(kinds, protocol, Open(100), grpc_only=grpc_only, **options)
    assert set(wrong.records.failures()) == {
        "wrong answer: output `out_FP32` differs from the expected values"
    }
    assert nothing_is_left(kinds)
    small = run(kinds, protocol, grpc_only=grpc_only, output_bytes=64, **options)
    assert any("shared memory" in reason for reason in small.records.failures()), small.records.failures()
    assert nothing_is_left(kinds)


def sums(tmp_path: Path) -> DataOptions:
    """Streams of numbers, and what kinds_sum has added up after each."""
    rng = np.random.default_rng(0)
    streams = [rng.integers(1, 100, n).tolist() for n in (2, 5, 9)]
    document = {
        "data": [[{"x": [x]} for x in stream] for stream in streams],
        "validation_data": [[{"y": [int(y)]} for y in np.cumsum(stream)] for stream in streams],
    }
    return data(tmp_path, document)


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("http", {"model": "kinds_sum", "sequences": True}),
        ("grpc", {"model": "kinds_sum", "sequences": True, "processes": 2}),
        ("grpc", {"model": "kinds_sum", "sequences": True, "streaming": True}),
        ("http", {"model": "kinds_identity", "processes": 2}),
        ("grpc", {"model": "kinds_identity", "streaming": True}),
        ("grpc", {"model": "kinds_stream", "streaming": True}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_shared_memory_goes_with_sequences_streams_and_processes(
    kinds: LiveTriton, tmp_path: Path, protocol: Protocol, options: dict[str, Any]
) -> None:
    if options["model"] == "kinds_sum":
        given = sums(tmp_path)
    elif options["model"] == "kinds_stream":
        document = {"data": [{"x": [n]} for n in (1, 4)]}
        given = data(tmp_path, document)
    else:
        rng = np.random.default_rng(0)
        samples = []
        for width in (1, 700):
            x = rng.random((2, width), dtype=np.float32)
            words = np.array([[b"w" * (n % 9) for n in range(width)]] * 2, object)
            samples.append(Sample({"in_FP32": x, "in_BYTES": words}, {"out_FP32": x, "out_BYTES": words}))
        save_samples(SampleSet(tuple(samples)), tmp_path / "s.npz")
        given = DataOptions(file=tmp_path / "s.npz")
    limits: dict[str, Any] = {"duration_s": None, "requests": 60, "warmup_s": 0.0, "data": given}
    result = run(kinds, protocol, Closed(4), shared_memory="system", **limits, **options)
    records = result.records
    assert records.failures() == {}
    assert records.header.processes == options.get("processes", 1)
    if options["model"] == "kinds_stream":
        assert records.responses is not None
        assert [set(records.responses[records.payload_index == i].tolist()) for i in (0, 1)] == [{1}, {4}]
    else:
        assert records.header.checked == len(records) >= 60
    assert nothing_is_left(kinds)


@NO_GPU
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_without_a_gpu_refuses_a_gpus_memory_with_its_reason(
    kinds: LiveTriton, protocol: Protocol
) -> None:
    url = f"http://{kinds.http_url}" if protocol == "http" else f"grpc://{kinds.grpc_url}"
    api, _ = server_of(url, LoadTest("", Closed(1), protocol=protocol))
    with pytest.raises(TrialError, match="cannot open this GPU's memory") as raised:
        register_cuda(api, "region", bytes(64), 0, 1024)
    assert raised.value.code == "shared_memory_refused" and "GPU" in str(raised.value)


@pytest.mark.gpu
@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("processes", [1, 2])
def test_values_travel_through_a_gpus_memory(
    kinds: LiveTriton, tmp_path: Path, protocol: Protocol, processes: int
) -> None:
    x = np.random.default_rng(0).random((8, 700), dtype=np.float32)
    words = np.full((8, 700), b"word", object)
    sample = Sample({"in_FP32": x, "in_BYTES": words}, {"out_FP32": x, "out_BYTES": words})
    save_samples(SampleSet((sample,)), tmp_path / "s.npz")
    result = run(
        kinds,
        protocol,
        Closed(4),
        model="kinds_identity",
        shared_memory="cuda",
        processes=processes,
        data=DataOptions(file=tmp_path / "s.npz"),
        duration_s=None,
        requests=60,
        warmup_s=0.0,
    )
    assert result.records.failures() == {}
    assert result.records.header.checked == len(result.records) == 60


def regions(pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"tritonsmith-load-{pid}-*"))


def nothing_is_left(triton: LiveTriton, pid: int | None = None) -> bool:
    return call_json(triton.http_url, "/v2/systemsharedmemory/status") == [] and not regions(
        pid or os.getpid()
    )


@pytest.mark.parametrize("protocol", ["http", pytest.param("grpc", marks=pytest.mark.nightly)])
def test_requests_that_the_queue_policy_refuses_are_failures_here_and_there(
    kinds: LiveTriton, protocol: Protocol
) -> None:
    name = f"kinds_queue_{protocol}"
    add_python_model(kinds, name, SLOW.replace("0.8", "0.02"), QUEUE_CONFIG)
    wait: dict[str, Any] = {"duration_s": None, "requests": 40, "warmup_s": 0.0}
    hasty = request_parameters(priority=1, timeout_us=1000)
    result = run(kinds, protocol, Closed(4), model=name, parameters=hasty, **wait)
    (reason,) = result.records.failures()
    assert "Request timeout expired" in reason
    refused = result.records.failures()[reason]
    assert result.server is not None and result.server.failed == refused > 0
    assert result.server.failed_by_reason == {"REJECTED": refused}
    assert f"failed {refused} ({refused} REJECTED)" in text_of_result(result, Closed(4))
    assert "by the queue policy's default_timeout_microseconds" in result.summary.validity.reasons[0]
    patient = run(kinds, protocol, Closed(4), model=name, parameters=request_parameters(priority=2), **wait)
    assert patient.records.failures() == {}
    crowd = {**wait, "requests": 60, "parameters": request_parameters(priority=2)}
    full = run(kinds, protocol, Closed(24), model=name, **crowd).summary.validity
    assert "rejected by the queue policy's max_queue_size" in full.reasons[0], full
    assert full.recommendation is not None and full.recommendation.startswith("fewer requests in flight")
    control.unload_model(kinds.http_url, name)


def test_memory_is_let_go_only_when_the_server_is_done_with_it(kinds: LiveTriton) -> None:
    add_python_model(kinds, "kinds_slow", SLOW, SLOW_CONFIG)
    limits: dict[str, Any] = {"timeout_s": 0.3, "warmup_s": 0.0, "duration_s": None, "requests": 2}
    result = run(kinds, "http", Closed(2), model="kinds_slow", shared_memory="system", **limits)
    assert result.records.failures() == {"timeout: no answer within 0.3 s": 2}
    assert nothing_is_left(kinds)
    assert control.model_statistics(kinds.http_url, "kinds_slow")[0]["inference_count"] == 2
    control.unload_model(kinds.http_url, "kinds_slow")


@pytest.mark.parametrize(
    ("how", "processes"),
    [
        pytest.param(signal.SIGINT, "2", marks=pytest.mark.nightly),
        pytest.param(signal.SIGKILL, "1", marks=pytest.mark.nightly),
        (signal.SIGKILL, "2"),
    ],
)
def test_regions_go_however_the_client_ends(kinds: LiveTriton, how: signal.Signals, processes: str) -> None:
    command = [
        sys.executable,
        "-m",
        "tritonsmith",
        "load",
        f"http://{kinds.http_url}",
        "-m",
        "kinds_identity",
    ]
    command += ["--shape", "in_FP32:4", "--shape", "in_BYTES:4", "--shared-memory", "system"]
    process = subprocess.Popen(
        [*command, "--duration", "60s", "--processes", processes],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        before = control.model_statistics(kinds.http_url, "kinds_identity")[0]["inference_count"]
        while control.model_statistics(kinds.http_url, "kinds_identity")[0]["inference_count"] < before + 20:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        assert regions(process.pid)
        process.send_signal(how)
        process.communicate(timeout=20)
    finally:
        process.kill()
    deadline = time.monotonic() + 5
    while regions(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not regions(process.pid)
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert nothing_is_left(kinds, process.pid)
    else:
        call_json(kinds.http_url, "/v2/systemsharedmemory/unregister", method="POST", body={})


def test_a_server_without_http_is_asked_over_grpc(kinds: LiveTriton, tmp_path: Path) -> None:
    document = {"data": [{"x": [2]}]}
    result = run(
        kinds, "grpc", grpc_only=True, model="kinds_stream", streaming=True, data=data(tmp_path, document)
    )
    assert result.records.failures() == {}
    assert result.records.header.environment["server"].startswith("triton 2.")
    assert result.server is not None
    with pytest.raises(UsageError, match="no model `kinds_strem`") as raised:
        run(kinds, "grpc", grpc_only=True, model="kinds_strem", streaming=True)
    assert raised.value.fix == "did you mean 'kinds_stream'?"


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"model": "kinds_stream"}, UsageError, "streaming_needed"),
        ({"model": "kinds_sum"}, UsageError, "sequences_needed"),
        ({"model": "kinds_sum", "sequences": True, "load": Open(5)}, UsageError, "bad_load"),
        pytest.param(
            {"model": "kinds_sum", "shared_memory": "cuda"},
            ToolError,
            "no_cuda_shared_memory",
            marks=NO_GPU,
        ),
        ({"model": "kinds_sum", "streaming": True, "sequences": True}, UsageError, "bad_streaming"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_model_is_said_before_the_load(
    kinds: LiveTriton, options: dict[str, Any], error: type[Exception], code: str
) -> None:
    with pytest.raises(error) as raised:
        run(kinds, "http", **options)
    assert getattr(raised.value, "code", "") == code
