"""What others use this repository by, run as they would: pre-commit's hooks, the GitHub Action, the Dockerfile."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import onnx_models
from tests.conftest import ROOT
from tests.test_ci_chain import filled

HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
TENSORS = 'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }\noutput { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }\n'
BIN = Path(sys.executable).parent
ENV = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout as others have it: two models, without the files that git does not keep, and a spec."""
    root = tmp_path / "project"
    for name, text in (("good", ""), ("bad model", "max_batch_sze: 4\n")):
        (root / "models" / name).mkdir(parents=True)
        (root / "models" / name / "config.pbtxt").write_text(f'backend: "python"\n{text}{TENSORS}')
    onnx_models.save(onnx_models.affine(("batch", 4)), root / "affine.onnx")
    (root / "models.yaml").write_text("models:\n  affine:\n    source: {onnx: affine.onnx}\n")
    (root / "notes.txt").write_text("not ours")
    return root


def hooked(hook: Mapping[str, Any], project: Path) -> subprocess.CompletedProcess[str]:
    """The hook on all files of the project, as pre-commit gives them: paths from its root behind the entry."""
    files = sorted(str(p.relative_to(project)) for p in project.rglob("*") if p.is_file())
    chosen = [file for file in files if re.search(hook["files"], file)]
    return subprocess.run(
        [*shlex.split(hook["entry"]), *chosen], cwd=project, env=ENV, capture_output=True, text=True
    )


def test_the_hooks_judge_configs_and_the_spec(project: Path) -> None:
    check, fix = HOOKS
    assert (check["id"], fix["id"]) == ("tritonsmith-check", "tritonsmith-fix")
    done = hooked(check, project)
    assert done.returncode == 4, done.stderr
    assert done.stdout.startswith("models/bad model/config.pbtxt:2:1: REPO001 [*] error: ")
    assert "2 models: 1 error, 0 warnings" in done.stdout and "1 spec read: 0 errors" in done.stderr
    (project / "models.yaml").write_text("models:\n  affine:\n    sorce: {onnx: affine.onnx}\n")
    done = hooked(fix, project)
    assert done.returncode == 2 and "models.yaml:3" in done.stderr and "source" in done.stderr
    assert "Fixed 1, 0 left" in done.stdout
    assert "max_batch_size: 4" in (project / "models" / "bad model" / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "config.pbtxt",
        "repo/m/config.pbtxt",
        "models.yaml",
        "a/models.yml",
        "config.pbtxt.bak",
        "myconfig.pbtxt",
    ],
)
def test_the_hooks_take_their_files_alone(name: str) -> None:
    is_ours = name.split("/")[-1] in ("config.pbtxt", "models.yaml", "models.yml")
    assert all(bool(re.search(hook["files"], name)) == is_ours for hook in HOOKS)


class Action:
    """The action's own `run:` steps on a runner of this machine, with the inputs' defaults and those given."""

    def __init__(self, project: Path, home: Path, **inputs: str) -> None:
        self.project, self.home = project, home
        self.inputs = {name: str(row["default"]) for name, row in ACTION["inputs"].items()} | inputs
        self.outputs: dict[str, str] = {}
        home.mkdir()
        gh = home / "bin" / "gh"
        gh.parent.mkdir()
        gh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {shlex.quote(str(home / "gh"))}\n')
        gh.chmod(0o755)

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        step = next(s for s in STEPS if s.get("name") == name)
        values = {f"inputs.{name}": value for name, value in self.inputs.items()}
        values |= {f"steps.check.outputs.{name}": value for name, value in self.outputs.items()}
        values |= {"github.token": "t", "github.event.pull_request.number": "7"}
        told = self.home / "outputs"
        done = subprocess.run(
            # As a runner starts `shell: bash`.
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=self.project,
            env={
                **ENV,
                "PATH": f"{self.home / 'bin'}{os.pathsep}{ENV['PATH']}",
                **{k: filled(v, values) for k, v in step.get("env", {}).items()},
                "RUNNER_TEMP": str(self.home),
                "GITHUB_OUTPUT": str(told),
                "GITHUB_STEP_SUMMARY": str(self.home / "summary"),
                "GITHUB_REPOSITORY": "o/r",
                "TRITONSMITH_CACHE": str(self.home / "cache"),
            },
            capture_output=True,
            text=True,
        )
        if told.exists():
            self.outputs |= dict(line.split("=", 1) for line in told.read_text().splitlines())
        return done

    @property
    def summary(self) -> str:
        return (self.home / "summary").read_text()


