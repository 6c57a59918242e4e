"""A lock file of a stranger's: what it names elsewhere, or was never built, stays; each time one clear error or warning."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builder.publish.projects import Project
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.repository.lock import Lock, LockedModel, finite, read_lock, write_lock
from tritonsmith.command_line import _run

KEY, OTHER = "a" * 64, "b" * 64


Run = Callable[..., str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with two models, built; tests copy it."""
    root = tmp_path_factory.mktemp("built") / "project"
    root.mkdir()
    project = Project(root, str(root.parent / "served"))
    project.write({"m": 2.0, "n": 2.0})
    project.build()
    return project


@pytest.fixture
def project(built: Project, tmp_path: Path) -> Project:
    """A copy of the project, beside directories of the user's."""
    shutil.copytree(built.root, tmp_path / "project")
    for place in ("victim", "project/victim", "project/model_repository/victim"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "canary").write_text("alive")
    return Project(tmp_path / "project", str(tmp_path / "served"))


def assert_canaries(project: Project) -> None:
    for place in ("victim", "project/victim", "project/model_repository/victim"):
        assert (project.root.parent / place / "canary").read_text() == "alive", place


def edit(project: Project, change: Callable[[dict[str, Any]], None]) -> None:
    path = project.root / "models.lock.json"
    lock = json.loads(path.read_text())
    change(lock)
    path.write_text(json.dumps(lock))


