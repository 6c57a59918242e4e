"""What deletes, renames and replaces: only in directories that are ours, each with a canary beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritonsmith.builder.base.files.disk import (
    NotOursError,
    adopt,
    delete,
    delete_empty,
    delete_written,
    exchange,
    inherit,
    move,
    private_directory,
    replacing,
    take_out,
    write_atomically,
)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file of the user's beside what is ours."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "canary").write_text("alive")
    return tmp_path / "theirs" / "canary"


def test_what_this_run_made_is_deleted_and_nothing_else(tmp_path: Path, canary: Path) -> None:
    made = private_directory(tmp_path)
    (made / "a").mkdir()
    (made / "link").symlink_to(canary.parent)
    for theirs in (canary, canary.parent, tmp_path, made / ".." / "theirs", made / "link" / "canary"):
        with pytest.raises(NotOursError):
            delete(theirs)
    delete(made / "link")
    delete(made)
    assert not made.exists() and canary.read_text() == "alive"
    made.mkdir()
    with pytest.raises(NotOursError):
        delete(made)  # another's by now


def test_an_adopted_directory_is_emptied_but_stays(tmp_path: Path, canary: Path) -> None:
    kept = tmp_path / "tmp"
    (kept / "left").mkdir(parents=True)
    adopt(kept)
    delete(kept / "left")
    with pytest.raises(NotOursError):
        delete(kept)
    assert canary.exists() and kept.is_dir() and not (kept / "left").exists()


def test_the_home_directory_is_never_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotOursError):
        adopt(tmp_path)


@pytest.mark.parametrize("name", ["../theirs", "/theirs", "a/../../theirs"])
def test_a_hostile_name_moves_nothing(name: str, tmp_path: Path, canary: Path) -> None:
    made = private_directory(tmp_path)
    (made / "new").mkdir()
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(ValueError, match="the path"):
        move(made / "new", home, name)
    with pytest.raises(ValueError, match="the path"):
        take_out(home, name, made)
    with pytest.raises(ValueError, match="the path"):
        exchange(made / "new", home, name)
    with pytest.raises(NotOursError):
        move(canary, home, "taken")
    with pytest.raises(NotOursError):
        exchange(canary.parent, home, "taken")
    assert canary.read_text() == "alive" and (made / "new").is_dir()


def test_a_replaced_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(RuntimeError, match="stop"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    write_atomically(path, b"new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_run_left_is_taken_over_and_a_link_in_its_place_is_not(
    tmp_path: Path, canary: Path
) -> None:
    (tmp_path / ".r.staging-a").mkdir()
    (tmp_path / ".r.staging-b").symlink_to(canary.parent)
    (tmp_path / ".r.staging-c").write_text("a file")
    taken = [name for name in "abcd" if inherit(tmp_path / f".r.staging-{name}")]
    assert taken == ["a"]
    delete(tmp_path / ".r.staging-a")
    for theirs in (".r.staging-b", ".r.staging-c", "theirs/canary"):
        with pytest.raises(NotOursError):
            delete(tmp_path / theirs)
    assert canary.read_text() == "alive"


def test_what_was_moved_away_is_no_longer_ours_under_its_old_name(tmp_path: Path) -> None:
    made = private_directory(tmp_path)
    move(made, tmp_path, "placed")
    made.mkdir()
    with pytest.raises(NotOursError):
        delete(made)


def test_a_directory_with_something_in_it_is_not_empty(tmp_path: Path, canary: Path) -> None:
    with pytest.raises(OSError, match="not empty"):
        delete_empty(canary.parent)
    with pytest.raises(OSError, match=r"[Ii]s a directory|not permitted"):
        delete_written(canary.parent)
    assert canary.read_text() == "alive"
