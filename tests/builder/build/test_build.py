"""`tritonsmith build`, end to end on small ONNX files: what is written, what is not, and every kind of bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import onnx_models
from tests.conftest import Run
from tritonsmith.builder.base.triton_proto import model_config_pb2

SPEC = "models:\n  m:\n    source: {onnx: m.onnx}\n    max_batch_size: 4\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a spec and the model it names."""
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text(SPEC)
    return tmp_path


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file's identity, but for the hints that spare rereading files: they follow a young file later."""
    return {
        str(p.relative_to(directory)): (p.stat().st_ino, p.stat().st_mtime_ns)
        for p in directory.rglob("*")
        if p.is_file() and p.name != "stat.json"
    }


def test_a_build_and_a_second_one_that_writes_nothing(project: Path, tritonsmith: Run) -> None:
    first = tritonsmith("build", "--format", "json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["models"][0]["action"] == "exported"
    assert (project / "model_repository" / "m" / "1" / "model.onnx").read_bytes() == (
        project / "m.onnx"
    ).read_bytes()
    before = snapshot(project)
    second = tritonsmith("build")
    assert second.returncode == 0 and "nothing to do" in second.stdout
    assert snapshot(project) == before
    assert tritonsmith("plan", "--exit-code").returncode == 0


def test_only_what_changed_is_written_again(project: Path, tritonsmith: Run) -> None:
    onnx_models.save(onnx_models.affine(("batch", 5)), project / "other.onnx")
    (project / "models.yaml").write_text(SPEC + "  other:\n    source: {onnx: other.onnx}\n")
    assert tritonsmith("build").returncode == 0
    before = snapshot(project / "model_repository" / "m")
    onnx_models.save(onnx_models.affine(("batch", 5), scale=7.0), project / "other.onnx")
    plan = tritonsmith("plan", "--format", "json", "--exit-code")
    assert plan.returncode == 4
    stale = [a for a in json.loads(plan.stdout)["actions"] if a["state"] != "up-to-date"]
    assert {a["model"] for a in stale} == {"other"}
    assert stale[0]["reason"] == "source_changed" and "other.onnx" in stale[0]["detail"]
    told = " ".join(tritonsmith("build").stdout.split())
    assert "m up-to-date" in told and "other exported" in told and "(other.onnx changed)" in told
    assert snapshot(project / "model_repository" / "m") == before


def test_a_deleted_repository_comes_back_from_the_cache(project: Path, tritonsmith: Run) -> None:
    assert tritonsmith("build").returncode == 0
    for path in sorted((project / "model_repository").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    result = tritonsmith("build", "--format", "json")
    assert json.loads(result.stdout)["models"][0]["action"] == "from cache"


def test_a_model_that_leaves_the_spec_leaves_the_repository(project: Path, tritonsmith: Run) -> None:
    assert tritonsmith("build").returncode == 0
    (project / "models.yaml").write_text(SPEC.replace("  m:", "  renamed:"))
    result = tritonsmith("build")
    assert result.returncode == 0 and "removed: m" in result.stdout
    assert [p.name for p in (project / "model_repository").iterdir()] == ["renamed"]


def test_names_with_spaces_and_letters_beyond_ascii(project: Path, tritonsmith: Run) -> None:
    (project / "models.yaml").write_text(SPEC.replace("  m:", '  "größer als 1":'))
    result = tritonsmith("build")
    assert result.returncode == 0, result.stderr
    assert (project / "model_repository" / "größer als 1" / "config.pbtxt").is_file()


def test_a_model_without_a_batch_dimension(project: Path, tritonsmith: Run) -> None:
    onnx_models.save(onnx_models.affine((2, 3)), project / "m.onnx")
    (project / "models.yaml").write_text(SPEC.replace("    max_batch_size: 4\n", ""))
    assert tritonsmith("build").returncode == 0
    from tritonsmith.builder.model_config.model_config import model_config_from_text

    config = model_config_from_text((project / "model_repository" / "m" / "config.pbtxt").read_text())
    assert isinstance(config, model_config_pb2().ModelConfig)
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 3])


def test_one_failing_model_does_not_stop_the_others(project: Path, tritonsmith: Run) -> None:
    (project / "bad.onnx").write_bytes(b"not onnx")
    (project / "models.yaml").write_text(
        "models:\n  bad:\n    source: {onnx: bad.onnx}\n" + SPEC.removeprefix("models:\n")
    )
    result = tritonsmith("build")
    assert result.returncode == 1
    assert "bad" in result.stderr and "models.yaml:3" in result.stderr
    assert [p.name for p in (project / "model_repository").iterdir()] == ["m"]
    assert tritonsmith("plan", "--exit-code").returncode == 4, "the failed one is still to do"


