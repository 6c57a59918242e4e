"""Publishing and rolling back on disk, on a real S3 server and in a directory that is written as a store is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import onnx_models
from tests.builder.publish.projects import Project
from tritonsmith.builder.base.errors import BuildError, GateError, TritonsmithError, UsageError
from tritonsmith.builder.build.build import build
from tritonsmith.builder.lint.check import check
from tritonsmith.builder.publish import Switched, list_versions, open_destination, text_of_versions
from tritonsmith.builder.publish.destinations.versions import CLAIM, FAILED, PROVENANCE


@pytest.fixture(params=["disk", "s3", "file"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """A spec to be written, and an empty destination."""
    urls: dict[str, Callable[[], str]] = {
        "disk": lambda: str(tmp_path / "published"),
        "s3": lambda: f"{request.getfixturevalue('bucket')}/a prefix",
        "file": lambda: f"file://{tmp_path}/published",
    }
    return Project(tmp_path, urls[request.param]())


@pytest.fixture
def on_disk(tmp_path: Path) -> Project:
    return Project(tmp_path, str(tmp_path / "published"))


def served(project: Project, model: str = "m") -> tuple[int, ...]:
    return project.destination.state(model).served


def test_versions_come_are_kept_and_go_back(project: Project) -> None:
    first = project.publish_scales(m=2.0, other=5.0).models
    assert [(m.model, m.action, m.version, m.previous) for m in first] == [
        ("m", "published", 1, ()),
        ("other", "published", 1, ()),
    ]
    again = project.publish()
    assert [m.action for m in again.models] == ["up to date", "up to date"]
    for scale in (3.0, 4.0, 6.0):
        done = project.publish_scales(m=scale, other=5.0, keep=3).models
    assert [(m.action, m.version, m.removed) for m in done] == [("published", 4, (1,)), ("up to date", 1, ())]
    state = project.destination.state("m")
    assert (state.served, state.complete, project.labels("m")) == ((4,), (2, 3, 4), "6.0")

    back = project.rollback("m")
    assert (back.version, back.served, back.previous, back.verified_files) == (3, (3,), (4,), 3)
    assert project.labels("m") == "4.0", "what lies at the model's root goes back with it"
    assert project.rollback("m", 2).served == (2,) and project.labels("m") == "3.0"
    with pytest.raises(UsageError, match="version 1 does not exist") as caught:
        project.rollback("m", 1)
    assert caught.value.valid == ("3", "4")
    anew = project.publish_scales(m=7.0, other=5.0).models[0]
    assert (anew.version, anew.previous, anew.removed) == (5, (2,), (2,)), "no number twice"
    rows = list_versions(project.destination)
    assert [(r.model, r.version, r.state) for r in rows] == [
        ("m", 5, "served"), ("m", 4, "kept"), ("m", 3, "kept"), ("other", 1, "served"),
    ]  # fmt: skip
    assert "m      5        served" in text_of_versions(rows, project.url)


def test_what_a_version_says_of_itself(on_disk: Project) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(on_disk.root)]
    subprocess.run([*git, "init", "-q"], check=True)
    on_disk.write({"m": 2.0})
    subprocess.run([*git, "add", "models.yaml"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "spec"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    (on_disk.root / "evidence").mkdir()
    (on_disk.root / "evidence" / "m.json").write_text(json.dumps({"ratio": 1.3}))
    on_disk.build()
    on_disk.publish()
    record = list_versions(on_disk.destination, "m")[0].provenance
    lock = json.loads((on_disk.root / "models.lock.json").read_text())["models"]["m"]
    assert record["spec"] == {
        "name": "models.yaml",
        "sha256": record["spec"]["sha256"],
        "commit": commit.strip(),
        "dirty": False,
    }
    assert (record["action_key"], record["lock"]["key"]) == (lock["key"], lock["key"])
    assert record["evidence"] == {"ratio": 1.3} and record["published"].endswith("+00:00")
    assert record["files"]["model.onnx"]["sha256"] == lock["files"]["1/model.onnx"]
    assert record["smoke"]["samples"] == 0 and "taken over" in record["smoke"]["note"]


def test_a_users_own_policy_serves_published_versions(on_disk: Project) -> None:
    for scale in (2.0, 3.0, 4.0):
        on_disk.write({"m": scale}, extra="    version_policy: {latest: {num_versions: 2}}\n")
        on_disk.build()
        on_disk.publish(keep=1)
    assert served(on_disk) == (2, 3) and on_disk.destination.state("m").complete == (2, 3)
    assert on_disk.rollback("m").served == (2,)
    on_disk.write({"m": 5.0}, extra="    version_policy: {all: {}}\n")
    on_disk.build()
    assert on_disk.publish().models[0].served == (2, 3, 4)
    assert list_versions(on_disk.destination)[0].as_dict()["state"] == "served"


def test_ensembles_go_with_their_steps(on_disk: Project) -> None:
    ensemble = "  both:\n    source:\n      steps:\n"
    ensemble += "        - {model: m, from: {x: x}, to: {y: between}}\n"
    ensemble += "        - {model: other, from: {x: between}, to: {y: y}}\n"
    on_disk.write({"m": 2.0, "other": 3.0}, spec=ensemble)
    on_disk.build()
    with pytest.raises(GateError, match="is a step of an ensemble") as caught:
        on_disk.publish("both", "m")
    assert caught.value.code == "step_not_published" and on_disk.destination.models() == ()
    on_disk.publish("other")
    assert [m.model for m in on_disk.publish("both", "m").models] == ["m", "both"], "steps first"
    assert served(on_disk, "both") == (1,) and on_disk.destination.state("both").complete == (1,)
    on_disk.write({"m": 2.0, "other": 3.0}, spec=ensemble.replace("model: m,", "model: m, version: 1,"))
    on_disk.build()
    with pytest.raises(GateError) as caught:
        on_disk.publish()
    assert caught.value.code == "pinned_step"
    on_disk.write({"m": 2.0, "other": 3.0}, spec=ensemble)
    text = (on_disk.root / "models.yaml").read_text()
    # Step m comes to take four values, and the ensemble that is served gives it three.
    onnx_models.save(onnx_models.affine(("batch", 4)), on_disk.root / "sources" / "m" / "1" / "model.onnx")
    wide = text.replace("dims: [3]", "dims: [4]", 2).partition("  both:")[0]
    (on_disk.root / "models.yaml").write_text(wide)
    (on_disk.root / "models.lock.json").unlink()
    assert not build(replace(on_disk.options, overwrite=True)).errors
    (on_disk.root / "models.yaml").write_text(wide + ensemble)
    with pytest.raises(GateError, match=r"both: it is served, and would not load .*ENS021") as caught:
        on_disk.publish("m")
    assert served(on_disk) == (1,)


def test_a_dry_run_writes_nothing(on_disk: Project) -> None:
    on_disk.write({"m": 2.0})
    on_disk.build()
    (would,) = on_disk.publish(dry_run=True).models
    assert (would.action, would.version) == ("would publish", 1) and would.bytes > 100
    assert on_disk.destination.models() == ()


def test_a_damaged_version_is_not_served_again_but_healed(on_disk: Project) -> None:
    for scale in (2.0, 3.0):
        on_disk.publish_scales(m=scale)
    _overwrite(on_disk, "m/1/model.onnx", b"x" * on_disk.destination.state("m").files["1/model.onnx"])
    with pytest.raises(BuildError) as caught:
        on_disk.rollback("m")
    assert caught.value.code == "damaged_version" and served(on_disk) == (2,)
    _overwrite(on_disk, "m/2/model.onnx", b"short")
    (healed,) = on_disk.publish().models
    assert (healed.action, healed.version) == ("published", 3), "what was served had another size"
    assert healed.removed == (2,)


def _overwrite(project: Project, path: str, content: bytes) -> None:
    if "://" not in project.url:
        (Path(project.url) / path).unlink()  # not through the hard link
        (Path(project.url) / path).write_bytes(content)
        return
    from tritonsmith.builder.base.files.object_store import open_store

    open_store(project.url).put(path, content)


def test_a_model_of_somebody_elses_is_left_alone(on_disk: Project) -> None:
    on_disk.write({"m": 2.0})
    on_disk.build()
    from tritonsmith.builder.base.files.object_store import open_store

    url = on_disk.url if "://" in on_disk.url else f"file://{on_disk.url}"
    open_store(url).put("m/1/model.onnx", b"theirs")
    with pytest.raises(GateError) as caught:
        on_disk.publish()
    assert (caught.value.code, caught.value.exit_code) == ("foreign_model", 4)
    assert on_disk.destination.read("m", "1/model.onnx") == b"theirs"


class _Refusing:
    """A live server of the test's own making: it refuses versions, and keeps what it was told."""

    def __init__(self, refused: set[int]) -> None:
        self.refused, self.told = refused, list[Any]()

    def check(self) -> None:
        self.told.append("check")

    def follow(self, switched: Switched) -> str:
        self.told.append((switched.model, tuple(switched.served)))
        if set(switched.served) & self.refused:
            raise BuildError("it answers nonsense", code="smoke_test")
        return "fine"

    def forget(self, model: str) -> None:
        self.told.append(("forget", model))


