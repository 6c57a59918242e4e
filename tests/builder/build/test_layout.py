"""What a copy out of the cache has to be, and what the lock says of a model that a killed build left there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import onnx_models
from tests.conftest import ROOT
from tritonsmith.builder.build.build import build
from tritonsmith.builder.build.context import BuildOptions
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.repository.lock import lock_path, read_lock


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


_KILLED = """
import os, sys
from pathlib import Path
from tritonsmith.builder.build.build import build
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.build.context import BuildOptions
spec = Path(sys.argv[1])
build(BuildOptions(spec, cache=Cache(spec.parent / "cache")), lambda told: os._exit(9) if told.done == 3 else None)
"""


def test_what_a_killed_first_build_left_is_no_strangers_even_when_the_sources_changed(
    options: BuildOptions, tmp_path: Path
) -> None:
    spec = options.spec.read_text()
    options.spec.write_text(
        spec + "".join(spec.removeprefix("models:\n").replace("m:", f"{n}:", 1) for n in "no")
    )
    shutil.rmtree(tmp_path / "model_repository")
    (tmp_path / "models.lock.json").unlink()
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(options.spec)], cwd=ROOT)
    assert killed.returncode == 9
    assert sorted(p.name for p in (tmp_path / "model_repository").iterdir()) == ["m", "n", "o"]
    assert not {"m", "n", "o"} <= set(read_lock(lock_path(options.spec)).models), "the lock is behind"
    onnx_models.save(onnx_models.affine(("batch", 3), scale=7.0), tmp_path / "m.onnx")
    assert not build(again(options)).errors
    for model in ("m", "n", "o"):
        laid_out = tmp_path / "model_repository" / model / "1" / "model.onnx"
        assert laid_out.read_bytes() == (tmp_path / "m.onnx").read_bytes()
    assert not [p for p in tmp_path.iterdir() if "staging" in p.name]
