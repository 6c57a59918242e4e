"""The reusable workflow's own steps, run as its runners would: a home each, and nothing between them but an S3 server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests import onnx_models
from tests.conftest import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "rebuild-engines.yml"
SPEC = """\
models:
  scores:
    source: {onnx: scores.onnx}
    max_batch_size: 8
    variants:
      fp32: {}
      fp16: {precision: fp16, accuracy: {relative_l2: 0.01}}
    serve: fp16
  rows:
    source: {onnx: rows.onnx}
    max_batch_size: 4
"""


@dataclass(frozen=True)
class Runner:
    """A machine of its own: a checkout, a home with no cache in it, and what the workflow sets."""

    home: Path
    checkout: Path
    env: Mapping[str, str]

    def run_job(self, job: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, str]:
        """Runs the job's `run:` steps but for installation, and gives its outputs."""
        outputs = self.home / "outputs"
        outputs.touch()
        for step in job["steps"]:
            if "run" not in step or step["name"] == "Install" or not wanted(step.get("if"), values):
                continue
            env = {k: filled(v, values) for k, v in step.get("env", {}).items()}
            done = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
                cwd=self.checkout,
                env={
                    **self.env,
                    **env,
                    "GITHUB_OUTPUT": str(outputs),
                    "GITHUB_STEP_SUMMARY": str(self.home / "summary"),
                },
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, f"{step['name']}: {done.stdout}{done.stderr}"
        return dict(line.split("=", 1) for line in outputs.read_text().splitlines())

    def tritonsmith(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["tritonsmith", *arguments],
            cwd=self.checkout,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )


def filled(text: Any, values: Mapping[str, str]) -> str:
    """GitHub's expressions by their values; one that the test does not know is an error."""
    return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: values[found.group(1)], str(text))


def wanted(condition: str | None, values: Mapping[str, str]) -> bool:
    return condition is None or values[condition] == "true"


@dataclass(frozen=True)
class Ci:
    """The workflow with its inputs, for runners that come and go."""

    workflow: Mapping[str, Any]
    values: Mapping[str, str]
    source: Path
    base: Path
    s3: Mapping[str, str]

    def runner(self, name: str) -> Runner:
        home = self.base / name
        checkout = home / "work"
        shutil.copytree(self.source, checkout)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TRITONSMITH", "XDG"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**inherited, **self.s3, "HOME": str(home), "PATH": path, "COLUMNS": "200"}
        env |= {k: filled(v, self.values) for k, v in self.workflow["env"].items()}
        return Runner(home, checkout, env)

    def run(self, runner: Runner, job: str) -> dict[str, str]:
        return runner.run_job(self.workflow["jobs"][job], self.values)


@pytest.fixture
def ci(tmp_path: Path, bucket: str) -> Ci:
    source = tmp_path / "source"
    source.mkdir()
    onnx_models.save(onnx_models.affine(("batch", 16)), source / "scores.onnx")
    onnx_models.save(onnx_models.affine(("batch", 5)), source / "rows.onnx")
    (source / "models.yaml").write_text(SPEC)
    workflow = yaml.safe_load(WORKFLOW.read_text())
    inputs = {k: str(v.get("default", "")) for k, v in workflow[True]["workflow_call"]["inputs"].items()}
    inputs |= {"remote-cache": f"{bucket}/cache", "publish-to": f"{bucket}/prod"}
    values = {f"inputs.{k}": v for k, v in inputs.items()} | {
        "inputs.locked && '1' || ''": "",
        "github.event.pull_request.head.repo.fork == true && '1' || '0'": "0",
        "inputs.publish-to != '' && github.event_name != 'pull_request'": "true",
    }
    s3 = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    return Ci(workflow, values, source, tmp_path, s3)


def made_here(runner: Runner) -> list[str]:
    """Logs of exports, checks, conversions and compilations that ran on the runner."""
    return sorted(p.name for p in (runner.home / ".cache" / "tritonsmith" / "logs").glob("*.log"))


def served(runner: Runner, ci: Ci) -> dict[str, list[int]]:
    """Model → the versions that servers load from where it was published."""
    listed = runner.tritonsmith("versions", ci.values["inputs.publish-to"], "--format", "json")
    found: dict[str, list[int]] = {}
    for row in json.loads(listed.stdout)["versions"]:
        found.setdefault(row["model"], []).extend([row["version"]] if row["state"] == "served" else [])
    return found


