"""Steps as processes: time limits, deaths, the budget, what their loader finds; and the command on a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run
from tritonsmith.perf.doctor.gpu_check.runner import cuda_libraries, environment, run_steps
from tritonsmith.perf.doctor.gpu_check.step import Line, Step
from tritonsmith.perf.doctor.gpu_check.table import STEPS


def ran(tmp_path: Path, *steps: Step, budget_s: float = 60.0) -> list[Line]:
    return list(run_steps(steps, "cpu", tmp_path, budget_s))


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of steps of its own beside perf.doctor.gpu_check.steps', for processes that end badly."""
    package = tmp_path / "extra"
    package.mkdir()
    (package / "sitecustomize.py").write_text(
        f"from tritonsmith.perf.doctor.gpu_check import steps\nsteps.__path__.append({str(package)!r})\n"
    )
    (package / "scripted.py").write_text(
        "import os, time, subprocess\n"
        "def dies(device, work, argument):\n    print('last words', flush=True)\n    os._exit(7)\n"
        "def hangs(device, work, argument):\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    (work.parent / 'pid').write_text(str(child.pid))\n    time.sleep(600)\n"
        "def fine(device, work, argument):\n    return {'device': device, 'argument': argument}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package))
    (work := tmp_path / "work").mkdir()
    return work


def test_a_step_that_hangs_or_dies_ends_alone(scripted: Path) -> None:
    begun = time.monotonic()
    hung, died, fine = ran(
        scripted,
        Step("hangs", "scripted:hangs", limit_s=1.5),
        Step("dies", "scripted:dies"),
        Step("fine", "scripted:fine", "x"),
    )
    assert time.monotonic() - begun < 20
    assert (hung.outcome.status, hung.outcome.why) == ("failed", "not done within 2 s")
    assert "exit code 7" in died.outcome.why and "last words" in died.outcome.facts["log"]
    assert (fine.outcome.status, fine.outcome.facts) == ("passed", {"device": "cpu", "argument": "x"})
    pid = int((scripted / "pid").read_text())
    assert (
        not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    )


def test_what_the_budget_has_no_time_for_says_so(scripted: Path) -> None:
    (line,) = ran(scripted, Step("fine", "scripted:fine"), budget_s=0.5)
    assert (line.outcome.status, line.outcome.why) == ("failed", "no time was left for it")


def test_a_hidden_library_comes_first_and_no_network_is_asked(tmp_path: Path) -> None:
    env = environment({"LD_LIBRARY_PATH": "/given", "PATH": "/bin"}, tmp_path, "libcudnn.so.9")
    first, second = env["LD_LIBRARY_PATH"].split(os.pathsep)[:2]
    assert (Path(first) / "libcudnn.so.9").read_bytes() == b"" and second == "/given"
    assert env["PIP_NO_INDEX"] == "1"
    assert environment({"LD_LIBRARY_PATH": "/given"}, tmp_path)["LD_LIBRARY_PATH"].startswith("/given")


def test_an_empty_file_hides_a_library_that_lies_elsewhere(tmp_path: Path) -> None:
    env = environment(os.environ, tmp_path, "libz.so.1")
    code = "import ctypes; ctypes.CDLL('libz.so.1')"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if seen.returncode != 0:
        pytest.skip("no libz.so.1 to hide")
    hidden = subprocess.run([sys.executable, "-S", "-c", code], env=env, capture_output=True, text=True)
    assert "too short" in hidden.stderr


def test_cuda_libraries_are_those_of_the_wheels(tmp_path: Path) -> None:
    for name in ("cudnn", "cu13"):
        (tmp_path / "nvidia" / name / "lib").mkdir(parents=True)
    (tmp_path / "nvidia" / "empty").mkdir()
    assert [p.parent.name for p in cuda_libraries(iter([tmp_path]))] == ["cu13", "cudnn"]


def test_every_step_is_there_to_be_called_and_fits_its_name() -> None:
    import importlib

    for step in STEPS:
        module, _, function = step.call.partition(":")
        assert callable(
            getattr(importlib.import_module(f"tritonsmith.perf.doctor.gpu_check.steps.{module}"), function)
        )
    assert len({step.name for step in STEPS}) == len(STEPS)


def no_gpu() -> bool:
    from tritonsmith.builder.base.machine.cuda import gpus

    return not gpus()[0]


@pytest.mark.skipif(not no_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_at_once_what_is_missing(tritonsmith: Run, tmp_path: Path) -> None:
    done = tritonsmith("doctor", "--gpu")
    assert done.returncode == 3
    assert "error[gpu_missing]" in done.stderr and "libcuda" in done.stderr
    assert not (tmp_path / "gpu-check.jsonl").exists()


def test_an_unknown_step_is_one_error(tritonsmith: Run) -> None:
    done = tritonsmith("doctor", "--gpu", "--device", "cpu", "--step", "versiosn")
    assert done.returncode == 2 and "error[unknown_step]" in done.stderr


def test_steps_without_a_gpu_are_one_json_line_each(tritonsmith: Run, tmp_path: Path) -> None:
    names = ("versions", "device copies")
    steps = [word for name in names for word in ("--step", name)]
    done = tritonsmith("doctor", "--gpu", "--device", "cpu", *steps, "--format", "json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["step"], line["status"], line["device"]) for line in lines] == [
        (n, "passed", "cpu") for n in names
    ]
    assert (tmp_path / "gpu-check.jsonl").read_text() == done.stdout


def test_the_bare_start_says_which_wheels_are_lacking(tmp_path: Path) -> None:
    (folder := tmp_path / "wheels").mkdir()
    # A Python that sees none of ours: -S leaves out site-packages, and so does the environment that it makes.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "tritonsmith.perf.doctor.gpu_check", "--wheels", str(folder)],
        cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "error[wheels_missing]" in done.stderr and "pip download" in done.stderr


@pytest.mark.nightly
@pytest.mark.server
@pytest.mark.timeout(300)
def test_all_that_runs_on_a_cpu_passes(tritonsmith: Run, tmp_path: Path) -> None:
    from tritonsmith.perf.server.environment import environment as server

    done = tritonsmith(
        "doctor", "--gpu", "--device", "cpu", timeout=280, TRITONSMITH_SERVER_HOME=str(server.home())
    )
    lines = [json.loads(line) for line in (tmp_path / "gpu-check.jsonl").read_text().splitlines()]
    found = {line["step"]: (line["status"], line["why"]) for line in lines}
    assert done.returncode == 0, found
    assert set(found) == {step.name for step in STEPS if step.cpu}
