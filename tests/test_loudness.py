"""-q and -v, before a command and after it: results and errors stay, notes go, what happens inside is told."""

import re
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tests import onnx_models
from tests.conftest import Run
from tests.terminal import Terminal
from tests.test_terminal import Ground
from tritonsmith.builder.base.text.console import is_verbose
from tritonsmith.builder.commands.help import Command, Group


def test_quiet_leaves_results_and_errors(tritonsmith: Run, tmp_path: Path) -> None:
    onnx_models.save(onnx_models.affine(("batch", 4)), tmp_path / "m.onnx")
    loud = tritonsmith("init", "m.onnx")
    assert "next: tritonsmith plan" in loud.stderr
    quiet = tritonsmith("-q", "init", "m.onnx", "--force")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, loud.stdout, "")
    refused = tritonsmith("init", "m.onnx", "--quiet")
    assert refused.returncode == 2 and refused.stderr.startswith("error[spec_exists]")


def test_verbose_tells_what_is_run_how_long_and_where_an_error_came_from(
    tritonsmith: Run, tmp_path: Path
) -> None:
    onnx_models.save(onnx_models.affine(("batch", 4)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text("models: {m: {source: {onnx: m.onnx}}}\n")
    built = tritonsmith("build", "-v")
    assert built.returncode == 0
    assert re.search(r"^run: the export of m, log .+$", built.stderr, re.MULTILINE)
    assert re.search(r"^\d+\.\d\d s: the export of m, log .+$", built.stderr, re.MULTILINE)
    assert re.search(r"^\d+\.\d\d s in all, exit code 0$", built.stderr, re.MULTILINE)
    (tmp_path / "m.onnx").unlink()
    refused = tritonsmith("--verbose", "plan")
    assert refused.returncode == 2 and "Traceback" in refused.stderr
    assert "\nerror[source_missing]: models.yaml:1" in refused.stderr
    assert "Traceback" not in tritonsmith("plan").stderr


@pytest.mark.parametrize("words", [["-v", "own"], ["own", "-v"], ["own"]])
def test_a_commands_own_verbose_is_the_same_flag(words: list[str]) -> None:
    app = typer.Typer(cls=Group)

    @app.command(cls=Command)
    def own(verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False) -> None:
        typer.echo(f"{verbose} {is_verbose()}")

    @app.command(cls=Command)
    def other() -> None: ...

    wanted = "-v" in words
    assert CliRunner().invoke(app, words).stdout == f"{wanted} {wanted}\n"


@pytest.mark.timeout(120)
def test_quiet_draws_nothing_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    onnx_models.save(onnx_models.affine(("batch", 4)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text("models: {m: {source: {onnx: m.onnx}}}\n")
    with Ground(tmp_path).terminal("build", "-q") as terminal:
        assert isinstance(terminal, Terminal)
        shown = terminal.finish()
    assert shown.code == 0 and "\x1b[" not in shown.raw and "1 of 1 models written" in shown.text