def test_what_fails_live_is_taken_back(project: Project) -> None:
    live = _Refusing({1})
    (failed,) = project.publish_scales(m=2.0, release=live).models
    assert failed.error is not None and (failed.error.code, failed.error.exit_code) == ("release_failed", 4)
    assert "it answers nonsense" in failed.error.message and "it was removed again" in failed.error.details[0]
    assert project.destination.models() == (), "a first version that fails leaves nothing"
    assert live.told == ["check", ("m", (1,)), ("forget", "m")]

    project.publish_scales(m=3.0)
    live = _Refusing({2})
    (failed,) = project.publish_scales(m=4.0, release=live).models
    assert failed.error is not None and "version 1 is served again: fine" in failed.error.details[0]
    assert live.told == ["check", ("m", (2,)), ("m", (1,))]
    assert (served(project), project.labels("m")) == ((1,), "3.0")
    assert [(r.version, r.state) for r in list_versions(project.destination)] == [
        (2, "failed"),
        (1, "served"),
    ]
    assert json.loads(project.destination.read("m", f"2/{FAILED}") or b"")["why"] == "it answers nonsense"
    (anew,) = project.publish_scales(m=5.0, keep=2, release=_Refusing(set())).models
    assert (anew.version, anew.previous, anew.removed, anew.live) == (3, (1,), (2,), "fine")
    late = _Refusing(set())
    assert project.publish(release=late).models[0].live == "fine", "it may not have followed before"
    assert late.told == ["check", ("m", (3,))]
    (stubborn,) = project.publish(release=_Refusing({3})).models
    assert stubborn.error is not None and served(project) == (3,), "nothing was changed, so nothing is undone"


