"""`infer` and `status` against a real tritonserver: every protocol, both kinds of code, a model that answers often."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.perf.commands.serving.test_infer import run_code
from tests.perf.conftest import LiveTriton
from tests.perf.load.test_load_kinds_live import STREAM, STREAM_CONFIG, SUM, SUM_CONFIG, add_python_model
from tritonsmith.builder.base.errors import TrialError
from tritonsmith.perf.commands.serving.infer import infer
from tritonsmith.perf.commands.serving.status import status
from tritonsmith.perf.server import control

pytestmark = pytest.mark.server

ECHO = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            text, image = (pb.get_input_tensor_by_name(request, n).as_numpy() for n in ("text", "image"))
            if text.ravel()[0] == b"fail":
                answers.append(pb.InferenceResponse([], pb.TritonError("no such text, " + "truly " * 90)))
            else:
                answers.append(pb.InferenceResponse([pb.Tensor("said", text), pb.Tensor("seen", image)]))
        return answers
"""
ECHO_CONFIG = """
backend: "python"
max_batch_size: 4
input [{ name: "text" data_type: TYPE_STRING dims: [1] }, { name: "image" data_type: TYPE_FP16 dims: [3, 2, -1] }]
output [{ name: "said" data_type: TYPE_STRING dims: [1] }, { name: "seen" data_type: TYPE_FP16 dims: [3, 2, -1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
MODELS = {
    "asked_echo": (ECHO, ECHO_CONFIG),
    "asked_stream": (STREAM, STREAM_CONFIG),
    "asked_sum": (SUM, SUM_CONFIG),
}


@pytest.fixture(scope="module")
def asked(triton: LiveTriton) -> Iterator[LiveTriton]:
    for name, (source, config) in MODELS.items():
        add_python_model(triton, name, source, config)
    with pytest.raises(TrialError):
        add_python_model(triton, "asked_broken", "raise RuntimeError('no weights')", STREAM_CONFIG)
    yield triton
    for name in MODELS:
        control.unload_model(triton.http_url, name)


@pytest.mark.parametrize("protocol", ["http", "grpc", "grpc alone"])
def test_texts_and_images_come_back(
    asked: LiveTriton, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "i.png")
    url = f"grpc://{asked.grpc_url}" if protocol == "grpc alone" else f"http://{asked.http_url}"
    flags: dict[str, Any] = {"protocol": "grpc", "grpc_url": asked.grpc_url} if protocol == "grpc" else {}
    values = ["text=é and more", f"image=@{tmp_path / 'i.png'}"]
    infer(url, values, model="asked_echo", format="json", output=tmp_path / "kept.npz", **flags)
    told = json.loads(capsys.readouterr().out)
    said, seen = told["responses"][0]["outputs"]
    assert told["version"] == "1" and said["data"] == [["é and more"]]
    want = (pixels.transpose(2, 0, 1)[None] / 255).astype(np.float16)
    np.testing.assert_array_equal(np.float16(seen["data"]), want)
    infer(url, [], model="asked_echo", data=tmp_path / "kept.npz", **flags)
    assert '"é and more"' in capsys.readouterr().out
    with pytest.raises(TrialError, match=f"no such text, {'truly ' * (90 if protocol == 'http' else 10)}"):
        infer(url, ["text=fail", values[1]], model="asked_echo", **flags)


def test_models_that_answer_often_or_keep_state_are_asked_as_they_want(
    asked: LiveTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    url, grpc = f"http://{asked.http_url}", {"grpc_url": asked.grpc_url}
    infer(url, ["x=3"], model="asked_stream", **grpc)
    out, err = capsys.readouterr()
    assert "3 responses, the first after" in out and "asked over a gRPC stream" in err
    assert re.findall(r"^(\d) +y +INT32 +\[1\] +(\d)$", out, re.MULTILINE) == [
        ("1", "0"),
        ("2", "1"),
        ("3", "2"),
    ]
    for _ in range(2):  # each is a sequence of its own
        infer(url, ["x=4"], model="asked_sum", format="json")
        told = json.loads(capsys.readouterr().out)
        assert told["responses"][0]["outputs"][0]["data"] == [[4]] and "keeps state" in told["notes"][0]


@pytest.mark.parametrize(
    ("model", "values", "flags", "by_curl", "by_python"),
    [
        ("asked_sum", ["x=4"], {}, '"data":[4]', "y [[4]]"),
        ("asked_sum", ["x=4"], {"protocol": "grpc"}, '"data":[4]', "y [[4]]"),
        ("asked_stream", ["x=2"], {}, None, "y [0]\ny [1]"),
        (
            "asked_echo",
            ["text=é", f"image={[[[0.1]] * 2] * 3}"],
            {},
            None,
            "said [[b'\\xc3\\xa9']]\nseen [[[[",
        ),
    ],
)
def test_the_code_gets_tritons_answer(
    asked: LiveTriton,
    model: str,
    values: list[str],
    flags: dict[str, Any],
    by_curl: str | None,
    by_python: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = {"grpc_url": asked.grpc_url, **flags}
    infer(f"http://{asked.http_url}", values, model=model, show_code=True, **where)
    out, err = capsys.readouterr()
    printed = run_code(out, tmp_path)
    assert printed[-1].startswith(by_python)
    assert (len(printed) == 2 and by_curl in printed[0]) if by_curl else "no curl line" in err


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_look_is_the_same_over_both_protocols(
    asked: LiveTriton, scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    infer(f"http://{asked.http_url}", ["x=4"], model="asked_sum")
    capsys.readouterr()
    url = f"{scheme}://{asked.http_url if scheme == 'http' else asked.grpc_url}"
    status(url, model=["asked_sum", "asked_broken"], format="json")
    broken, summed = json.loads(capsys.readouterr().out)["models"]
    assert (
        broken["state"] == "UNAVAILABLE" and "no weights" in broken["reason"] and broken["counters"] is None
    )
    counters = summed["counters"]
    assert summed["state"] == "READY" and counters["requests"] >= 1 and counters["batch_executions"].get("1")
    assert counters["mean_compute_infer_us"] > 0
    status(url, model=["asked_broken"])
    assert re.search(r"^asked_broken( version 1)?: .*no weights", capsys.readouterr().out, re.MULTILINE)
