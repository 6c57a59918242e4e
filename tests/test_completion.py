"""What a shell asks for at each press of a key → the words that it offers; silence whatever is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_tree import COMMANDS, context_of
from tests.conftest import ROOT
from tritonsmith import command_line
from tritonsmith.builder.commands.parameters.completion import OFFERS, rules
from tritonsmith.builder.lint.rule import Rule
from tritonsmith.builder.lint.table import FAMILIES

RUN = ROOT / "tests" / "perf" / "records" / "old_files" / "run.json"


@pytest.fixture(autouse=True)
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec of two models, a repository of one, two runs, a record."""
    (tmp_path / "models.yaml").write_text("models:\n  tiny: {source: {onnx: t.onnx}}\n  large: {}\n")
    (tmp_path / "other.yaml").write_text("models: {third: {}}\n")
    (tmp_path / "repo" / "served" / "1").mkdir(parents=True)
    (tmp_path / "repo" / "no_model").mkdir()
    for run in ("sweep-a", "runs/sweep-b"):
        (tmp_path / run).mkdir(parents=True)
        shutil.copy(RUN, tmp_path / run / "run.json")
    (tmp_path / "load.npz").touch()
    (tmp_path / "broken.yaml").write_text("models: [\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(line: str, shell: str = "bash") -> dict[str, str]:
    words = line.split()
    return {
        "_TRITONSMITH_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - (not line.endswith(" "))),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }


def offered(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shell: str = "bash"
) -> list[str]:
    for name, value in asked(line, shell).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        command_line._complete()
    told = capsys.readouterr()
    assert told.err == ""
    return told.out.split("\n")[:-1] if told.out.strip() else []


OFFERED = [
    ("tritonsmith pu", ["publish"]),
    ("tritonsmith help cache v", ["verify"]),
    ("tritonsmith build ", ["tiny", "large"]),
    ("tritonsmith build tiny la", ["large"]),
    ("tritonsmith build --spec other.yaml ", ["third"]),
    ("tritonsmith build --spec broken.yaml ", []),
    ("tritonsmith build --spec absent.yaml ", []),
    ("tritonsmith load repo -m ", ["served"]),
    ("tritonsmith load repo --model=se", ["served"]),
    ("tritonsmith load http://127.0.0.1:8000 -m ", ["tiny", "large"]),
    ("tritonsmith sweep repo -m s", ["served"]),
    ("tritonsmith serve repo --load-model ", ["served"]),
    ("tritonsmith versions repo ", ["served"]),
    ("tritonsmith check --explain ONNX00", None),
    ("tritonsmith apply ", ["sweep-a"]),
    ("tritonsmith apply runs/", ["runs/sweep-b"]),
    ("tritonsmith apply sweep-a --arm arm0", ["arm00", "arm01", "arm02", "arm03"]),
    ("tritonsmith compare sweep-a runs/sweep-b --arm arm03", ["arm03"]),
    ("tritonsmith apply absent --arm ", []),
    ("tritonsmith report ", ["sweep-a", "load.npz"]),
    ("tritonsmith plan --format m", ["markdown"]),
    ("tritonsmith plan --rem", ["--remote-cache", "--remote-cache-read-only"]),
    ("tritonsmith build --verb", ["--verbose"]),
    ("tritonsmith build --no-such-option ", ["tiny", "large"]),
]


@pytest.mark.parametrize(("line", "expected"), OFFERED, ids=[line for line, _ in OFFERED])
def test_a_shell_is_offered(
    line: str, expected: list[str] | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = offered(line, capsys, monkeypatch)
    assert (len(words) > 1) if expected is None else words == expected


def test_every_rule_of_ours_is_offered_and_every_family() -> None:
    own = {rule.id for family in FAMILIES for rule in vars(family).values() if isinstance(rule, Rule)}
    found = {offer.value for offer in rules(None, "")}
    assert found == own | {rule.rstrip("0123456789") for rule in own}
    assert [offer.value for offer in rules(None, "IO,BATCH004")] == ["IO,BATCH", "IO,BATCH004"]


def test_labels_of_arms_are_shown_where_a_shell_can(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "arm02\tcount 2" in offered("tritonsmith apply sweep-a --arm arm02", capsys, monkeypatch, "fish")


def test_models_runs_rules_and_arms_are_offered_wherever_they_are_taken() -> None:
    """A parameter that takes one has the metavar that offers it."""
    words = {"model", "models", "load_model", "sweep_model", "arm", "run", "select", "ignore", "explain"}
    for name in COMMANDS:
        context = context_of(name)
        for parameter in context.command.get_params(context):
            if parameter.name in words:
                assert parameter.metavar in OFFERS, f"{name}: {parameter.name}"


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("tritonsmith apply sweep-a --arm arm02", "arm02"),
        ("tritonsmith build ti", "tiny"),
        ("tritonsmith check --explain BATCH", "BATCH"),
    ],
)
def test_the_installed_command_answers_without_what_commands_import(
    ground: Path, line: str, first: str
) -> None:
    code = (
        "import sys; sys.argv = ['tritonsmith']; from tritonsmith import command_line\n"
        "try:\n    command_line.main()\nexcept SystemExit:\n"
        "    heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'tritonclient', 'jinja2', 'google.protobuf', 'rich.progress', "
        "'tritonsmith.builder.spec', 'tritonsmith.builder.lint.table', 'tritonsmith.perf.sweep'}\n"
        "    print(sorted(heavy & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ground,
        env={**os.environ, **asked(line), "PYTHONPATH": str(ROOT)},
    )
    words = told.stdout.splitlines()
    assert (words[0], words[-1], told.stderr) == (first, "[]", "")