@pytest.mark.nightly
def test_plan_build_and_publish_on_runners_that_share_a_bucket(ci: Ci) -> None:
    first = ci.runner("plan")
    outputs = ci.run(first, "plan")
    assert outputs == {"matrix": '{"include":[]}'}, "no engines are stated, and the rest is in the cache"
    summary = (first.home / "summary").read_text()
    assert "| scores | convert fp16 | to run | new |" in summary
    assert len(made_here(first)) == 6, "two exports, two checks of rows, a conversion and its judgement"

    release = ci.runner("release")
    ci.run(release, "release")
    assert made_here(release) == [], "all came from the bucket"
    lock = release.checkout / "models.lock.json"
    assert served(release, ci) == {"scores": [1], "rows": [1]}

    # The lock is committed; one model changes; everything happens again on new machines.
    shutil.copy(lock, ci.source / lock.name)
    onnx_models.save(onnx_models.affine(("batch", 17)), ci.source / "scores.onnx")
    second = ci.runner("plan-2")
    stale = json.loads(second.tritonsmith("plan", "--format", "json").stdout)["actions"]
    to_run = {a["model"] for a in stale if a["state"] == "to run" and a["action"] in ("export", "convert")}
    assert to_run == {"scores"}
    ci.run(second, "plan")
    again = ci.runner("release-2")
    ci.run(again, "release")
    assert made_here(again) == []
    assert served(again, ci) == {"scores": [2], "rows": [1]}
    back = again.tritonsmith("rollback", ci.values["inputs.publish-to"], "scores")
    assert back.returncode == 0, back.stderr
    assert served(again, ci) == {"scores": [1], "rows": [1]}


@pytest.fixture(scope="module")
def engines_job() -> Mapping[str, Any]:
    job: Mapping[str, Any] = yaml.safe_load(WORKFLOW.read_text())["jobs"]["engines"]
    return job


def ran(job: Mapping[str, Any], step: str, shell: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A step of the job, with commands that are functions of the shell."""
    (found,) = [s for s in job["steps"] if s.get("name") == step]
    named = dict.fromkeys(found.get("env", {}), "") | env
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", f"{shell}\n{found['run']}"],
        env={**os.environ, **named, "SPEC": "models.yaml", "REPOSITORY": "model_repository"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("tensorrt", "expected"),
    [
        # The build, and what was packaged anew of it: 10.16.0.72.post1 is the same TensorRT, 10.16.1.11 is not.
        ("tensorrt==10.16.0.72.*", ["tritonsmith[torch]", "tensorrt==10.16.0.72.*"]),
        ("", ["tritonsmith[torch]"]),
    ],
)
def test_a_gpu_job_installs_the_targets_own_tensorrt(
    engines_job: Mapping[str, Any], tensorrt: str, expected: list[str]
) -> None:
    shell = "python() { printf '%s\\n' \"$@\"; }"
    done = ran(engines_job, "Install", shell, INSTALL="tritonsmith[torch]", TENSORRT=tensorrt)
    assert done.stdout.splitlines() == ["-m", "pip", "install", *expected]
    if tensorrt:
        pinned = Requirement(expected[1])
        assert "10.16.0.72.post1" in pinned.specifier and "10.16.1.11" not in pinned.specifier


def test_each_row_runs_where_its_gpu_is_and_none_without_one_on_a_gpu(engines_job: Mapping[str, Any]) -> None:
    runs_on = "fromJSON(matrix.gpu && format(inputs.gpu-runner, matrix.gpu) || inputs.cpu-runner)"
    assert engines_job["runs-on"] == f"${{{{ {runs_on} }}}}"
    assert engines_job["strategy"]["fail-fast"] is False, (
        "one kind's failure leaves the others' engines in the cache"
    )


def test_a_runner_with_the_wrong_label_fails_its_own_job(
    engines_job: Mapping[str, Any], tmp_path: Path
) -> None:
    """A build takes engines for other machines for granted, so that somebody has to ask whether its own are there."""
    h100 = {"name": "h100 (9.0)", "gpu": "h100", "work": ["compile m/plan"]}
    left = tmp_path / "matrix.json"
    left.write_text(json.dumps({"include": [h100]}))
    shell = f"tritonsmith() {{ cat {left}; }}"
    step = "Nothing is left for this GPU"
    assert ran(engines_job, step, shell, GPU="l4").returncode == 0
    wrong = ran(engines_job, step, shell, GPU="h100")
    assert wrong.returncode == 1 and "not made here: compile m/plan for h100 (9.0)" in wrong.stderr


def test_every_step_is_a_plain_command_without_expressions_in_it(ci: Ci) -> None:
    """What a pull request can name must never be pasted into a script."""
    for job in ci.workflow["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")
