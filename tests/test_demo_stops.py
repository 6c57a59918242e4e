"""Ctrl-C at every stage of the demo: exit 130, no server, no shared memory region, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.server]

SPEC = """\
models:
  tiny:
    source: {onnx: tiny.onnx}
    max_batch_size: 8
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    from tests import onnx_models

    onnx_models.save(onnx_models.affine(("batch", 16)), tmp_path / "tiny.onnx")
    (tmp_path / "models.yaml").write_text(SPEC)
    return tmp_path


def regions_of(pid: int) -> set[str]:
    """Shared memory of the servers that this process started; others run beside the test."""
    return {p.name for p in Path("/dev/shm").glob(f"tritonsmith_{pid}_*")}


# The stage as the demo announces it, and how long into it the key is pressed.
@pytest.mark.parametrize(
    ("stage", "after_s"),
    [("build", 0.2), ("serve", 0.7), ("answers", 0.1), pytest.param("sweep", 1.5, marks=pytest.mark.nightly)],
)
def test_ctrl_c_ends_the_demo_cleanly(project: Path, stage: str, after_s: float) -> None:
    environment = {**os.environ, "TRITONSMITH_CACHE": str(project / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tritonsmith", "demo", "--spec", "models.yaml", "--sweep-model", "tiny"]
    with subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stderr is not None
        told = ""
        for line in demo.stderr:
            told += line
            if line.rstrip().endswith(f"] {stage}"):
                break
        time.sleep(after_s)
        family = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        rest = demo.stderr.read()
    assert demo.returncode == 130, told + rest
    assert "Traceback" not in rest and "KeyboardInterrupt" not in rest
    assert "interrupted; nothing half-written was left" in rest
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, [p.cmdline() for p in alive if p.is_running()]
    assert regions_of(demo.pid) == set()
    assert not list(project.glob(".model_repository.staging-*"))
    model = project / "model_repository" / "tiny"
    assert not model.exists() or (model / "config.pbtxt").is_file()
