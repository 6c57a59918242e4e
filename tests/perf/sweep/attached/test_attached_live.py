"""A sweep of a running tritonserver that is killed while a config of its own serves: the repository's serves again."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.onnx_models import affine
from tests.perf.conftest import LiveTriton
from tests.perf.sweep.attached.test_changes import environment
from tritonsmith.perf.server import control
from tritonsmith.perf.sweep.attached.held import held_server, is_left_changed

pytestmark = pytest.mark.server

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
FLAGS = ("--set", "max_batch_size=4", "-c", "1", "--duration", "100ms", "--warmup", "20ms", "--rounds", "30")


def test_a_killed_sweep_is_put_back_where_a_plain_load_would_not(triton: LiveTriton, tmp_path: Path) -> None:
    triton.load("killed", affine(["batch", 4]), CONFIG)
    own, url = control.model_config(triton.http_url, "killed"), f"http://{triton.http_url}"
    command = [sys.executable, "-m", "tritonsmith", "sweep", url, "-m", "killed", *FLAGS, "-o", "run"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL) as process:
        deadline_s = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline_s:
            if control.is_model_ready(triton.http_url, "killed"):  # it is unloaded for a moment
                if control.model_config(triton.http_url, "killed")["max_batch_size"] == 4:
                    break
            time.sleep(0.02)
        process.kill()
    assert is_left_changed(url)
    control.load_model(triton.http_url, "killed")
    assert control.model_config(triton.http_url, "killed")["max_batch_size"] == 4
    said: list[str] = []
    with held_server(url, "next", on_note=said.append):
        assert control.model_config(triton.http_url, "killed") == own
    assert said and said[0].endswith("put back: killed has its repository's config again")
    control.unload_model(triton.http_url, "killed")