def test_a_server_that_is_not_there_stops_the_publish_before_it_begins(on_disk: Project) -> None:
    from tritonsmith.perf.commands.release.live import LiveRelease
    from tritonsmith.perf.wire.http import HttpTarget

    with pytest.raises(TritonsmithError, match="nothing answers HTTP"):
        on_disk.publish_scales(m=2.0, release=LiveRelease([HttpTarget("http://127.0.0.1:9")]))
    assert on_disk.destination.models() == ()


def test_gates_come_before_anything_is_written(on_disk: Project) -> None:
    on_disk.write({"m": 2.0, "other": 3.0})
    on_disk.build()
    on_disk.write({"m": 2.0, "other": 4.0})
    with pytest.raises(GateError, match=r"1 of 2 models are not built") as caught:
        on_disk.publish()
    assert caught.value.code == "stale"
    assert str(caught.value.seen).startswith("other: sources/other/1/model.onnx changed")
    assert on_disk.publish("m").models[0].version == 1, "the other one is not asked for"
    with pytest.raises(UsageError, match="no model 'othr'") as wrong:
        on_disk.publish("othr")
    assert wrong.value.fix == "did you mean 'other'?"


def test_lint_is_a_gate(on_disk: Project) -> None:
    on_disk.write({"m": 2.0}, extra="    dynamic_batching: {preferred_batch_size: [64]}\n")
    assert not build(replace(on_disk.options, lint=False)).errors
    with pytest.raises(GateError, match="BATCH003") as caught:
        on_disk.publish()
    assert caught.value.code == "lint" and on_disk.destination.models() == ()


def test_what_lies_there_is_what_triton_takes(on_disk: Project) -> None:
    on_disk.publish_scales(m=2.0)
    on_disk.publish_scales(m=3.0)
    repository = Path(on_disk.url)
    assert check([repository]) == []
    assert sorted(p.name for p in repository.iterdir()) == ["m"], "nothing hidden: Triton would poll it"
    assert sorted(p.name for p in (repository / "m").iterdir()) == ["1", "2", "config.pbtxt", "labels.txt"]
    assert sorted(p.name for p in on_disk.root.iterdir() if "staging" in p.name) == []
    assert ((repository / "m").stat().st_mode & 0o777) == 0o755
    (repository / "m" / "notes.md").write_text("ours")
    on_disk.publish_scales(m=4.0)
    assert (repository / "m" / "notes.md").read_text() == "ours", "what no publish put there stays"
    before = (repository / "m" / "2" / "model.onnx").stat().st_ino
    on_disk.rollback("m")
    assert (repository / "m" / "2" / "model.onnx").stat().st_ino == before, "versions are linked, not copied"


def test_a_first_upload_that_was_killed_is_taken_up(bucket: str, tmp_path: Path) -> None:
    project = Project(tmp_path, bucket)
    project.write({"m": 2.0})
    project.build()
    destination = open_destination(bucket)
    from tritonsmith.builder.publish.destinations.versions import manifest

    text = (tmp_path / "model_repository" / "m" / "config.pbtxt").read_text()
    destination.claim(destination.state("m"), manifest(text, [], "models.yaml"))
    state = destination.state("m")
    assert (state.served, state.numbers, state.is_foreign) == ((), (1,), False)
    assert f"1/{CLAIM}" in state.files and f"1/{PROVENANCE}" not in state.files
    (done,) = project.publish().models
    assert (done.version, done.removed) == (2, ()), "that claim may be somebody's who is still uploading"


def test_two_publishers_of_a_store_do_not_both_win(bucket: str, tmp_path: Path) -> None:
    ours, theirs = Project(tmp_path / "ours", bucket), Project(tmp_path / "theirs", bucket)
    for project in (ours, theirs):
        project.root.mkdir()
    ours.publish_scales(m=2.0)
    theirs.write({"m": 3.0})
    theirs.build()

    class Meanwhile(_Refusing):
        """Between their gates and their switch, somebody else publishes."""

        def check(self) -> None:
            ours.publish_scales(m=4.0)

    (lost,) = theirs.publish(release=Meanwhile(set())).models
    assert lost.error is not None and lost.error.code == "destination_changed"
    assert (served(ours), ours.labels("m"), lost.version) == ((2,), "4.0", 3), "numbers do not meet either"
    assert theirs.publish().models[0].version == 4
