"""An action is found by what it was made of, and run once for it: whatever it is, by one function."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from tritonsmith.builder.actions.action import Action, Identity, Ran, Workplace, request_digest
from tritonsmith.builder.cache.actions import current_digest, fetched, find, perform, run
from tritonsmith.builder.cache.cache import Cache


def copying(file: Path, runs: list[str], kept: str = "") -> Action:
    """An action of nobody's: it copies a file that it finds out about as it runs. kept: what its copy must say."""

    def copy(made: Path, place: Workplace) -> Ran:
        runs.append(file.name)
        (made / "copy").write_text(file.read_text())
        return Ran({"layers": [], "suggested_exclude": []}, [file])

    def differs(kept: str, directory: Path) -> list[str]:
        text = (directory / "copy").read_text()
        return [f"it says {text}"] if kept and text != kept else []

    identity = Identity({}, {}, request_digest("copy", {}, {}), reads=True)
    return Action("layers", "copy it", identity, copy, partial(differs, kept))


def test_an_action_runs_once_for_each_content_of_what_it_reads(tmp_path: Path) -> None:
    cache, runs, file = Cache(tmp_path / "cache"), list[str](), tmp_path / "source"
    action = copying(file, runs)
    keys = []
    for text in ("one", "two", "one", "two"):
        file.write_text(text)
        artifact, _ = perform(action, tmp_path, cache)
        assert (artifact.directory / "copy").read_text() == text
        assert find(action.identity, tmp_path, cache) == artifact.key
        keys.append(artifact.key)
    assert len(runs) == 2 and keys[:2] == keys[2:] and keys[0] != keys[1]
    file.unlink()
    assert find(action.identity, tmp_path, cache) is None, "what it read is gone"


def test_what_the_lock_says_was_read_finds_the_artifact_only_by_its_content_now(tmp_path: Path) -> None:
    cache, runs, file = Cache(tmp_path / "cache"), list[str](), tmp_path / "source"
    file.write_text("one")
    action = copying(file, runs)
    key = run(action, tmp_path, cache).key

    def found(cache: Cache) -> str | None:
        now = {name: current_digest(name, tmp_path, cache) for name in ("source",)}
        return find(action.identity, tmp_path, cache, now=now)

    shutil.rmtree(tmp_path / "cache" / "requests")
    assert found(cache) == key, "no record of the run is asked for"
    before = file.stat()
    os.utime(file)
    assert found(Cache(tmp_path / "cache")) == key, "touched, and the same bytes"
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert found(Cache(tmp_path / "cache")) is None and found(cache) is None, "its size and mtime stayed"
    file.unlink()
    assert found(cache) is None


def test_what_is_not_there_yet_makes_nothing_findable(tmp_path: Path) -> None:
    assert find(Identity({}, {}, None, reads=True), tmp_path, Cache(tmp_path / "cache")) is None


def test_an_artifact_that_is_not_what_is_asked_for_is_refused_and_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, runs, file = Cache(tmp_path / "cache"), list[str](), tmp_path / "source"
    file.write_text("one")
    key = run(copying(file, runs), tmp_path, cache).key
    assert fetched(copying(file, runs, "one"), key, cache) is not None
    assert fetched(copying(file, runs, "two"), key, cache) is None
    assert "it: it says one" in capsys.readouterr().err
    assert fetched(copying(file, runs), key, cache) is None, "nobody is given it again"