@pytest.fixture
def run(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command as people run it, in this process: arguments, the exit code it must have → all it said."""
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("TRITONSMITH_CACHE", str(project.root / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: str, code: int) -> str:
        found = _run(list(arguments))
        said = capsys.readouterr()
        assert found == code, said.out + said.err
        return said.out + said.err

    return called


def _set(*path: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(lock: dict[str, Any]) -> None:
        place: Any = lock["models"]
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = to

    return change


def _extra(name: str) -> Callable[[dict[str, Any]], None]:
    def change(lock: dict[str, Any]) -> None:
        lock["models"][name] = dict(lock["models"]["n"])

    return change


BAD: dict[str, Callable[[dict[str, Any]], None]] = {
    "a key with ..": _set("m", "key", to="../../victim"),
    "a key with many ..": _set("m", "key", to="../../../victim"),
    "a key with a NUL": _set("m", "key", to=f"{KEY[:63]}\0"),
    "a key with a line end": _set("m", "key", to=f"{KEY}\n"),
    "a key in capitals": _set("m", "key", to=KEY.upper()),
    "a key that is a list": _set("m", "key", to=[KEY]),
    "a model called ..": _extra(".."),
    "a model called ../victim": _extra("../victim"),
    "a model with no name": _extra(""),
    "a model called .git": _extra(".git"),
    "a model with an escape sequence": _extra("\x1b[31mn"),
    "a file with ..": _set("m", "files", to={"../../victim/canary": KEY}),
    "a file that is absolute": _set("m", "files", to={"/victim": KEY}),
    "a file with no digest": _set("m", "files", to={"1/model.onnx": "0"}),
    "a dependency with a NUL": _set("m", "dependencies", to={"a\0b": KEY}),
    "a dependency that is endless": _set("m", "dependencies", to={"a" * 5000: KEY}),
    "a digest that is a number": _set("m", "config", to={"spec": 1}),
    "an unknown field": _set("m", "hook", to="rm"),
    "a number too large": _set("m", "accuracy", to={"relative_l2": "inf"}),
    "a variant's key": _set(
        "m",
        "variants",
        to={"v": {"key": "../../victim", "parameters": {}, "tools": {}, "dependencies": {}, "accuracy": {}}},
    ),
    "an engine's key": _set(
        "m",
        "variants",
        to={
            "v": {
                "key": KEY,
                "parameters": {},
                "tools": {},
                "dependencies": {},
                "accuracy": {},
                "engines": {"9.0": {"key": "/victim", "parameters": {}, "tools": {}}},
            }
        },
    ),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_lock_of_a_wrong_type_is_one_error(
    built: Project, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    shutil.copy(built.root / "models.lock.json", tmp_path)
    edit(Project(tmp_path, ""), change)
    with pytest.raises(SpecError, match="version control") as raised:
        read_lock(tmp_path / "models.lock.json")
    assert raised.value.code == "lock_invalid" and len(raised.value.message) < 500


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"lock_version": 1, "lock_version": 1, "models": {}}', "\xff"]
)
def test_a_lock_that_is_no_json_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "models.lock.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SpecError, match="version control"):
        read_lock(tmp_path / "models.lock.json")


def test_a_lock_that_is_no_file_is_one_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "models.lock.json")
    with pytest.raises(SpecError, match="not a regular file"):
        read_lock(tmp_path / "models.lock.json")


@pytest.mark.parametrize("key", ["../../victim", "absolute"])
def test_the_commands_refuse_a_key_that_leads_away(project: Project, run: Run, key: str) -> None:
    victim = project.root.parent / "victim"
    edit(project, _set("m", "key", to=str(victim) if key == "absolute" else key))
    for command in (
        ("plan",),
        ("build",),
        ("publish", project.url),
        ("publish", project.url, "--dry-run"),
        ("cache", "gc", "--max-size", "0", "--keep-lock", "models.lock.json"),
    ):
        assert "lock_invalid" in run(*command, code=2)
    assert_canaries(project)
    assert not Path(project.url).exists()


@pytest.mark.parametrize("name", ["absolute", "..", "../victim"])
def test_the_commands_refuse_an_extra_model_that_leads_away(project: Project, run: Run, name: str) -> None:
    edit(project, _extra(str(project.root.parent / "victim") if name == "absolute" else name))
    for command in ("plan", "build"):
        assert "lock_invalid" in run(command, code=2)
    assert_canaries(project)


@pytest.mark.parametrize("files", ["of another model", "none", "the config alone"])
def test_an_extra_model_that_no_build_made_stays_with_a_warning(
    project: Project, run: Run, files: str
) -> None:
    def change(lock: dict[str, Any]) -> None:
        lock["models"]["victim"] = entry = dict(lock["models"]["n"])
        if files == "none":
            entry["files"] = {}
        if files == "the config alone":
            entry["files"] = {"config.pbtxt": KEY}

    edit(project, change)
    assert "its directory is not what was built, and stays" in run("plan", code=0)
    told = run("build", code=0)
    assert "is not what was built, so it stays" in told and "rm -r " in told and "removed" not in told
    assert_canaries(project)
    assert "victim" not in read_lock(project.root / "models.lock.json").models
    assert "No changes: 2 models up to date" in run("plan", code=0)


def test_a_directory_of_the_users_is_not_replaced_because_a_lock_and_a_spec_name_it(
    project: Project, run: Run
) -> None:
    edit(project, _extra("victim"))
    project.write({"m": 2.0, "n": 2.0, "victim": 2.0})
    assert "foreign_model" in run("build", code=1)
    assert_canaries(project)
    run("build", "--overwrite", code=0)
    assert (project.root / "model_repository" / "victim" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize("damage", ["config.pbtxt", "1/model.onnx", "all files", "the directory"])
def test_a_model_of_ours_is_repaired_however_it_was_damaged(project: Project, run: Run, damage: str) -> None:
    directory = project.root / "model_repository" / "m"
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    if damage == "the directory":
        shutil.rmtree(directory)
    elif damage == "all files":
        for path in before:
            path.unlink()
    else:
        (directory / damage).write_text("damaged")
    run("build", code=0)
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == before


def test_a_file_or_a_link_in_the_repository_is_no_model_of_ours(project: Project, run: Run) -> None:
    repository = project.root / "model_repository"
    (repository / "file").write_text("mine")
    (repository / "link").symlink_to(project.root.parent / "victim")

    def change(lock: dict[str, Any]) -> None:
        for name in ("file", "link"):
            lock["models"][name] = {**lock["models"]["n"], "files": {"canary": KEY}}

    edit(project, change)
    run("build", code=0)
    assert (repository / "file").read_text() == "mine" and (repository / "link").is_symlink()
    assert_canaries(project)


def test_a_model_that_left_the_spec_goes_as_it_was_built_and_stays_when_it_was_edited(
    project: Project, run: Run
) -> None:
    repository = project.root / "model_repository"
    project.write({"m": 2.0})
    assert "removed: n" in run("build", code=0)
    assert not (repository / "n").exists()
    project.write({"m": 2.0, "n": 2.0})
    run("build", code=0)
    (repository / "n" / "notes.txt").write_text("mine")
    project.write({"m": 2.0})
    assert "so it stays" in run("build", code=0)
    assert (repository / "n" / "notes.txt").read_text() == "mine"


def test_a_note_of_what_was_placed_proves_nothing_by_a_name_alone(project: Project, run: Run) -> None:
    """A pull request may bring a directory that looks like a killed build's, to have a model taken for ours."""
    planted = project.root / ".model_repository.staging-x"
    planted.mkdir()
    (planted / ".placed").write_text(f"victim\n{KEY} victim\n")
    (project.root / ".model_repository.staging-y").symlink_to(project.root.parent / "victim")
    project.write({"m": 2.0, "victim": 2.0})
    assert "foreign_model" in run("build", code=1)
    assert_canaries(project)
    assert (project.root / ".model_repository.staging-y").is_symlink() and not planted.exists()


def test_a_dependency_that_never_ends_is_not_read(project: Project, run: Run) -> None:
    os.mkfifo(project.root / "fifo")
    edit(project, _set("m", "dependencies", to={"fifo": OTHER, "./": OTHER}))
    assert "take over  ./ holds other files, fifo is gone" in run("plan", code=0)


@pytest.mark.parametrize("measure", [float("inf"), float("-inf"), float("nan"), 0.5])
def test_a_measure_that_is_no_number_can_be_written_and_read_again(tmp_path: Path, measure: float) -> None:
    """As a cache entry whose digest somebody made right may state it."""
    entry = LockedModel({}, {}, {}, "0" * 64, {}, {}, {"relative_l2": finite(measure)})
    write_lock(tmp_path / "l.json", Lock({"m": entry}))
    assert read_lock(tmp_path / "l.json").models["m"].accuracy == entry.accuracy
