"""The command line itself: help, usage errors, exit codes, a reader that goes away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import onnx_models
from tests.conftest import ROOT, Run

COMMANDS = (
    "plan",
    "build",
    "check",
    "schema",
    "serve",
    "status",
    "infer",
    "load",
    "batch",
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
    "server",
    "cache",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tritonsmith: Run, command: str) -> None:
    result = tritonsmith(command, "--help")
    assert result.returncode == 0 and "Usage" in result.stdout


def test_help_loads_no_framework() -> None:
    code = (
        "import sys; from tritonsmith import command_line; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(command_line.app, ['--help']).exit_code == 0; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'tritonclient', 'pydantic', 'jinja2', 'google.protobuf', 'uvloop'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_a_plan_imports_nothing_that_only_a_build_needs(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"its content is digested, and not read")
    (tmp_path / "models.yaml").write_text("models: {m: {source: {onnx: m.onnx}}}\n")
    code = (
        "import sys; from tritonsmith import command_line; from typer.testing import CliRunner; "
        "assert 'Plan: 1 to add, 0 to change, 0 to remove.' in CliRunner().invoke(command_line.app, ['plan']).stdout; "
        "import tritonsmith.builder.build.build; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'jinja2', 'ssl', 'tritonsmith.builder.lint.table'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRITONSMITH_CACHE": str(tmp_path / "cache")},
    )
    assert result.stdout.strip() == "[]", result.stderr


USAGE = [
    (["biuld"], "build"),
    (["build", "--fromat", "json"], "--format"),
    (["build", "--format", "xml"], "json"),
    (["sweep"], "there is no model repository here"),
    (["rollback", "m"], "rollback DEST MODEL [VERSION]"),
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
    assert process.returncode == 141 and not errors, errors


def test_version(tritonsmith: Run) -> None:
    assert tritonsmith("--version").stdout.startswith("tritonsmith ")


def ends(body: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The command line run on a command of the test's own that ends so."""
    (tmp_path / "ends.py").write_text(
        f"from tritonsmith import command_line\n@command_line.app.command()\ndef ends():\n    {body}\ncommand_line.main()\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "ends", "ends"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_where_linuxs_modules_are_not_check_works_and_the_rest_says_what_is_wrong(tmp_path: Path) -> None:
    """As on Windows: Python there has no fcntl."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('fcntl', 'resource', 'uvloop'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "for name in ('fcntl', 'resource'):\n"
        "    sys.modules.pop(name, None)\n"
    )
    onnx_models.add_model(tmp_path / "repository", "good", onnx_models.affine(["b", 1]))
    (tmp_path / "models.yaml").write_text("models:\n  m:\n    source: {onnx: m.onnx}\n")

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "tritonsmith", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        )
        return done.returncode, done.stdout + done.stderr

    code, said = run("check", "repository")
    assert (code, "0 errors" in said) == (0, True), said
    for command in (("plan",), ("serve", "repository")):
        code, said = run(*command)
        assert code == 3 and "error[platform_unsupported]" in said and "Traceback" not in said, said


HALF_MADE = (
    "__import__('atexit').register(type('HalfMade', (), {'__del__': lambda self: self.absent})); "
    "half = type('HalfMade', (), {'__del__': lambda self: self.absent})(); raise KeyboardInterrupt"
)


@pytest.mark.parametrize("body", ["raise KeyboardInterrupt", "exec('raise KeyboardInterrupt')", HALF_MADE])
def test_ctrl_c_is_130_and_says_so_wherever_it_falls(tmp_path: Path, body: str) -> None:
    result = ends(body, tmp_path)
    assert (result.returncode, result.stderr) == (130, "interrupted; nothing half-written was left\n")


@pytest.mark.parametrize("ctrl_c", ["default_int_handler", "SIG_IGN"], ids=["foreground", "background"])
def test_sigterm_is_143_and_says_so(tmp_path: Path, ctrl_c: str) -> None:
    code = f"import os, signal, time; signal.signal(2, signal.{ctrl_c}); os.kill(os.getpid(), 15); time.sleep(20)"
    result = ends(code, tmp_path)
    assert (result.returncode, result.stderr) == (143, "terminated; nothing half-written was left\n")


def test_a_socket_that_breaks_is_not_taken_for_a_reader_that_went_away(tmp_path: Path) -> None:
    result = ends("raise BrokenPipeError(32, 'Broken pipe')", tmp_path)
    assert result.returncode == 1 and "BrokenPipeError" in result.stderr


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    result = ends("raise OSError(28, 'No space left on device', '/full/file')", tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("error[disk]: No space left on device: /full/file")


def test_a_ctrl_c_while_the_command_is_imported_is_one_line() -> None:
    """Between two imports nothing could catch it as an exception."""
    code = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
import tritonsmith.command_line
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "interrupted; nothing half-written was left\n"


def test_imported_by_others_the_command_line_leaves_ctrl_c_to_them() -> None:
    code = """
import signal
import tritonsmith.command_line
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
