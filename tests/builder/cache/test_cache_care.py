"""ls, gc and verify: what is old goes, what is wanted or in use stays, what is corrupt is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT, Run
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.files.digest import digest_of_bytes, digest_of_value
from tritonsmith.builder.base.files.object_store import ObjectStore, StoredObject, open_store
from tritonsmith.builder.base.text.quantities import (
    bytes_from_text,
    seconds_from_text,
    text_of_bytes,
    text_of_seconds,
)
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.cache.entry import entry_from_text, text_of_entry
from tritonsmith.builder.cache.listing import Listed, list_local, list_store
from tritonsmith.builder.cache.request_records import record_name
from tritonsmith.builder.cache.session import running_sessions
from tritonsmith.builder.cache.shared import SharedCache
from tritonsmith.builder.cache.sweep import Limits, choose, sweep_local, sweep_store
from tritonsmith.builder.cache.verify import verify_local, verify_store
from tritonsmith.builder.repository.lock import Lock, LockedModel, write_lock

DAY_S = 86400.0


def key(number: int) -> str:
    return digest_of_value(number)


def put(cache: Cache, number: int, size_bytes: int = 1000) -> None:
    with cache.workspace() as made:
        (made / "model.onnx").write_bytes(b"%d" % number * size_bytes)
        cache.put(key(number), made, {}, f"export m{number}")
    cache.remember(digest_of_value(["request", number]), ["m.py"], key(number))


def nothing(what: str, done: int, total: int | None) -> None:
    """No progress is shown."""


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY_S
    for below in (path, *path.rglob("*")):
        os.utime(below, (then, then))


def keys_in(cache: Cache) -> set[str]:
    return {listed.key for listed in list_local(cache.root)}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Four entries of a build that has ended, last used 40, 30, 20 and 10 days ago."""
    filled = Cache(tmp_path / "cache")
    for number in range(4):
        put(filled, number)
    filled.close()
    for number in range(4):
        age(filled.directory(key(number)), 40 - 10 * number)
    age(filled.root / "requests", 40)
    return Cache(filled.root)


def test_what_was_not_used_for_long_goes_and_its_request_with_it(cache: Cache) -> None:
    swept = sweep_local(cache, Limits(unused_s=25 * DAY_S), nothing)
    assert [e.what for e in swept.removed] == ["export m0", "export m1"]
    assert keys_in(cache) == {key(2), key(3)} and swept.kept == 2
    remembered = [bool(cache.remembered_here(digest_of_value(["request", n]))) for n in range(4)]
    assert remembered == [False, False, True, True]
    assert not list((cache.root / "tmp").iterdir())


