"""A Python stub that dies under a served model: told within a second, by whom it was ended, and the model answers again."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tritonsmith.builder.base.files.http_ask import ask
from tritonsmith.perf.server import control
from tritonsmith.perf.server.stubs.deaths import LOOKS, Death, Stub, Stubs

DIES = """
import os
import triton_python_backend_utils as pb
class TritonPythonModel:
    def execute(self, requests):
        out = []
        for request in requests:
            x = pb.get_input_tensor_by_name(request, "x").as_numpy()
            if x.flat[0] == 7:
                os._exit(3)
            out.append(pb.InferenceResponse([pb.Tensor("y", x * 2)]))
        return out
"""
CONFIG = """backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: [1] }
output { name: "y" data_type: TYPE_FP32 dims: [1] }
instance_group { count: 1 kind: KIND_CPU }
"""


def add_dying_model(repository: Path, name: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(DIES)
    (repository / name / "config.pbtxt").write_text(CONFIG)


# A model one of whose stubs has died holds up the end of the server until its own timeout.
QUICK_END = ("--", "--exit-timeout-secs=0")


class Served:
    """`tritonsmith serve` as a process, and its lines on stderr with their times."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stderr is not None
        self._process = process
        self._lines: queue.Queue[tuple[float, str]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, "serve ended"
            text += line
        self.state: dict[str, Any] = json.loads(text)
        self.url = self.state["http_url"]
        self.pid: int = self.state["pid"]

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.put((time.monotonic(), line))

    def line_with(self, words: str, within_s: float) -> tuple[float, str]:
        deadline = time.monotonic() + within_s
        while True:
            at, line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            if words in line:
                return at, line

    def infer(self, value: float) -> tuple[int, dict[str, Any]]:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}]}
        reply = ask(self.url, "POST", "/v2/models/m/infer", json.dumps(body).encode(), {}, timeout_s=20)
        return reply.status, json.loads(reply.body)


@contextmanager
def serving(repository: Path, *flags: str) -> Iterator[Served]:
    free = [part for port in ("http", "grpc", "metrics") for part in (f"--{port}-port", "0")]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tritonsmith",
            "serve",
            str(repository),
            "--format",
            "json",
            *free,
            *flags,
            *QUICK_END,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Served(process)
    finally:
        process.terminate()
        process.wait(30)


def stub_of(served: Served) -> psutil.Process:
    [pid] = control.instance_pids(served, "m")
    return psutil.Process(pid)


@pytest.mark.server
@pytest.mark.timeout(60)
def test_a_killed_stub_is_told_within_a_second_and_its_model_answers_again(tmp_path: Path) -> None:
    add_dying_model(tmp_path / "repository", "m")
    with serving(tmp_path / "repository", "--model-control", "explicit", "--load-model", "m") as served:
        assert served.infer(1)[0] == 200
        stub, killed = stub_of(served), time.monotonic()
        stub.kill()
        at, line = served.line_with("SIGKILL", 5)
        assert at - killed < 1
        assert f"model 'm': the Python stub of instance 'm_0_0' (pid {stub.pid}) was ended by SIGKILL" in line
        assert "it is loaded again now (1 of 3 times)" in line and served.state["log"] in line
        served.line_with("model 'm' was loaded again, with the config that it had", 10)
        assert served.infer(2)[1]["outputs"][0]["data"] == [4.0]

        # A second time, by the model itself: a plain load would change nothing now.
        status, answer = served.infer(7)
        assert status == 500 and "Stub process 'm_0_0' is not healthy" in answer["error"]
        assert "(2 of 3 times)" in served.line_with("ended with exit code 3", 2)[1]
        served.line_with("was loaded again", 10)
        assert served.infer(3)[1]["outputs"][0]["data"] == [6.0]


@pytest.mark.nightly
@pytest.mark.server
@pytest.mark.parametrize(
    ("mode", "what"), [("none", "--model-control explicit"), ("poll", "touch its config.pbtxt")]
)
def test_where_no_model_can_be_loaded_the_line_says_what_to_do(tmp_path: Path, mode: str, what: str) -> None:
    add_dying_model(tmp_path / "repository", "m")
    with serving(tmp_path / "repository", "--model-control", mode) as served:
        served.infer(7)
        assert what in served.line_with("ended with exit code 3", 2)[1]
        if mode == "poll":
            (tmp_path / "repository" / "m" / "config.pbtxt").touch()
            deadline = time.monotonic() + 20
            while served.infer(1)[0] != 200:
                assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (signal.SIGSEGV, "was ended by SIGSEGV"),
        (signal.SIGKILL, "was ended by SIGKILL: killed by somebody, or by the kernel when memory ran out"),
        (139 << 8, "ended with exit code 139"),
        (0, "ended with exit code 0"),
    ],
)
def test_how_a_stub_ended_in_words(status: int, words: str) -> None:
    assert Death(Stub(1, ("stub", "/r/m/1/model.py", "m_0_0", "DEFAULT")), status).how == words


def start_stub(directory: Path) -> subprocess.Popen[bytes]:
    """A process of this one that a look takes for a stub."""
    stub = directory / "triton_python_backend_stub"
    if not stub.exists():
        stub.symlink_to(Path(sys.executable).resolve())
    return subprocess.Popen([str(stub), "-c", "import time; time.sleep(60)", "m_0_0", "DEFAULT"])


def test_only_what_nobody_waits_for_has_died(tmp_path: Path) -> None:
    parent = Stubs(os.getpid())
    died, ordered = (start_stub(tmp_path) for _ in range(2))
    try:
        assert parent.look() == []
        for process in (died, ordered):
            process.kill()
        ordered.wait()
        os.waitid(os.P_PID, died.pid, os.WEXITED | os.WNOWAIT)
        assert [parent.look() for _ in range(LOOKS - 1)] == [[]] * (LOOKS - 1)
        [death] = parent.look()
        assert (death.stub.pid, death.stub.instance, death.status) == (died.pid, "m_0_0", signal.SIGKILL)
        assert parent.look() == []
    finally:
        died.wait()