def test_the_action_tells_findings_the_plan_and_fails_last(project: Path, tmp_path: Path) -> None:
    action = Action(
        project, tmp_path / "runner", paths="models\n\n", spec="models.yaml", ignore="BATCH,IO012"
    )
    done = action.run("Check")
    assert done.returncode == 0, done.stderr
    assert "::error file=models/bad model/config.pbtxt,col=1,line=2,title=REPO001::" in done.stdout
    log = json.loads(Path(action.outputs["sarif"]).read_text())
    place = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place["region"] == {"startLine": 2, "startColumn": 1, "endColumn": 14}
    assert "1  REPO001  [*]  error" in action.summary
    done = action.run("Plan")
    assert done.returncode == 0 and "affine" in action.summary.split("```")[-1], done.stderr
    assert action.run("Say it in the pull request").returncode == 0
    assert (tmp_path / "runner" / "gh").read_text().splitlines()[:3] == ["pr", "comment", "7"]
    assert action.run("Errors").returncode == 4


def test_the_action_ends_at_once_when_it_cannot_check(project: Path, tmp_path: Path) -> None:
    action = Action(project, tmp_path / "runner", paths="absent")
    done = action.run("Check")
    assert done.returncode == 2 and "there is no absent" in done.stderr


def test_no_script_of_the_action_has_values_written_into_it() -> None:
    scripts = [step for step in STEPS if "run" in step]
    assert scripts and not [step["name"] for step in scripts if "${{" in step["run"]]
    assert all(step["shell"] == "bash" for step in scripts), "a composite action has no default shell"
    inputs = set(re.findall(r"inputs\.([\w-]+)", json.dumps(ACTION["runs"])))
    assert inputs == set(ACTION["inputs"])


def instructions() -> list[tuple[str, str]]:
    """(instruction, its argument) of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_small_and_runs_as_a_user() -> None:
    stages = [n for n, (word, _) in enumerate(instructions()) if word == "FROM"]
    last = instructions()[stages[-1] :]
    assert len(stages) == 2 and all("-slim" in instructions()[n][1] for n in stages)
    assert [rest for word, rest in last if word == "USER"] == ["tritonsmith"]
    assert json.loads(dict(last)["ENTRYPOINT"]) == ["tritonsmith"]
    assert not [rest for word, rest in last if word == "COPY" and "--from=build" not in rest]
    for word, rest in instructions():
        if word == "RUN":
            assert subprocess.run(["bash", "-n", "-c", rest]).returncode == 0, rest
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert ignored[0] == "*" and all((ROOT / name).exists() for name in kept)


@pytest.mark.nightly
@pytest.mark.timeout(1200)  # it installs all that the command line needs
def test_what_the_image_runs_works_outside_of_docker(project: Path, tmp_path: Path) -> None:
    source, prefix = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        place = ROOT / line[1:]
        if line.startswith("!") and place.is_dir():
            shutil.copytree(place, source / place.name, symlinks=True)
        elif line.startswith("!"):
            shutil.copy(place, source / place.name)
    build = instructions()[: [w for w, _ in instructions()].index("USER")]
    for command in (rest for word, rest in build if word == "RUN" and not rest.startswith("useradd")):
        there = command.replace("/opt/tritonsmith", str(prefix)).replace(
            "python -m venv", f"{sys.executable} -m venv"
        )
        done = subprocess.run(["sh", "-c", there], cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    entry = [str(prefix / "bin" / word) for word in json.loads(dict(instructions())["ENTRYPOINT"])]
    done = subprocess.run(
        [*entry, "check", "models"], cwd=project, env={**ENV, "HOME": "/"}, capture_output=True, text=True
    )
    assert done.returncode == 4 and "REPO001" in done.stdout, done.stderr
