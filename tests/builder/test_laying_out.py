"""What a copy out of the cache has to be, and what the lock says of a model that a killed build left there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.build import build
from builder.cache import Cache
from builder.context import BuildOptions
from builder.lock import Lock, lock_path, write_lock
from builder.repository import publish_model
from tests import onnx_models


@pytest.fixture
def options(tmp_path: Path) -> BuildOptions:
    """A project with one model, built."""
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text(
        "models:\n  m:\n    source: {onnx: m.onnx}\n    max_batch_size: 4\n"
    )
    options = BuildOptions(tmp_path / "models.yaml", cache=Cache(tmp_path / "cache"))
    assert not build(options).errors
    return options


def again(options: BuildOptions) -> BuildOptions:
    """The same for a next process, which has read nothing yet."""
    assert options.cache is not None
    return BuildOptions(options.spec, cache=Cache(options.cache.root))


def test_a_flipped_bit_that_no_stat_shows_is_not_laid_out_and_healed_by_the_next_build(
    options: BuildOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    laid_out = tmp_path / "model_repository" / "m" / "1" / "model.onnx"
    content = laid_out.read_bytes()
    (stored,) = (tmp_path / "cache" / "artifacts").rglob("model.onnx")
    stored.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    # As a failing disk does it: what is known of the file still fits it.
    known = json.loads((tmp_path / "cache" / "stat.json").read_text())
    stat = stored.stat()
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    known[str(stored.resolve())] = [*stamp, known[str(stored.resolve())][4]]
    (tmp_path / "cache" / "stat.json").write_text(json.dumps(known))
    laid_out.unlink()
    (error,) = build(again(options)).errors
    assert error.code == "corrupt_artifact" and not laid_out.exists()
    assert "is corrupt" in capsys.readouterr().err
    assert not build(again(options)).errors
    assert laid_out.read_bytes() == content


def test_a_new_model_is_in_the_lock_before_it_is_visible(options: BuildOptions, tmp_path: Path) -> None:
    """A kill between the two leaves what the next build takes for its own, even when the sources changed meanwhile."""
    repository = tmp_path / "model_repository"
    aside = tmp_path / "aside" / "m"
    aside.parent.mkdir()
    (repository / "m").rename(aside)
    write_lock(lock_path(options.spec), Lock())
    # A repository that cannot take the model in: the build ends where a kill would.
    repository.rmdir()
    repository.write_text("in the way")
    with pytest.raises(OSError):
        build(again(options))
    repository.unlink()
    publish_model(aside, repository)
    onnx_models.save(onnx_models.affine(("batch", 3), scale=7.0), tmp_path / "m.onnx")
    assert not build(again(options)).errors
    assert (repository / "m" / "1" / "model.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()
