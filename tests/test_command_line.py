"""The command line itself: help, usage errors, exit codes, a reader that goes away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Run

COMMANDS = (
    "plan",
    "build",
    "check",
    "schema",
    "serve",
    "load",
    "sweep",
    "report",
    "compare",
    "apply",
    "demo",
    "init",
    "diff",
    "publish",
    "rollback",
    "versions",
    "cache",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tritonsmith: Run, command: str) -> None:
    result = tritonsmith(command, "--help")
    assert result.returncode == 0 and "Usage" in result.stdout


def test_help_loads_no_framework() -> None:
    code = (
        "import sys, tritonsmith; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(tritonsmith.app, ['--help']).exit_code == 0; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'tritonclient', 'pydantic', 'jinja2', 'google.protobuf', 'uvloop'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert result.stdout.strip() == "[]", result.stderr


USAGE = [
    (["biuld"], "build"),
    (["build", "--fromat", "json"], "--format"),
    (["build", "--format", "xml"], "json"),
    (["sweep"], "there is no model repository here"),
    (["rollback", "m"], "--at"),
    (["cache", "gc", "--max-size", "many"], "not a size"),
]


@pytest.mark.parametrize(("arguments", "word"), USAGE, ids=[" ".join(u[0]) for u in USAGE])
def test_a_wrong_command_line_is_exit_2_without_a_traceback(
    tritonsmith: Run, arguments: list[str], word: str
) -> None:
    result = tritonsmith(*arguments)
    assert result.returncode == 2
    assert word in result.stderr and "Traceback" not in result.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tritonsmith", "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert "Traceback" not in errors, errors


def test_version(tritonsmith: Run) -> None:
    assert tritonsmith("--version").stdout.startswith("tritonsmith ")