def test_the_longest_unused_go_until_the_rest_fits(cache: Cache) -> None:
    size_bytes = sum(e.size_bytes for e in list_local(cache.root))
    limits = Limits(size_bytes=size_bytes * 6 // 10, keep=frozenset([key(0)]))
    told = sweep_local(cache, limits, nothing, dry_run=True)
    assert keys_in(cache) == {key(n) for n in range(4)}, "a dry run removes nothing"
    swept = sweep_local(cache, limits, nothing)
    assert [e.key for e in swept.removed] == [e.key for e in told.removed] == [key(1), key(2)]
    assert keys_in(cache) == {key(0), key(3)}, "what is to be kept stays, however old"


def test_reading_an_entry_makes_it_young(cache: Cache) -> None:
    assert Cache(cache.root).has(key(0))
    swept = sweep_local(cache, Limits(unused_s=25 * DAY_S), nothing)
    assert [e.key for e in swept.removed] == [key(1)]


def test_what_a_running_build_took_stays(cache: Cache) -> None:
    build = Cache(cache.root)
    artifact = build.get(key(0))
    assert artifact is not None and len(running_sessions(cache.root)) == 1
    swept = sweep_local(cache, Limits(size_bytes=0), nothing)
    assert keys_in(cache) == {key(0)} and swept.in_use == 1
    build.close()
    cache.close()
    sweep_local(cache, Limits(size_bytes=0), nothing)
    assert not keys_in(cache)


def test_an_entry_taken_as_it_is_removed_is_put_back(cache: Cache) -> None:
    (seen,) = (e for e in list_local(cache.root) if e.key == key(0))
    assert Cache(cache.root).has(key(0))
    assert not cache.remove(key(0), unused_since_s=seen.used_s)
    assert Cache(cache.root).has(key(0))


LEFT = """\
import os, sys
from pathlib import Path
from tritonsmith.builder.cache.cache import Cache
workspace = Cache(Path(sys.argv[1])).workspace()
(workspace.__enter__() / "half").write_bytes(b"x" * 5000)
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_build_left_goes_once_its_process_is_gone(cache: Cache) -> None:
    command = [sys.executable, "-c", LEFT, str(cache.root)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as build:
        assert build.stdout is not None and build.stdout.readline() == b"ready\n"
        assert sweep_local(cache, Limits(), nothing).rest == 0
        assert list((cache.root / "tmp").glob("*/half"))
        build.kill()
    swept = sweep_local(cache, Limits(), nothing)
    assert (swept.rest, swept.freed_bytes) == (1, 5000)
    assert not list((cache.root / "tmp").iterdir())


def listed(number: int, size_bytes: int, used_s: float) -> Listed:
    return Listed(key(number), None, size_bytes, used_s, used_s)


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100))),
    st.one_of(st.none(), st.integers(0, 500)),
    st.one_of(st.none(), st.integers(0, 100)),
    st.sets(st.integers(0, 10)),
    st.integers(0, 100),
)
def test_what_is_kept_or_in_use_is_never_chosen_and_what_may_go_does(
    entries: list[tuple[int, int]], size_bytes: int | None, unused_s: int | None, keep: set[int], since: int
) -> None:
    everything = [listed(n, size, used) for n, (size, used) in enumerate(entries)]
    limits = Limits(size_bytes, unused_s, frozenset(key(n) for n in keep))
    gone = choose(everything, limits, 100, since)
    assert not {e.key for e in gone} & limits.keep
    assert all(e.used_s < since for e in gone)
    left = [e for e in everything if e not in gone]
    may_go = [e for e in left if e.key not in limits.keep and e.used_s < since]
    if size_bytes is not None and may_go:
        assert sum(e.size_bytes for e in left) <= size_bytes
    if unused_s is not None:
        assert all(100 - e.used_s <= unused_s for e in may_go)
    if unused_s is None and size_bytes is None:
        assert not gone


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A shared cache in a directory: two whole entries, one without its manifest, all two days old."""
    url = str(tmp_path / "share")
    filled = Cache(tmp_path / "machine", SharedCache(url))
    for number in range(3):
        put(filled, number)
    store = open_store(url)
    store.delete([f"artifacts/{key(2)[:2]}/{key(2)}/artifact.json"])
    age(tmp_path / "share", 2)
    return store


def objects(store: ObjectStore) -> dict[str, StoredObject]:
    return {o.key: o for o in store.list()}


def test_gc_of_a_shared_cache_leaves_whole_entries_only(store: ObjectStore, tmp_path: Path) -> None:
    assert {e.what for e in list_store(store)} == {"export m0", "export m1", "(incomplete)"}
    store.put(f"artifacts/{key(2)[:2]}/{key(2)}/{key(9)}", b"an upload that runs now")
    limits = Limits(size_bytes=0, keep=frozenset([key(1)]))
    told = sweep_store(store, limits, nothing, dry_run=True)
    assert len(objects(store)) == 10
    swept = sweep_store(store, limits, nothing)
    assert [e.key for e in swept.removed] == [e.key for e in told.removed] == [key(0)]
    left = sorted(name.split("/")[2][:6] for name in objects(store) if name.count("/") == 3)
    request = digest_of_value(["request", 1])[:6]
    assert left == sorted([key(1)[:6], key(1)[:6], key(2)[:6], request])
    assert Cache(tmp_path / "other", SharedCache(store.url)).get(key(1)) is not None


def test_what_was_downloaded_or_put_a_moment_ago_stays_in_the_shared_cache(
    store: ObjectStore, tmp_path: Path
) -> None:
    manifest = f"artifacts/{key(0)[:2]}/{key(0)}/artifact.json"
    text = store.get(manifest)
    assert text is not None
    entry = entry_from_text(text, key(0))
    aged = replace(entry, created_s=entry.created_s - 2 * DAY_S)
    store.put(manifest, text_of_entry(aged).encode())
    age(tmp_path / "share", 2)
    put(Cache(tmp_path / "machine", SharedCache(store.url)), 5)
    assert Cache(tmp_path / "reader", SharedCache(store.url)).get(key(0)) is not None
    swept = sweep_store(store, Limits(size_bytes=0), nothing)
    assert [e.key for e in swept.removed] == [key(1)] and swept.in_use == 2


def test_verify_reads_every_byte_whatever_the_stat_says(cache: Cache) -> None:
    for number in range(4):
        assert cache.has(key(number))
    cache.stats.save()
    file = cache.directory(key(1)) / "model.onnx"
    cache.stats.learn(file, digest_of_bytes(file.read_bytes()))
    flipped = bytearray(file.read_bytes())
    flipped[7] ^= 1
    file.write_bytes(flipped)
    cache.stats.learn(file, digest_of_bytes(b"1" * 1000))
    assert cache.has(key(1)), "the stat cache believes it"
    (cache.directory(key(2)) / "artifact.json").write_text("{")
    verified = verify_local(cache, nothing)
    assert verified.entries == 4
    assert {(c.listed.key, c.why.split()[0]) for c in verified.corrupt} == {
        (key(1), "model.onnx"),
        (key(2), "artifact.json"),
    }
    assert keys_in(cache) == {key(0), key(3)} and not verify_local(cache, nothing).corrupt


def test_verify_of_a_shared_cache(store: ObjectStore, tmp_path: Path) -> None:
    machine = Cache(tmp_path / "checker")
    assert verify_store(store, machine, nothing, remove=True).corrupt == ()
    store.put(f"artifacts/{key(1)[:2]}/{key(1)}/{digest_of_bytes(b'1' * 1000)}", b"short")
    (corrupt,) = verify_store(store, machine, nothing, remove=False).corrupt
    assert (corrupt.listed.key, corrupt.why) == (key(1), "model.onnx does not match its digest")
    assert len(verify_store(store, machine, nothing, remove=True).corrupt) == 1
    assert {e.key for e in list_store(store)} == {key(0), key(2)}


@pytest.mark.nightly
def test_the_command_line(cache: Cache, store: ObjectStore, tmp_path: Path, tritonsmith: Run) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        done = tritonsmith("cache", *arguments, TRITONSMITH_CACHE=str(cache.root))
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    told = run("ls")
    assert "export m3" in told and "4 entries, " in told and "10 d" in told
    rows = json.loads(run("ls", "--remote", "--remote-cache", store.url, "--format", "json"))
    assert {r["what"] for r in rows} == {"export m0", "export m1", "(incomplete)"}
    fields: dict[str, Any] = {
        "parameters": {},
        "tools": {},
        "dependencies": {},
        "config": {},
        "files": {},
        "accuracy": {},
    }
    made: dict[str, Any] = {"parameters": {}, "tools": {}}
    fp16: Any = {**made, "key": key(3), "dependencies": {}, "accuracy": {}}
    fp16["engines"] = {"9.0": {**made, "key": key(1)}}
    locked = LockedModel(key=key(0), variants={"fp16": fp16}, **fields)
    write_lock(tmp_path / "models.lock.json", Lock({"m": locked}))
    told = run("gc", "--max-size", "0", "--keep-lock", "models.lock.json")
    assert "export m2" in told and "1 entries" in told and "3 entries kept" in told
    (cache.directory(key(1)) / "model.onnx").write_bytes(b"damaged")
    assert "1 corrupt and removed" in run("verify", code=1)
    assert "all whole" in run("verify")
    assert "valid: 500MB, 20GiB" in run("gc", "--max-size", "much", code=2)
    assert "valid: 90min, 12h" in run("gc", "--older-than", "30", code=2)
    assert "no nowhere.json" in run("gc", "--keep-lock", "nowhere.json", code=2)
    assert "no remote cache is named" in run("ls", "--remote", code=2)
    assert "no shared cache at" in run("verify", "--remote", "--remote-cache", "nowhere", code=3)
    shutil.rmtree(cache.root)
    assert "0 entries" in run("ls") and "0 entries" in run("gc", "--older-than", "1d")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("20GiB", 20 * 2**30), ("1.5 TB", 1_500_000_000_000), ("500mb", 500_000_000), ("2G", 2**31)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert bytes_from_text(text, "--max-size") == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 30 * DAY_S), ("12h", 43200), ("90 min", 5400), ("2w", 14 * DAY_S)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_from_text(text, "--older-than") == seconds


@pytest.mark.parametrize("text", ["", "d", "-3d", "3 years", "1e3s", "30"])
def test_what_is_no_duration_names_the_flag_and_what_would_do(text: str) -> None:
    with pytest.raises(UsageError, match="--older-than: not a duration"):
        seconds_from_text(text, "--older-than")


def test_quantities_read_well() -> None:
    assert [text_of_bytes(b) for b in (0, 1023, 1024, 3.4 * 2**30)] == ["0 B", "1023 B", "1.0 KiB", "3.4 GiB"]
    assert [text_of_seconds(s) for s in (-1, 59, 60, 7200, 3 * DAY_S)] == [
        "0 s",
        "59 s",
        "1 min",
        "2 h",
        "3 d",
    ]


def test_a_requests_record_name_has_no_room_for_a_path() -> None:
    name = str(record_name(["../../x", "/etc/passwd"], key(1)))
    assert "/" not in name
