"""`tritonsmith check` as a process: exit codes, formats, speed of a single model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builder.lint.fixtures import tree


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tritonsmith", "check", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_errors_exit_4_and_warnings_0(tmp_path: Path) -> None:
    bad = tree("max_batch_size: -1").write(tmp_path / "bad")
    weak = tree("max_batch_size: 0\ndynamic_batching { }").write(tmp_path / "weak")
    done = run(*bad)
    assert (
        done.returncode == 4 and "BATCH001" in done.stdout and "1 model: 1 error, 0 warnings" in done.stdout
    )
    assert done.stderr == "" and "Traceback" not in done.stdout
    done = run(*weak)
    assert done.returncode == 0 and "BATCH004" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no path to check"),
        (("/absent/repository",), "there is no /absent/repository"),
        ((".", "--select", "BATHC004"), "did you mean BATCH004"),
        ((".", "--target", "26.99"), "no Triton release '26.99'"),
        ((".", "--server-args", "'"), "--server-args"),
        (("--explain", "ENS0133"), "did you mean ENS013"),
    ],
)
def test_wrong_usage_exits_2_with_one_message(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and done.stdout == "" and "Traceback" not in done.stderr


def test_flags_reach_the_rules(tmp_path: Path) -> None:
    paths = tree("instance_group { kind: KIND_GPU }\nresponse_cache { enable: true }").write(tmp_path)
    assert run(*paths).returncode == 0
    assert "INST001" in run(*paths, "--gpus", "0").stdout
    assert "CACHE003" in run(*paths, "--server-args", "--http-port=1").stdout
    assert run(*paths, "--gpus", "0", "--ignore", "inst001").returncode == 0


def test_json_is_the_only_thing_on_stdout(tmp_path: Path) -> None:
    done = run(*tree("max_batch_size: -1").write(tmp_path), "--format", "json")
    assert done.returncode == 4 and json.loads(done.stdout)["errors"] == 1


def test_explain_shows_a_rule() -> None:
    done = run("--explain", "batch004")
    assert done.returncode == 0 and done.stdout.startswith("BATCH004 (warning):") and "bad:" in done.stdout
