"""Laying out: a model's directory is the old one or the new one at every moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.files.digest import StatCache
from tritonsmith.builder.repository.repository import (
    can_exchange,
    exclusive,
    model_files,
    publish_model,
    refuse_foreign_model,
    remove_model,
    stage_model,
)


def lay_out(repository: Path, name: str, content: str) -> None:
    artifact = repository.parent / "artifact"
    artifact.mkdir(exist_ok=True)
    (artifact / "model.onnx").write_text(content)
    with exclusive(repository) as staging:
        staged = stage_model(staging, name, f"# {content}\n", {"1/model.onnx": artifact / "model.onnx"})
        publish_model(staged, repository)


def test_a_model_is_laid_out_and_replaced(tmp_path: Path) -> None:
    repository = tmp_path / "model_repository"
    lay_out(repository, "m", "one")
    (repository / "m" / "stray").write_text("left by someone")
    lay_out(repository, "m", "two")
    assert (repository / "m" / "1" / "model.onnx").read_text() == "two"
    assert sorted(model_files(repository / "m", StatCache(tmp_path / "s"))) == [
        "1/model.onnx",
        "config.pbtxt",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifact", "model_repository"], "no staging left"


def test_the_cache_does_not_see_an_edit_in_the_repository(tmp_path: Path) -> None:
    lay_out(tmp_path / "r", "m", "one")
    (tmp_path / "r" / "m" / "1" / "model.onnx").write_text("edited")
    assert (tmp_path / "artifact" / "model.onnx").read_text() == "one"


def test_a_removed_model_is_gone_and_others_stay(tmp_path: Path) -> None:
    repository = tmp_path / "r"
    lay_out(repository, "a", "1")
    lay_out(repository, "b", "1")
    with exclusive(repository) as staging:
        remove_model(repository, "a", staging)
    assert sorted(p.name for p in repository.iterdir()) == ["b"]


def test_whether_directories_can_be_exchanged_is_found_out_without_a_trace(tmp_path: Path) -> None:
    assert can_exchange(tmp_path) == sys.platform.startswith("linux")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(BuildError, match="--overwrite"):
        refuse_foreign_model(tmp_path, "m", ours=False)
    refuse_foreign_model(tmp_path, "m", ours=True)


_WRITER = """
import sys
from pathlib import Path
from tests.builder.repository.test_repository import lay_out
repository, number = Path(sys.argv[1]), 0
print("go", flush=True)
while True:
    number += 1
    lay_out(repository, "m", str(number) * 20000)
"""


def test_kill_9_at_any_moment_leaves_a_whole_model(tmp_path: Path) -> None:
    repository = tmp_path / "model_repository"
    lay_out(repository, "m", "0")
    for round_ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(repository)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        ) as writer:
            assert writer.stdout is not None and writer.stdout.readline()
            deadline = time.monotonic() + 0.02 + 0.013 * round_
            while time.monotonic() < deadline:
                assert_whole(repository)
            os.kill(writer.pid, signal.SIGKILL)
        assert_whole(repository)
    lay_out(repository, "m", "last")
    assert (repository / "m" / "1" / "model.onnx").read_text() == "last"
    assert not list(tmp_path.glob(".model_repository.staging-*")), (
        "the next build clears what the killed one left"
    )


def assert_whole(repository: Path) -> None:
    # Opened through one directory handle: two path look-ups could fall on either side of an exchange.
    handle = os.open(repository / "m", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open("config.pbtxt", opener=lambda p, f: os.open(p, f, dir_fd=handle)) as config:
            text = config.read()
        with open("1/model.onnx", opener=lambda p, f: os.open(p, f, dir_fd=handle)) as model:
            content = model.read()
    except FileNotFoundError:
        # The old directory was removed between the two reads; the name itself must still be there.
        assert (repository / "m").is_dir()
        return
    finally:
        os.close(handle)
    assert text == f"# {content}\n"
