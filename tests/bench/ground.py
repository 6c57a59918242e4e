"""A directory → a small project in one of two states that answer differently, run by the command line as users run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import external_data_helper, helper

from tests import onnx_models
from tritonsmith.builder.base.files.digest import digest_of_file
from tritonsmith.builder.build.build import BuildOptions, plan_build
from tritonsmith.builder.cache.cache import Cache

ROOT = Path(__file__).parent.parent.parent
MODELS = ("first", "second", "third")
Trees = Mapping[str, Mapping[str, str]]
"""Model → path in its directory → sha256."""


@dataclass
class Row:
    """One fault of the table. problems: what was not survived, in words; none is the wish."""

    fault: str
    times: int = 0
    succeeded: int = 0
    seen: str = ""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def settle(self, problems: Sequence[str]) -> None:
        """One fault more has been, and what the run after it made of it."""
        self.times += 1
        self.succeeded += not problems
        self.problems += problems

    @property
    def line(self) -> str:
        """As a row of Markdown."""
        return f"| {self.fault} | {self.times} | {self.succeeded} | {self.seen} |"


def answer_of(model: str, state: int) -> tuple[str, float]:
    """(output, its value for x = 1) that a model gives in a state, if all its files are of that state.

    The output's name stands in config.pbtxt and in model.onnx, the factor in model.onnx, the offset in weights.bin.
    """
    number = MODELS.index(model) + 1
    return f"y{state}", 10.0 * number + state + 1000.0 * (state + 1)


def save_model(directory: Path, model: str, state: int, padding: int = 0) -> None:
    """model.onnx and weights.bin, which belong together. padding: bytes that make weights.bin larger."""
    number, output = MODELS.index(model) + 1, f"y{state}"
    spare = np.random.default_rng(state).integers(0, 256, padding, np.uint8)
    proto = onnx_models.model(
        [
            helper.make_node("Mul", ["x", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], [output]),
        ],
        [onnx_models.tensor("x", ["batch", 3])],
        [onnx_models.tensor(output, ["batch", 3])],
        {
            "scale": np.float32(10.0 * number + state).reshape(()),
            "offset": np.full((3,), 1000.0 * (state + 1), np.float32),
            **({"spare": spare} if padding else {}),
        },
    )
    for constant in proto.graph.initializer:
        if constant.name != "scale":
            external_data_helper.set_external_data(constant, "weights.bin")
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    onnx.save_model(proto, str(directory / "model.onnx"))


@dataclass(frozen=True)
class Ground:
    """A project with a cache of its own. remote: the shared cache's address; env: more of the environment."""

    root: Path
    models: tuple[str, ...] = MODELS
    padding: int = 0
    cache: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def repository(self) -> Path:
        return self.root / "model_repository"

    @property
    def cache_directory(self) -> Path:
        return self.cache or self.root.with_name(f"{self.root.name}.cache")

    def write(self, state: int) -> None:
        """Brings the sources and the spec into a state; the outputs' names are stated, as in config.pbtxt."""
        text = "models:\n"
        for model in self.models:
            save_model(self.root / "sources" / model, model, state, self.padding)
            text += f"  {model}:\n    source: {{onnx: sources/{model}/model.onnx}}\n    max_batch_size: 4\n"
        (self.root / "models.yaml").write_text(text)

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """The command line in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "tritonsmith", *arguments],
            cwd=self.root,
            env={**self.environment, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """The command line to its end."""
        with self.start(*arguments, **env) as process:
            out, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, out, errors)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRITONSMITH")}
        own = {"TRITONSMITH_CACHE": str(self.cache_directory), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        return {**inherited, **own, "COLUMNS": "200", **self.env}

    def forget(self, *, cache: bool = False, repository: bool = False) -> None:
        """Removes the cache, or what was built with its lock."""
        if cache:
            shutil.rmtree(self.cache_directory, ignore_errors=True)
        if repository:
            shutil.rmtree(self.repository, ignore_errors=True)
            (self.root / "models.lock.json").unlink(missing_ok=True)

    def trees(self) -> dict[str, dict[str, str]]:
        """All that lies in the repository now."""
        return trees_of(self.repository)

    def stale(self) -> list[str]:
        """What `tritonsmith plan --exit-code` would name, asked in this process."""
        options = BuildOptions(self.root / "models.yaml", cache=Cache(self.cache_directory))
        return [f"{a.model} {a.kind} {a.reason}" for a in plan_build(options)[1].stale]

    def problems_of_next_build(self, wanted: Trees, *arguments: str) -> list[str]:
        """Runs the next build: what it failed to do, nothing when all is as the spec says."""
        done = self.run("build", *arguments)
        if done.returncode:
            return [f"the next build ended with {done.returncode}: {last_line(done.stderr)}"]
        return self.problems(wanted)

    def problems(self, wanted: Trees) -> list[str]:
        """What a build failed to do; nothing when all is as the spec says."""
        problems = []
        stale = self.stale()
        if stale:
            problems.append(f"after the build a plan is not empty: {stale[0]}")
        if self.trees() != wanted:
            problems.append("the build left something else than the spec says")
        left = [p.name for p in self.root.iterdir() if "staging" in p.name]
        if left:
            problems.append(f"the build left {left[0]} behind")
        return problems


def trees_of(repository: Path) -> dict[str, dict[str, str]]:
    """Every file under a repository, by model; what is no directory is a model of that name."""
    found: dict[str, dict[str, str]] = {}
    if not repository.is_dir():
        return found
    for model in sorted(repository.iterdir()):
        files = [model] if model.is_file() else [p for p in sorted(model.rglob("*")) if p.is_file()]
        found[model.name] = {
            p.relative_to(model).as_posix(): digest_of_file(p) for p in files if "__pycache__" not in p.parts
        }
    return found


def half_written(now: Trees, states: Sequence[Trees]) -> list[str]:
    """Models that are wholly of none of the states, in words."""
    return [
        f"{model} is of neither state: {sorted(files)}"
        for model, files in now.items()
        if all(files != state.get(model) for state in states)
    ]


def references(scratch: Path, models: tuple[str, ...] = MODELS, padding: int = 0) -> list[Trees]:
    """What an undisturbed build lays out in each of the two states."""
    trees: list[Trees] = []
    for state in (0, 1):
        ground = Ground(scratch / f"reference-{state}", models, padding)
        ground.write(state)
        done = ground.run("build")
        assert done.returncode == 0, done.stderr
        trees.append(ground.trees())
        assert set(trees[-1]) == set(models)
    return trees


def actions_in(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Of a build with --format json, what became of each model."""
    told: list[dict[str, Any]] = json.loads(done.stdout)["models"]
    return {m["model"]: m["action"] for m in told}


def last_line(text: str) -> str:
    """What a process said last, for a problem in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines or ["nothing was said"])[-1 if not errors else 0][:300]