BAD = [
    ("an unknown key", SPEC.replace("max_batch_size", "max_batchsize"), 2, "models.yaml:4", "max_batch_size"),
    ("a wrong type", SPEC.replace(": 4", ": four"), 2, "models.yaml:4", "integer"),
    ("a missing file", SPEC.replace("m.onnx", "n.onnx"), 2, "models.yaml:3", "m.onnx"),
    ("a missing package", SPEC.replace("m.onnx", '"package:no_such_package/m.onnx"'), 2, "models.yaml:3", "pip install"),
    ("a path that climbs", SPEC.replace("m.onnx", '"package:onnx/../../x"'), 2, "models.yaml:3", "NAME/path"),
    ("a duplicate name", SPEC + "  m:\n    source: {onnx: m.onnx}\n", 2, "models.yaml:5", "line 2"),
    ("a name with a slash", SPEC.replace("  m:", "  a/b:"), 2, "models.yaml:2", "'/'"),
    ("a name that climbs", SPEC.replace("  m:", "  ..:"), 2, "models.yaml:2", "dot"),
    ("a preferred size above the batch", SPEC + "    dynamic_batching: {preferred_batch_size: [8]}\n", 4, "m", "BATCH003"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "code", "place", "word"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_one_error_and_nothing_is_written(
    project: Path, tritonsmith: Run, spec: str, code: int, place: str, word: str
) -> None:
    (project / "models.yaml").write_text(spec)
    result = tritonsmith("build")
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert place in result.stderr and word in result.stderr
    assert not list((project / "model_repository").glob("*")), "nothing half-written"


def test_a_target_that_cannot_load_the_model_is_refused_before_anything_is_built(
    project: Path, tritonsmith: Run
) -> None:
    newer = onnx_models.affine(("batch", 3))
    newer.opset_import[0].version = 24
    onnx_models.save(newer, project / "m.onnx")
    for arguments, spec in ((["--target", "24.10"], SPEC), ([], 'target: {triton: "24.10"}\n' + SPEC)):
        (project / "models.yaml").write_text(spec)
        result = tritonsmith("build", *arguments)
        assert result.returncode == 4, result.stderr
        assert "opset" in result.stderr and "24" in result.stderr and "models.yaml:" in result.stderr
        assert not (project / "model_repository").exists()
    (project / "models.yaml").write_text(SPEC)
    assert tritonsmith("build", "--target", "26.08").returncode == 0


def test_a_fixed_first_dim_with_batching_says_what_to_do(project: Path, tritonsmith: Run) -> None:
    onnx_models.save(onnx_models.affine((1, 3)), project / "m.onnx")
    result = tritonsmith("build")
    assert result.returncode in (1, 2)
    assert "max_batch_size: 0" in result.stderr and "models.yaml:" in result.stderr
    assert not list((project / "model_repository").glob("*"))


def test_json_output_carries_the_error(project: Path, tritonsmith: Run) -> None:
    (project / "models.yaml").write_text(SPEC.replace("source", "sorce"))
    result = tritonsmith("build", "--format", "json")
    error = json.loads(result.stdout)["error"]
    assert (result.returncode, error["code"], error["exit_code"]) == (2, "unknown_key", 2)
    assert error["where"].endswith("models.yaml:3")


def test_a_foreign_directory_is_not_overwritten_unasked(project: Path, tritonsmith: Run) -> None:
    (project / "model_repository" / "m").mkdir(parents=True)
    (project / "model_repository" / "m" / "notes.txt").write_text("mine")
    result = tritonsmith("build")
    assert result.returncode == 1 and "--overwrite" in result.stderr
    assert (project / "model_repository" / "m" / "notes.txt").read_text() == "mine"
    assert tritonsmith("build", "--overwrite").returncode == 0


def test_a_users_template_is_used_and_its_change_is_a_reason(project: Path, tritonsmith: Run) -> None:
    template = project / "t" / "config.pbtxt.j2"
    template.parent.mkdir()
    template.write_text('{% extends "builtin/config.pbtxt.j2" %}{% block header %}# team a{% endblock %}')
    assert tritonsmith("build", "--templates", "t").returncode == 0
    template.write_text('{% extends "builtin/config.pbtxt.j2" %}{% block header %}# team b{% endblock %}')
    plan = json.loads(tritonsmith("plan", "--templates", "t", "--format", "json").stdout)
    reasons = {a["action"]: a["reason"] for a in plan["actions"]}
    assert reasons == {
        "export": None,
        "accuracy": None,
        "render": "template_changed",
        "lay_out": "template_changed",
    }
    assert tritonsmith("build", "--templates", "t").returncode == 0
    assert (project / "model_repository" / "m" / "config.pbtxt").read_text().startswith("# team b")


STOPS = {(signal.SIGINT, 0.8), (signal.SIGTERM, 0.4), (signal.SIGKILL, 1.2)}
"""One of each signal; the others are tried at night."""


@pytest.mark.parametrize(
    ("signal_number", "moment_s"),
    [
        pytest.param(number, at_s, marks=() if (number, at_s) in STOPS else pytest.mark.nightly)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
        for at_s in (0.1, 0.4, 0.8, 1.2, 1.6)
    ],
)
def test_a_stopped_build_leaves_the_old_model_or_the_new(
    project: Path, tritonsmith: Run, cache_directory: Path, moment_s: float, signal_number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tritonsmith", "build"],
        cwd=project,
        env={**os.environ, "TRITONSMITH_CACHE": str(cache_directory)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as build:
        time.sleep(moment_s)
        build.send_signal(signal_number)
        _, errors = build.communicate(timeout=20)
    if "init_import_site" in errors:
        pytest.skip("Python had not begun with us yet: this machine is busy")
    assert build.returncode in (0, 130, 143, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM), errors
    if build.returncode > 0:
        assert "Traceback" not in errors
    model = project / "model_repository" / "m"
    if model.exists():
        assert (model / "1" / "model.onnx").read_bytes() == (project / "m.onnx").read_bytes()
        assert (model / "config.pbtxt").is_file()
    again = tritonsmith("build")
    assert again.returncode == 0, again.stderr
    assert not list(project.glob(".model_repository.staging-*"))


def _can_mount() -> bool:
    command = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs none /mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not _can_mount(), reason="needs unshare and a mount of its own")
@pytest.mark.parametrize("full", ["cache", "repository"])
def test_a_full_disk_is_one_error_and_the_old_model_stays(
    project: Path, tritonsmith: Run, cache_directory: Path, full: str
) -> None:
    assert tritonsmith("build").returncode == 0
    big = onnx_models.affine(("batch", 3), scale=7.0)
    big.doc_string = "x" * 400_000
    onnx_models.save(big, project / "m.onnx")
    other = project / full
    other.mkdir(exist_ok=True)
    repository = other / "r" if full == "repository" else project / "model_repository"
    script = (
        'mount -t tmpfs -o size=300k none "$1" && "$2" -m tritonsmith build -r "$3"; code=$?; '
        'find "$1" -name "*.staging-*"; exit $code'
    )
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", str(other), sys.executable, str(repository)],
        cwd=project,
        env={**os.environ, "TRITONSMITH_CACHE": str(cache_directory)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "free space" in done.stderr and "Traceback" not in done.stderr
    assert "staging" not in done.stdout, "nothing half-written stays"
    assert (project / "model_repository" / "m" / "config.pbtxt").is_file(), "the old model is still there"
    assert tritonsmith("build").returncode == 0


TORCH_SPEC = 'models:\n  m:\n    source: {torch: "source:load"}\n    max_batch_size: 4\n'
TORCH_BAD = [
    ("an import that fails", "import no_such_module\ndef load(): ...\n", "no_such_module", "source.py:1", 1),
    ("no such callable", "def lod(): ...\n", "lod", "models.yaml:3", 2),
    (
        "a callable that raises",
        "def load():\n    raise ValueError('no weights')\n",
        "no weights",
        "source.py:2",
        1,
    ),
    ("something else returned", "def load():\n    return 3\n", "module", "models.yaml:3", 1),
]


@pytest.mark.demo
@pytest.mark.parametrize(
    ("code", "word", "place", "exit_code"), [b[1:] for b in TORCH_BAD], ids=[b[0] for b in TORCH_BAD]
)
def test_a_bad_torch_source_names_the_users_line(
    project: Path, tritonsmith: Run, code: str, word: str, place: str, exit_code: int
) -> None:
    (project / "models.yaml").write_text(TORCH_SPEC)
    (project / "source.py").write_text(code)
    result = tritonsmith("build")
    assert result.returncode == exit_code, result.stderr
    assert word in result.stderr and place in result.stderr and "Traceback" not in result.stderr
    assert not list((project / "model_repository").glob("*"))
