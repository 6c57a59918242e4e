"""The cache and the lock: what was put comes back, what is damaged is a miss, what is written is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests import onnx_models
from tests.conftest import ROOT, Run
from tests.mounts import can_mount
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.files.digest import StatCache, digest_of_file, digest_of_value
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.repository.lock import Lock, LockedModel, read_lock, text_of_lock, write_lock

KEY = digest_of_value("a key")


def put(cache: Cache, content: bytes = b"model") -> None:
    with cache.workspace() as made:
        (made / "sub").mkdir()
        (made / "sub" / "model.onnx").write_bytes(content)
        cache.put(KEY, made, {"opset": 20})


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    put(Cache(tmp_path))
    artifact = Cache(tmp_path).get(KEY)
    assert artifact is not None
    assert (artifact.directory / "sub" / "model.onnx").read_bytes() == b"model"
    assert dict(artifact.record) == {"opset": 20} and set(artifact.files) == {"sub/model.onnx"}
    assert not list((tmp_path / "tmp").iterdir()), "workspaces are gone"


def test_an_unknown_key_is_a_miss(tmp_path: Path) -> None:
    assert Cache(tmp_path).get(KEY) is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "record", "record missing"])
def test_a_damaged_entry_is_a_miss_with_a_warning_and_is_healed(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(Cache(tmp_path))
    directory = tmp_path / "artifacts" / KEY[:2] / KEY
    file, record = directory / "sub" / "model.onnx", directory / "artifact.json"
    damages: dict[str, Callable[[], object]] = {
        "truncate": lambda: file.write_bytes(b""),
        "flip": lambda: file.write_bytes(b"mOdel"),
        "delete": file.unlink,
        "record": lambda: record.write_text("{"),
        "record missing": record.unlink,
    }
    damages[damage]()
    cache = Cache(tmp_path)
    assert cache.get(KEY) is None
    assert "corrupt" in capsys.readouterr().err
    put(cache)
    assert cache.get(KEY) is not None


def _put_in_child(root: str) -> None:
    for _ in range(20):
        put(Cache(Path(root)))


def test_two_builds_at_once_put_the_same_key(tmp_path: Path) -> None:
    children = [get_context("spawn").Process(target=_put_in_child, args=(str(tmp_path),)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [c.exitcode for c in children] == [0, 0]
    assert Cache(tmp_path).get(KEY) is not None


def test_a_damaged_memory_is_none_and_the_next_run_heals_it(tmp_path: Path) -> None:
    request = digest_of_value("a request")
    Cache(tmp_path).remember(request, ["m.py"], KEY)
    (record,) = (tmp_path / "requests").rglob("*.json")
    record.write_text(record.read_text()[:9])
    assert list(Cache(tmp_path).remembered(request)) == []
    Cache(tmp_path).remember(request, ["m.py"], KEY)
    assert list(Cache(tmp_path).remembered(request)) == [("m.py",)]


def test_the_cache_remembers_which_files_a_request_read(tmp_path: Path) -> None:
    cache, request = Cache(tmp_path), digest_of_value("a request")
    first, second, third = (digest_of_value(n) for n in range(3))
    cache.remember(request, ["m.py"], first)
    cache.remember(request, {"m.py": "other content"}, second)
    cache.remember(request, ["m.py", "a.py"], third)
    newest = tmp_path / "requests" / request[:2] / request
    for path in newest.glob(f"*{third}.json"):
        os.utime(path, (2**31, 2**31))
    assert list(Cache(tmp_path).remembered(request)) == [("a.py", "m.py"), ("m.py",)]


def test_a_digest_is_read_again_only_when_the_file_changed(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    os.utime(file, (1, 1))
    stats = StatCache(tmp_path / "stat.json")
    first = stats.digest(file)
    assert first == digest_of_file(file)
    file.write_bytes(b"two")
    os.utime(file, (1, 1))
    assert stats.digest(file) == digest_of_file(file) != first, "ctime gives an in-place edit away"


def test_a_broken_stat_cache_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "stat.json").write_text('{"a": 3, "b": [1]}')
    file = tmp_path / "f"
    file.write_bytes(b"x")
    assert StatCache(tmp_path / "stat.json").digest(file) == digest_of_file(file)


def _learn_in_child(path: str, files: list[str]) -> None:
    for file in files:
        stats = StatCache(Path(path))
        stats.learn(Path(file), "0" * 64)
        stats.save()


def test_processes_that_save_their_stats_at_once_keep_what_each_has_learnt(tmp_path: Path) -> None:
    files = [tmp_path / f"weights{n}" for n in range(20)]
    for file in files:
        file.write_bytes(b"x")
    names = [str(f) for f in files]
    children = [
        get_context("spawn").Process(
            target=_learn_in_child, args=(str(tmp_path / "stat.json"), names[half::2])
        )
        for half in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    stats = StatCache(tmp_path / "stat.json")
    assert [stats.digest(f) for f in files] == ["0" * 64] * 20
    files[0].unlink()
    stats.forget_missing()
    assert len(json.loads((tmp_path / "stat.json").read_text())) == 19


def test_threads_share_a_stat_cache(tmp_path: Path) -> None:
    files = [tmp_path / f"weights{n}" for n in range(50)]
    for number, file in enumerate(files):
        file.write_bytes(b"%d" % number)
        os.utime(file, (1, 1))
    stats = StatCache(tmp_path / "stat.json")

    def work(file: Path) -> str:
        digest = stats.digest(file)
        stats.learn(file, digest)
        stats.save()
        return digest

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, files)) == [digest_of_file(f) for f in files]
    assert len(json.loads((tmp_path / "stat.json").read_text())) == 50


READ_ONLY = """\
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && "$2" -m tritonsmith plan && "$2" -m tritonsmith build
"""


@pytest.mark.skipif(not can_mount(), reason="needs unshare and a mount of its own")
def test_a_read_only_cache_can_be_planned_with_and_is_one_error_to_build_with(
    tmp_path: Path, cache_directory: Path, tritonsmith: Run
) -> None:
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text("models:\n  m:\n    source: {onnx: m.onnx}\n")
    cache_directory.mkdir()
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", READ_ONLY, "sh", str(cache_directory), sys.executable],
        cwd=tmp_path,
        env={**os.environ, "TRITONSMITH_CACHE": str(cache_directory), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "to run" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1 and "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr and not list(cache_directory.iterdir())
    assert tritonsmith("build").returncode == 0


def entry(**changes: object) -> LockedModel:
    fields: dict[str, object] = {
        "parameters": {},
        "tools": {},
        "dependencies": {"b.py": "2" * 64, "a.py": "1" * 64},
        "key": "f" * 64,
        "config": {},
        "files": {},
        "accuracy": {},
    }
    return LockedModel(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_lock_is_sorted_and_stable_whatever_the_order(tmp_path: Path) -> None:
    one = Lock({"b": entry(), "a": entry(dependencies={"a.py": "1" * 64, "b.py": "2" * 64})})
    two = Lock({"a": entry(), "b": entry()})
    assert text_of_lock(one) == text_of_lock(two)
    path = tmp_path / "models.lock.json"
    write_lock(path, one)
    before = path.stat()
    write_lock(path, two)
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_ino == before.st_ino
    assert text_of_lock(read_lock(path)) == text_of_lock(one)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"lock_version": 99, "models": {}}', '{"lock_version": 1, "models": {"a": {}}}']
)
def test_a_broken_lock_is_an_error_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "models.lock.json"
    path.write_text(text)
    with pytest.raises(SpecError, match="version control"):
        read_lock(path)
