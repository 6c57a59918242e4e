"""Jobs against a real Triton: dims that differ from row to row, texts, and rows that kill what answers them."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import onnx_models
from tests.perf.batch.jobs import records_of, write_rows
from tests.perf.conftest import LiveTriton
from tritonsmith.perf.batch.job import BatchJob, run_batch
from tritonsmith.perf.batch.place import Question
from tritonsmith.perf.batch.rows.asks import Plain
from tritonsmith.perf.batch.sending.send import SendOptions
from tritonsmith.perf.server import control

DYNAMIC = """max_batch_size: 8
input [{name: "x", data_type: TYPE_FP32, dims: [-1]}]
output [{name: "y", data_type: TYPE_FP32, dims: [-1]}]
"""
KILLER = """
import os, signal
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            if 13.0 in x:
                os.kill({whom}, signal.SIGKILL)
                signal.pause()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * x)]))
        return answers
"""


def job(directory: Path, where: Any, rows: list[dict[str, Any]], model: str, **changes: Any) -> BatchJob:
    write_rows(directory / "in.jsonl", rows)
    send = SendOptions(in_flight=2, timeout_s=20.0, wait_s=10.0)
    given: dict[str, Any] = {"question": Question(Plain(model)), "send": send}
    return BatchJob(directory / "in.jsonl", directory / "out.jsonl", where, **{**given, **changes})


@pytest.mark.server
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_rows_of_different_shapes_go_into_requests_of_one_shape(
    triton: LiveTriton, tmp_path: Path, protocol: str
) -> None:
    triton.load("batch_dynamic", onnx_models.affine(["n", "d"]), 'backend: "onnxruntime"\n' + DYNAMIC)
    rows = [{"id": str(i), "x": [float(i)] * (1 + i % 5)} for i in range(200)]
    question = Question(Plain("batch_dynamic"), wire={"protocol": protocol, "grpc_url": triton.grpc_url})
    result = run_batch(job(tmp_path, f"http://{triton.http_url}", rows, "batch_dynamic", question=question))
    assert records_of(tmp_path / "out.jsonl") == [
        {"id": str(i), "y": [2.0 * i + 1] * (1 + i % 5)} for i in range(200)
    ]
    assert result.requests == 25 and result.arrival.requests == 200


@pytest.mark.server
@pytest.mark.nightly
def test_a_model_that_is_unloaded_in_the_middle_is_waited_for_and_no_row_blamed(
    triton: LiveTriton, tmp_path: Path
) -> None:
    triton.load("batch_away", onnx_models.affine(["n", "d"]), 'backend: "onnxruntime"\n' + DYNAMIC)
    journal = tmp_path / "out.jsonl.journal"

    def away() -> None:
        while not (journal.exists() and journal.stat().st_size > 5000):
            time.sleep(0.002)
        control.unload_model(triton.http_url, "batch_away")
        time.sleep(0.3)
        control.load_model(triton.http_url, "batch_away")

    thread = threading.Thread(target=away, daemon=True)
    thread.start()
    rows = [{"id": str(i), "x": [float(i)]} for i in range(6000)]
    result = run_batch(job(tmp_path, f"http://{triton.http_url}", rows, "batch_away"))
    thread.join(20)
    assert (result.answered, result.failed) == (6000, 0) and result.run_s > 0.3
    assert records_of(tmp_path / "out.jsonl")[-1] == {"id": "5999", "y": [11999.0]}


EMBEDS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        texts = [pb_utils.get_input_tensor_by_name(r, "TEXT").as_numpy() for r in requests]
        made = [np.array([[len(t), t[0]] for t in given.ravel()], np.float32) for given in texts]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("EMBEDDING", one)]) for one in made]
"""
TEXTS = """backend: "python"
max_batch_size: 8
input [{name: "TEXT", data_type: TYPE_STRING, dims: [1]}]
output [{name: "EMBEDDING", data_type: TYPE_FP32, dims: [2]}]
"""


@pytest.mark.server
def test_embeddings_of_openais_form(triton: LiveTriton, tmp_path: Path) -> None:
    model = triton.repository / "batch_embeds"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(EMBEDS)
    (model / "config.pbtxt").write_text(TEXTS)
    control.load_model(triton.http_url, "batch_embeds")
    inputs: list[Any] = ["a", ["bb", "cccc"], "é"]
    bodies = [{"model": "batch_embeds", "input": given} for given in inputs]
    bodies.append({"model": "batch_embeds", "input": "dddd", "encoding_format": "base64"})
    lines = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/embeddings", "body": body}
        for i, body in enumerate(bodies)
    ]
    result = run_batch(job(tmp_path, f"http://{triton.http_url}", lines, "", question=Question()))
    assert result.requests == 1 and result.answered == 4
    data = [record["response"]["body"]["data"] for record in records_of(tmp_path / "out.jsonl")]
    assert data[0] == [{"object": "embedding", "index": 0, "embedding": [1, 97]}]
    assert [one["embedding"] for one in data[1]] == [[2, 98], [4, 99]] and data[1][1]["index"] == 1
    assert data[2][0]["embedding"] == [2, 195]
    assert np.frombuffer(base64.b64decode(data[3][0]["embedding"]), "<f4").tolist() == [4, 100]


@pytest.mark.server
@pytest.mark.nightly
@pytest.mark.timeout(120)
@pytest.mark.parametrize("whom", ["os.getpid()", "os.getppid()"], ids=["its process", "the server"])
def test_a_row_that_kills_what_answers_it_is_found_and_all_others_are_answered(
    tmp_path: Path, whom: str
) -> None:
    model = tmp_path / "repository" / "m"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(KILLER.format(whom=whom))
    (model / "config.pbtxt").write_text('backend: "python"\n' + DYNAMIC)
    rows = [{"id": str(i), "x": [float(i)]} for i in range(60)]
    result = run_batch(job(tmp_path, str(tmp_path / "repository"), rows, "m"))
    assert (result.answered, result.failed) == (59, 1)
    (failed,) = records_of(tmp_path / "out.errors.jsonl")
    assert failed["id"] == "13" and failed["error"]["code"] == "server_died"
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[-1]) == {"id": "59", "y": [118.0]}
