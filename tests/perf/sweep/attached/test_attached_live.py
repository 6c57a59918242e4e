"""A sweep of a running tritonserver that is killed while a config of its own serves: the repository's serves again."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.onnx_models import affine
from tests.perf.conftest import LiveTriton
from tests.perf.sweep.attached.test_changes import environment
from tritonsmith.builder.base.errors import TrialError
from tritonsmith.perf.server import control
from tritonsmith.perf.sweep.attached.held import held_server, is_left_changed

pytestmark = [pytest.mark.server, pytest.mark.slow]

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
FLAGS = ("--set", "max_batch_size=4", "-c", "8", "--duration", "100ms", "--warmup", "20ms", "--rounds", "30")


def served(triton: LiveTriton) -> int | None:
    """max_batch_size; None while the model is unloaded."""
    with suppress(TrialError):
        return int(control.model_config(triton.http_url, "killed")["max_batch_size"])
    return None


@pytest.mark.nightly
def test_a_killed_sweep_is_put_back_where_a_plain_load_would_not(triton: LiveTriton, tmp_path: Path) -> None:
    triton.load("killed", affine(["batch", 4]), CONFIG)
    own, url = control.model_config(triton.http_url, "killed"), f"http://{triton.http_url}"
    process = subprocess.Popen(
        [sys.executable, "-m", "tritonsmith", "sweep", url, "-m", "killed", *FLAGS, "-o", "run"],
        cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline_s = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline_s and served(triton) != 4:
        time.sleep(0.02)
    process.kill()
    told = process.communicate()
    assert is_left_changed(url), told
    control.load_model(triton.http_url, "killed")
    assert served(triton) == 4
    said: list[str] = []
    with held_server(url, "next", on_note=said.append):
        assert control.model_config(triton.http_url, "killed") == own
    assert said and said[0].endswith("put back: killed has its repository's config again")
    control.unload_model(triton.http_url, "killed")
