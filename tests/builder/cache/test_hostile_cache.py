"""A cache that a stranger may write to: whatever is in an entry's place is a miss and one warning, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.builder.publish.projects import Project
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.build.build import build
from tritonsmith.builder.build.context import BuildOptions
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.cache.entry import RECORD
from tritonsmith.builder.cache.record import checked_record
from tritonsmith.builder.cache.shared import SharedCache

Damage = Callable[[Path], None]
"""Does it to an entry's directory, in a local or a shared cache."""


def _manifest(change: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(entry: Path) -> None:
        path = entry / RECORD
        path.chmod(0o644)
        data = json.loads(path.read_text())
        del data["digest"]
        change(data)
        path.write_text(json.dumps(data))

    return damage


def _record(**changes: object) -> Damage:
    return _manifest(lambda data: data["record"].update(changes))


def _instead(make: Callable[[Path], None], what: str = RECORD) -> Damage:
    def damage(entry: Path) -> None:
        path = next(p for p in entry.rglob("*") if p.is_file() and (p.name == RECORD) == (what == RECORD))
        path.unlink()
        make(path)

    return damage


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _text(text: bytes) -> Damage:
    def write(path: Path) -> None:
        path.write_bytes(text)

    return _instead(write)


DEEP = b"[" * 100_000
DAMAGE: dict[str, Damage] = {
    "a manifest nested too deep": _text(DEEP),
    "a manifest that is a list": _text(b"[]"),
    "a manifest of NUL": _text(b"\0" * 100),
    "a manifest that is a FIFO": _instead(os.mkfifo),
    "a manifest that is a socket": _instead(_socket),
    "a manifest that is a directory": _instead(Path.mkdir),
    "a manifest that is a circle of links": _instead(lambda path: path.symlink_to(path.name)),
    "a file that is a FIFO": _instead(os.mkfifo, "file"),
    "a file that is a socket": _instead(_socket, "file"),
    "a file that is a directory": _instead(Path.mkdir, "file"),
    "a file that is a link to another": _instead(lambda path: path.symlink_to("/nowhere/at/all"), "file"),
    "a file outside": _manifest(lambda data: data["files"].update({"../../canary": "0" * 64})),
    "a file with an absolute name": _manifest(lambda data: data["files"].update({"/canary": "0" * 64})),
    "a file with NUL in its name": _manifest(lambda data: data["files"].update({"a\0": "0" * 64})),
    "a file with a huge name": _manifest(lambda data: data["files"].update({"a" * 5000: "0" * 64})),
    "a file below a file": _manifest(
        lambda data: data["files"].update({f"{n}/x": d for n, d in data["files"].items()})
    ),
    "another key": _manifest(lambda data: data.update(key="../../canary")),
    "a size that is none": _manifest(lambda data: data.update(size_bytes=-1)),
    "a time that is none": _manifest(lambda data: data.update(created_s="now")),
    "a record that is a list": _manifest(lambda data: data.update(record=[])),
    "an empty record": _manifest(lambda data: data.update(record={})),
    "an unknown data type": _record(inputs=[{"name": "x", "data_type": "TYPE_EVIL", "shape": [1]}]),
    "a shape of text": _record(inputs=[{"name": "x", "data_type": "TYPE_FP32", "shape": "abc"}]),
    "a negative dimension": _record(inputs=[{"name": "x", "data_type": "TYPE_FP32", "shape": [-7]}]),
    "samples outside": _record(samples="../../canary"),
    "samples that are not there": _record(samples="samples.npz"),
    "served files outside": _record(served_files=["../../canary"]),
    "served files that are not there": _record(served_files=["other.onnx"]),
    "directories outside": _record(directories=["../x"]),
    "a tool that is a list": _record(tools={"torch": []}),
    "a dependency's digest": _record(dependencies={"m": "0"}),
    "an accuracy that is none": _record(accuracy={"samples": 0}),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose only model lies in a shared cache; its local cache and repository are not kept."""
    root = tmp_path_factory.mktemp("built")
    project = Project(root, "")
    project.write({"m": 2.0})
    cache = Cache(root / "cache", SharedCache(str(root / "share")))
    assert not build(BuildOptions(root / "models.yaml", cache=cache)).errors
    return project


def _copy(source: Path, target: Path) -> Path:
    """A copy of what is left of a tree of regular files, so that damage of one test is not another's."""
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        # Records are read in one place, wherever an entry comes from.
        pytest.param(damage, place, id=f"{name}-{place}", marks=[pytest.mark.nightly] * is_twin)
        for number, (name, damage) in enumerate(DAMAGE.items())
        for place in ("local", "shared")
        for is_twin in [place == "shared" and number >= len(DAMAGE) // 2]
    ],
)
def test_a_damaged_entry_is_one_warning_and_made_again(
    built: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage, place: str
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    share, local = tmp_path / "share", tmp_path / "cache"
    _copy(built.root / ("cache" if place == "local" else "share"), local if place == "local" else share)
    manifests = (local if place == "local" else share).glob(f"artifacts/*/*/{RECORD}")
    # The other entry is what is known of its rows.
    (entry,) = (path.parent for path in manifests if "served_files" in path.read_text())
    damage(entry)
    with suppress(OSError):  # the file that tells the digest of what was there before
        (local / "stat.json").unlink()
    cache = Cache(local, SharedCache(str(share)) if place == "shared" else None)
    options = BuildOptions(built.root / "models.yaml", tmp_path / "repository", cache)
    (built.root / "models.lock.json").unlink(missing_ok=True)
    result = build(options)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert not result.errors, result.errors
    assert len(told) == 1 and ("corrupt" in told[0]) and len(told[0]) < 700, told
    assert (tmp_path / "repository" / "m" / "1" / "model.onnx").is_file()
    assert canary.read_text() == "alive"


@pytest.mark.parametrize("linked", ["artifacts", "requests", "tmp", "logs", "artifacts/??", "requests/??"])
def test_a_link_in_a_cache_is_refused_and_nothing_is_written_through(
    built: Project, tmp_path: Path, linked: str
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "canary").write_text("alive")
    local = _copy(built.root / "cache", tmp_path / "cache")
    for name in ("artifacts", "requests", "tmp", "logs"):
        (local / name).mkdir(exist_ok=True)
    # Of the two entries the model's own, which the plan already looks for; the other is what is known of its rows.
    manifest = next(p for p in local.glob(f"artifacts/*/*/{RECORD}") if "served_files" in p.read_text())
    link = manifest.parents[1] if linked == "artifacts/??" else next(local.glob(linked))
    shutil.rmtree(link)
    link.symlink_to(tmp_path / "theirs")
    (built.root / "models.lock.json").unlink(missing_ok=True)
    with pytest.raises(BuildError, match="is a link") as error:
        # What lies in one model's way is that model's failure.
        for failure in build(
            BuildOptions(built.root / "models.yaml", tmp_path / "repository", Cache(local))
        ).errors:
            raise failure
    assert error.value.code == "cache_link"
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["canary"]


@pytest.mark.parametrize(
    "name", ["artifact..._x", "artifact.x", "artifact.", "request...-x.json", "x", "artifact"]
)
def test_a_marker_that_is_none_of_ours_is_forgotten(tmp_path: Path, name: str) -> None:
    (tmp_path / "canary").write_text("alive")
    cache = Cache(tmp_path / "cache", SharedCache(str(tmp_path / "share")))
    assert cache.get("0" * 64) is None
    marker = cache._owed() / name
    marker.parent.mkdir(parents=True)
    marker.touch()
    Cache(tmp_path / "cache", SharedCache(str(tmp_path / "share"))).settle()
    assert not marker.exists() and (tmp_path / "canary").read_text() == "alive"


@pytest.mark.parametrize("kind", ["source", "rows", "convert", "compile", "layers", "proof"])
@pytest.mark.parametrize("record", [{}, {"engine": {}}, {"layers": [1]}, {"directories": []}])
def test_a_record_of_another_action_is_none(kind: Any, record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"record\."):
        checked_record(kind, record, [])
