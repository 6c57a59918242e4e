"""README: every command in it is run here, every link leads somewhere, and what it shows is what people get."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pages import PAGES, anchors, blocks, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")


def console_blocks() -> list[tuple[str | None, list[str]]]:
    """(the directory named by a preceding `run:` comment, commands) of each console block."""
    return [
        (block.mark.removeprefix("run: ") or None, block.commands)
        for block in blocks(README)
        if block.language == "console"
    ]


def step_commands() -> list[str]:
    """The commands that take a step each and end by themselves."""
    return [
        c
        for place, commands in console_blocks()
        if place
        for c in commands
        if not c.startswith(("source", "tritonsmith serve"))
    ]


def test_the_readme_is_parsed() -> None:
    assert [c for place, commands in console_blocks() if place is None for c in commands] == [
        "make demo",
        "make test",
    ]
    assert len(step_commands()) >= 6


@pytest.mark.parametrize("target", ["demo", "test", "install", "docs"])
def test_make_targets_exist(target: str) -> None:
    result = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def demo_project(tmp_path: Path) -> Path:
    """A copy of examples/demo, to build in."""
    project = tmp_path / "examples" / "demo"
    shutil.copytree(
        ROOT / "examples" / "demo",
        project,
        ignore=shutil.ignore_patterns("model_repository", "__pycache__", "sweep"),
    )
    return project


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.demo
@pytest.mark.timeout(400)
def test_the_steps_work_in_their_order(demo_project: Path) -> None:
    for command in step_commands():
        # The redirections of README are the shell's; everything else in it is ours.
        result = subprocess.run(
            ["bash", "-ceu", command],
            cwd=demo_project,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=300,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    serve_until_ctrl_c(demo_project)


def serve_until_ctrl_c(project: Path) -> None:
    assert "$ tritonsmith serve model_repository" in README
    free_ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(
        ["tritonsmith", "serve", "model_repository", *free_ports, "--format", "json"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as server:
        assert server.stdout is not None
        text = ""
        while not text.rstrip().endswith("}") or text.count("{") != text.count("}"):
            line = server.stdout.readline()
            assert line, "the server ended before it was ready"
            text += line
        assert {m["state"] for m in json.loads(text)["models"]} == {"READY"}
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
    assert server.returncode == 130


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.demo
@pytest.mark.timeout(400)
def test_the_demo_ends_with_what_readme_shows(tmp_path: Path) -> None:
    result = subprocess.run(
        ["tritonsmith", "demo", "--rounds", "2", "--duration", "0.2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=350,
    )
    assert result.returncode == 0, result.stderr
    shown = re.search(r"<!-- demo-output -->\n```text\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    labels = [line.split()[0] for line in shown[1].splitlines() if line and not line.startswith(" ")]
    assert [
        line.split()[0] for line in result.stdout.splitlines() if line and not line.startswith(" ")
    ] == labels
    html = (tmp_path / "demo-report" / "report.html").read_text()
    assert "<script src" not in html and "<link" not in html and "@import" not in html, (
        "nothing from the network"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        place = page.parent / target if target else page
        if re.match(r"[a-z]+:", target) or place.parent.resolve() == ROOT / "docs" / "reference":
            continue  # of others, or made for the site alone, whose build looks at it
        assert place.exists(), f"{page.name} links to {target}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place.read_text(encoding="utf-8")), (
                f"{page.name} links to {target}#{anchor}"
            )


def test_the_commands_table_names_every_command() -> None:
    from typer.main import get_command

    from tritonsmith import command_line

    listed = set(re.findall(r"^\| `tritonsmith (\w+)`", README, re.MULTILINE))
    assert "`tritonsmith help COMMAND`" in README  # below the table
    assert listed == set(get_command(command_line.app).commands) - {"help"}  # type: ignore[attr-defined]
