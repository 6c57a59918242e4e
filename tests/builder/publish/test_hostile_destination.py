"""A destination that a stranger wrote to: one clear error or a version that is not trusted; what lies elsewhere stays."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builder.publish.projects import Project
from tritonsmith.builder.publish.destinations.versions import FAILED, PROVENANCE, version_number
from tritonsmith.command_line import _run

Run = Callable[..., str]


@pytest.fixture(scope="module", params=["directory", "file://"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two published versions of m; tests copy them."""
    top = tmp_path_factory.mktemp("published")
    (top / "project").mkdir()
    prefix = "" if request.param == "directory" else "file://"
    project = Project(top / "project", f"{prefix}{top / 'served'}")
    for scale in (2.0, 3.0):
        assert not project.publish_scales(m=scale).errors
    return project


@pytest.fixture
def project(published: Project, tmp_path: Path) -> Project:
    """A copy of the project and its destination, beside a canary of the user's."""
    shutil.copytree(published.root.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "canary").write_text("alive")
    prefix = "file://" if published.url.startswith("file://") else ""
    return Project(tmp_path / "project", f"{prefix}{tmp_path / 'served'}")


@pytest.fixture
def run(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """A command as people run it, in this process: arguments, the exit codes it may have → all it said."""
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("TRITONSMITH_CACHE", str(project.root / "cache"))

    def called(*arguments: str, codes: tuple[int, ...]) -> str:
        found = _run(list(arguments))
        said = capsys.readouterr()
        assert found in codes, said.out + said.err
        return said.out + said.err

    return called


def model(project: Project) -> Path:
    return Path(project.url.removeprefix("file://")) / "m"


def edit(project: Project, change: Callable[[dict[str, Any]], Any]) -> None:
    path = model(project) / "1" / PROVENANCE
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


BAD_RECORDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a file with ..": lambda r: r["files"].update(
        {"../../../victim/canary": {"sha256": "0" * 64, "bytes": 5}}
    ),
    "a file that is absolute": lambda r: r["files"].update({"/victim": {"sha256": "0" * 64, "bytes": 5}}),
    "a size that is none": lambda r: r["files"].update({"x": {"sha256": "0" * 64, "bytes": -1}}),
    "a digest that is none": lambda r: r["files"].update({"x": {"sha256": "0", "bytes": 1}}),
    "the config at the root": lambda r: r["root"].append("config.pbtxt"),
    "another version's file at the root": lambda r: r["root"].append("2/model.onnx"),
    "a file at the root that it has not": lambda r: r["root"].append("x.txt"),
    "a file at the root with ..": lambda r: r["root"].append("../../victim/canary"),
    "no config as it was stated": lambda r: r["files"].pop(".tritonsmith/config.pbtxt"),
    "another model": lambda r: r.update(model="other"),
    "another version": lambda r: r.update(version=7),
    "a policy that is none": lambda r: r.update(policy={"kind": "latest", "count": "1"}),
    "an unknown policy": lambda r: r.update(policy={"kind": "every", "count": 1}),
    "versions before that are text": lambda r: r.update(previous=["1"]),
    "a spec without a name": lambda r: r["spec"].pop("name"),
    "bounds that are text": lambda r: r["smoke"].update(bounds={"y": {"cosine": "x"}}),
    "an unknown field": lambda r: r.update(hook="rm"),
    "another format": lambda r: r.update(format="tritonsmith.provenance/9"),
}


@pytest.mark.parametrize("change", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_record_that_no_publish_wrote_is_one_error(
    project: Project, run: Run, change: Callable[[dict[str, Any]], Any]
) -> None:
    edit(project, change)
    assert "provenance_invalid" in run("versions", project.url, codes=(1,))
    assert (model(project).parent.parent / "victim" / "canary").read_text() == "alive"
    assert (model(project) / "2" / "model.onnx").is_file()


def test_every_command_refuses_such_a_record(project: Project, run: Run) -> None:
    edit(project, BAD_RECORDS["another version's file at the root"])
    for command in (("publish", project.url), ("rollback", project.url, "m")):
        assert "provenance_invalid" in run(*command, codes=(1,))
    assert (model(project) / "2" / "model.onnx").is_file()


@pytest.mark.parametrize("name", [PROVENANCE, "../config.pbtxt"])
@pytest.mark.parametrize("what", ["fifo", "directory", "deep", "huge", "link"])
def test_what_is_no_file_there_is_one_error(project: Project, run: Run, name: str, what: str) -> None:
    path = Path(os.path.normpath(model(project) / "1" / name))
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    elif what == "deep":
        path.write_bytes(b"[" * 100_000)
    elif what == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        path.symlink_to(model(project).parent.parent / "victim" / "canary")
    for command in (("publish", project.url), ("rollback", project.url, "m")):
        told = run(*command, codes=(0, 1, 2, 4))
        assert "Traceback" not in told and len(told) < 3000
    assert (model(project).parent.parent / "victim" / "canary").read_text() == "alive"


def test_links_of_a_stranger_are_never_written_through_or_removed(project: Project, run: Run) -> None:
    """Marks, config.pbtxt and root files lie under known names, where a link may wait for them."""
    victim = model(project).parent.parent / "victim"
    mark = model(project) / "1" / FAILED
    mark.symlink_to(victim / "canary")
    (model(project) / "9").symlink_to(victim)
    (model(project) / "notes").symlink_to(victim)
    run("rollback", project.url, "m", codes=(0, 1, 2))
    project.write({"m": 4.0})
    run("build", codes=(0,))
    run("publish", project.url, "--keep", "1", codes=(0, 1))
    assert (victim / "canary").read_text() == "alive"
    if not project.url.startswith("file://"):
        assert (model(project) / "notes").is_symlink() and (model(project) / "9").is_symlink()


def test_a_version_that_we_did_not_publish_is_never_dropped(project: Project, run: Run) -> None:
    (model(project) / "1" / PROVENANCE).unlink()
    (model(project) / "1" / "mine").write_text("mine")
    for scale in (4.0, 5.0):
        project.write({"m": scale})
        run("build", codes=(0,))
        run("publish", project.url, "--keep", "1", codes=(0,))
    assert (model(project) / "1" / "mine").read_text() == "mine"
    assert "2" not in {p.name for p in model(project).iterdir()}


@pytest.mark.parametrize("name", ["9" * 19, "²", "٣", "007", "0", "-1", "9" * 200])
def test_a_directory_that_is_no_version_number_is_none(name: str) -> None:
    assert version_number(name) is None


def test_a_version_number_at_the_end_of_all_is_one_error(project: Project, run: Run) -> None:
    last = model(project) / str(2**63 - 1)
    last.mkdir()
    (last / "x").write_text("mine")
    project.write({"m": 4.0})
    run("build", codes=(0,))
    assert "version_numbers" in run("publish", project.url, codes=(1,))
    assert (last / "x").read_text() == "mine"


@pytest.mark.parametrize("name", ["..", "", ".git", "a/../../victim", "/victim", "a\0b", "\x1b[31m"])
def test_a_model_of_a_hostile_name_is_unknown(project: Project, run: Run, name: str) -> None:
    assert "unknown_model" in run("rollback", project.url, name, codes=(2,))
