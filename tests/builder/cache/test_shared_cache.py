"""The cache that machines share: found by others, whole or not there, healed, and never the reason that a build fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import onnx_models
from tests.conftest import ROOT, Run
from tests.failing_proxy import failing_proxy
from tests.mounts import can_mount
from tritonsmith.builder.actions.action import Artifact
from tritonsmith.builder.base.errors import ToolError, UsageError
from tritonsmith.builder.base.files.digest import digest_of_bytes, digest_of_value
from tritonsmith.builder.base.files.object_store import open_store
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.cache.shared import SharedCache

KEY = digest_of_value("a key")
REQUEST = digest_of_value("a request")
SHARD = f"artifacts/{KEY[:2]}/{KEY}"


def home(tmp_path: Path, name: str, url: str, *, writable: bool = True) -> Cache:
    """The cache of a machine of its own."""
    return Cache(tmp_path / name, SharedCache(url, writable=writable))


def put(cache: Cache, content: bytes = b"model", key: str = KEY) -> Artifact:
    with cache.workspace() as made:
        (made / "sub").mkdir()
        (made / "sub" / "model.onnx").write_bytes(content)
        (made / "copy.onnx").write_bytes(content)
        (made / "empty").write_bytes(b"")
        return cache.put(key, made, {"opset": 20}, "export m")


def content(artifact: Artifact | None) -> bytes:
    assert artifact is not None
    assert set(artifact.files) == {"sub/model.onnx", "copy.onnx", "empty"}
    assert dict(artifact.record) == {"opset": 20}
    return (artifact.directory / "sub" / "model.onnx").read_bytes()


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/team a"
    return str(tmp_path / "share")


def test_what_one_machine_put_another_finds(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = home(tmp_path, "one", url), home(tmp_path, "two", url, writable=False)
    assert not one.has(KEY) and one.get(KEY) is None and list(one.remembered(REQUEST)) == []
    put(one)
    one.remember(REQUEST, {"m.py": "1", "a.py": "2"}, KEY)
    assert two.has(KEY) and not two.has_here(KEY), "asking copies nothing"
    assert list(two.remembered(REQUEST)) == [("a.py", "m.py")]
    assert content(two.get(KEY)) == b"model"
    offline = Cache(tmp_path / "two")
    assert content(offline.get(KEY)) == b"model"
    assert not warnings(capsys) and not list((tmp_path / "two" / "tmp").iterdir())


def test_a_read_only_machine_adds_nothing(tmp_path: Path, url: str) -> None:
    put(home(tmp_path, "one", url))
    store = open_store(url)
    before = [o.key for o in store.list()]
    untrusted = home(tmp_path, "two", url, writable=False)
    other = digest_of_value("another key")
    put(untrusted, key=other)
    untrusted.remember(REQUEST, ["m.py"], other)
    assert [o.key for o in store.list()] == before
    assert not (tmp_path / "two" / "owed").exists()
    assert not home(tmp_path, "three", url).has(other)


DAMAGES = {
    "truncated": lambda store: store.put(f"{SHARD}/{digest_of_bytes(b'model')}", b"mod"),
    "bit flip": lambda store: store.put(f"{SHARD}/{digest_of_bytes(b'model')}", b"mOdel"),
    "missing file": lambda store: store.delete([f"{SHARD}/{digest_of_bytes(b'model')}"]),
    "half a manifest": lambda store: store.put(
        f"{SHARD}/artifact.json", store.get(f"{SHARD}/artifact.json")[:80]
    ),
    "a bit flip in the manifest": lambda store: store.put(
        f"{SHARD}/artifact.json", store.get(f"{SHARD}/artifact.json").replace(b'"opset": 20', b'"opset": 21')
    ),
    "a manifest that leads outside": lambda store: store.put(
        f"{SHARD}/artifact.json",
        store.get(f"{SHARD}/artifact.json")
        .replace(b"sub/model.onnx", b"../../../outside")
        .replace(b'"digest"', b'"no digest"'),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_a_miss_with_one_warning_and_the_next_put_heals_it(
    tmp_path: Path, bucket: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home(tmp_path, "one", bucket))
    DAMAGES[damage](open_store(bucket))
    two = home(tmp_path, "two", bucket)
    assert two.get(KEY) is None and two.get(KEY) is None and not two.has(KEY)
    told = warnings(capsys)
    assert len(told) == 1 and "corrupt" in told[0] and bucket in told[0], told
    assert not list(tmp_path.rglob("outside"))
    put(two)
    assert content(home(tmp_path, "three", bucket).get(KEY)) == b"model"
    assert not warnings(capsys)


def test_a_local_entry_that_is_damaged_comes_anew_from_the_shared_cache(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = put(home(tmp_path, "one", url))
    (one.directory / "copy.onnx").write_bytes(b"mOdel")
    assert content(home(tmp_path, "one", url).get(KEY)) == b"model"
    assert len(warnings(capsys)) == 1


def test_what_is_whole_and_not_what_its_key_stands_for_is_replaced_everywhere(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home(tmp_path, "one", url), b"another engine")
    two = home(tmp_path, "two", url)
    assert content(two.get(KEY)) == b"another engine"
    two.refuse(KEY, "it is for another GPU")
    assert "it is for another GPU" in warnings(capsys)[0]
    assert not two.has(KEY) and two.get(KEY) is None
    put(two, b"the engine")
    assert content(two.get(KEY)) == b"the engine"
    assert content(home(tmp_path, "three", url).get(KEY)) == b"the engine"


def test_two_machines_that_put_other_bytes_under_one_key_leave_one_of_them(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = threading.Barrier(4)

    def machine(number: int) -> bytes:
        cache = home(tmp_path, f"machine {number}", url)
        start.wait()
        return content(put(cache, b"engine %d" % number * 1000))

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(machine, range(4)))
    assert len(set(made)) == 4, "each goes on with its own"
    assert content(home(tmp_path, "reader", url).get(KEY)) in made
    assert not warnings(capsys)


def test_threads_share_one_cache(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [digest_of_value(n) for n in range(6)]
    one, two = home(tmp_path, "one", url), home(tmp_path, "two", url)

    def work(key: str) -> None:
        put(one, key.encode(), key)
        one.remember(REQUEST, [key], key)
        assert content(two.get(key)) == key.encode()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, keys * 4))
    assert not warnings(capsys)
    assert sorted(home(tmp_path, "three", url).remembered(REQUEST)) == sorted((key,) for key in keys)


def _run(cache: Cache) -> None:
    """What a build does: it looks, makes, and hands on."""
    is_known = any(cache.has(KEY) for _ in cache.remembered(REQUEST))
    artifact = cache.get(KEY) if is_known else None
    if artifact is None:
        artifact = put(cache)
        cache.remember(REQUEST, ["m.py"], KEY)
    assert content(artifact) == b"model"


@pytest.mark.slow
@pytest.mark.parametrize("how", [pytest.param("503", marks=pytest.mark.nightly), "drop"])
def test_a_store_that_fails_at_any_call_is_one_warning(
    tmp_path: Path,
    bucket: str,
    s3_url: str,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with failing_proxy(s3_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        _run(home(tmp_path, "count", f"{bucket}/count"))
        calls = len(proxy.requests)
        assert calls >= 7, proxy.requests
        # s3fs tries a dropped connection five times, for seconds: one of them will do.
        for first in range(1, calls + 1) if how == "503" else (calls // 2,):
            url = f"{bucket}/{how}-{first}"
            proxy.fail_from(first, how)  # type: ignore[arg-type]
            _run(home(tmp_path, f"{how}-{first}", url))
            told = warnings(capsys)
            assert len(told) == 1 and "cannot be used" in told[0], (first, told)
            proxy.heal()
            _run(home(tmp_path, f"{how}-{first}", url))
            again = home(tmp_path, f"{how}-{first}-other", url)
            assert list(again.remembered(REQUEST)) == [("m.py",)], first
            assert content(again.get(KEY)) == b"model" and not warnings(capsys)


def test_a_store_that_fails_while_another_machine_reads_is_a_miss(
    tmp_path: Path,
    bucket: str,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _run(home(tmp_path, "one", bucket))
    with failing_proxy(s3_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        for first in range(1, 6):
            proxy.fail_from(first)
            _run(home(tmp_path, f"reader {first}", bucket))
            assert len(warnings(capsys)) == 1, first
        proxy.fail_from(5, "cut", ("GET",))
        _run(home(tmp_path, "cut", bucket))
        assert len(warnings(capsys)) == 1
        proxy.heal()
        _run(home(tmp_path, "last", bucket))
        assert not warnings(capsys)


def test_a_store_that_may_only_be_read_is_still_read(
    tmp_path: Path,
    bucket: str,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(home(tmp_path, "one", bucket))
    with failing_proxy(s3_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.fail_from(1, "403", ("PUT",))
        two = home(tmp_path, "two", bucket)
        other = digest_of_value("another key")
        put(two, key=other)
        two.remember(REQUEST, ["m.py"], other)
        told = warnings(capsys)
        assert len(told) == 1 and "--remote-cache-read-only" in told[0]
        assert content(two.get(KEY)) == b"model"
        proxy.heal()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    home(tmp_path, "two", bucket).get(KEY)
    three = home(tmp_path, "three", bucket)
    assert content(three.get(other)) == b"model", "what was owed is given by the next run"
    assert list(three.remembered(REQUEST)) == [("m.py",)]
    assert not list((tmp_path / "two" / "owed").rglob("*.*")) and not warnings(capsys)


PUT = """\
import sys
from tests.builder.cache.test_shared_cache import home, put
from pathlib import Path
put(home(Path(sys.argv[1]), "killed", sys.argv[2]))
"""


def test_a_build_killed_in_the_middle_of_an_upload_leaves_nothing_that_anyone_sees(
    tmp_path: Path,
    bucket: str,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with failing_proxy(s3_url) as proxy:
        proxy.fail_from(2, "stall", ("PUT",))
        command = [sys.executable, "-c", PUT, str(tmp_path), bucket]
        environment = {**os.environ, "AWS_ENDPOINT_URL": proxy.url, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, env=environment, cwd=ROOT) as child:
            assert proxy.stalled.wait(60)
            child.kill()
        assert child.returncode == -signal.SIGKILL
    assert not home(tmp_path, "other", bucket).has(KEY), "without its manifest there is no entry"
    again = home(tmp_path, "killed", bucket)
    assert content(again.get(KEY)) == b"model"
    assert content(home(tmp_path, "third", bucket).get(KEY)) == b"model", "the next run gave what was owed"
    assert not warnings(capsys)
    assert len(list((tmp_path / "killed" / "running").iterdir())) == 1, "the killed one's claim is gone"


def test_what_was_read_ahead_is_not_asked_again(
    tmp_path: Path, bucket: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {digest_of_value([n]): digest_of_value(n) for n in range(40)}
    one = home(tmp_path, "one", bucket)
    for request, key in list(keys.items())[:30]:
        put(one, key=key)
        one.remember(request, ["m.py"], key)
    with failing_proxy(s3_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        two = home(tmp_path, "two", bucket)
        two.prefetch(list(keys), lambda request, names: keys[request])
        listings = [r for r in proxy.requests if "list-type" in r]
        assert len(listings) == 1 and len(proxy.requests) <= 2 + 30 + 30, proxy.requests
        proxy.heal()
        assert sum(any(two.has(key) for _ in two.remembered(r)) for r, key in keys.items()) == 30
        assert proxy.requests == []


def test_a_store_of_another_format_is_left_alone(
    tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(bucket)
    store.put("tritonsmith-cache.json", b'{"format": 99}')
    assert content(put(home(tmp_path, "one", bucket))) == b"model"
    assert len(warnings(capsys)) == 1 and len(store.list()) == 1


def test_a_wrong_address_is_an_error_before_anything_is_built() -> None:
    with pytest.raises(UsageError, match="not the address"):
        SharedCache("ftp://host/x")
    with pytest.raises(ToolError, match="tritonsmith\\[az\\]"):
        SharedCache("az://container/x")


SPEC = """\
models:
  m:
    source: {onnx: m.onnx}
    max_batch_size: 4
    variants:
      fp32: {}
      fp16: {precision: fp16}
    serve: fp16
    accuracy: {cosine: 0.9}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text(SPEC)
    return tmp_path


def test_what_one_home_built_another_neither_exports_nor_converts(
    project: Path, tritonsmith: Run, bucket: str
) -> None:
    def at(name: str, *arguments: str) -> dict[str, object]:
        done = tritonsmith(*arguments, "--format", "json", TRITONSMITH_CACHE=str(project / name))
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr
        result: dict[str, object] = json.loads(done.stdout)
        return result

    def actions(name: str) -> int:
        """Each action keeps its log in the cache of the machine that ran it."""
        return len(list((project / name / "logs").glob("*")))

    at("one", "build", "--remote-cache", bucket)
    assert actions("one") >= 2, "an export and a conversion at least"
    (project / "models.lock.json").unlink()
    planned = at("two", "plan", "--remote-cache", bucket, "--remote-cache-read-only")
    states = {a["action"]: a["state"] for a in planned["actions"]}  # type: ignore[attr-defined]
    assert (states["export"], states["convert"]) == ("cached", "cached")
    assert not list((project / "two").rglob("*.onnx")), "a plan copies nothing"
    built = at("two", "build", "-r", "other", "--remote-cache", bucket)
    assert [m["action"] for m in built["models"]] == ["from cache"]  # type: ignore[attr-defined]
    assert actions("two") == 0
    laid_out = [
        sorted(p.read_bytes() for p in (project / r).rglob("*.onnx")) for r in ("model_repository", "other")
    ]
    assert laid_out[0] == laid_out[1] != []


def test_a_build_goes_on_when_its_remote_cache_cannot_be_reached(
    project: Path, tritonsmith: Run, bucket: str
) -> None:
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = tritonsmith("build", TRITONSMITH_REMOTE_CACHE=bucket, **away)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning") == 1
    assert f"the shared cache {bucket} cannot be used" in done.stderr
    again = tritonsmith("build", TRITONSMITH_REMOTE_CACHE=bucket)
    assert "nothing to do" in again.stdout and "what an earlier run could not" in again.stderr
    listed = tritonsmith("cache", "ls", "--remote", "--remote-cache", bucket, "--format", "json")
    assert {e["what"] for e in json.loads(listed.stdout)} == {"export m", "rows of m", "convert m/fp16"}
    wrong = tritonsmith("build", "--remote-cache", "ftp://x/y")
    assert (wrong.returncode, "not the address" in wrong.stderr) == (2, True)
    missing = tritonsmith("plan", "--remote-cache", "gs://bucket/x")
    assert (missing.returncode, "tritonsmith[gs]" in missing.stderr) == (3, True)


GET = """\
import sys
from pathlib import Path
from tests.builder.cache.test_shared_cache import KEY, home
try:
    print(home(Path(sys.argv[1]), "cache", sys.argv[2]).get(KEY))
except OSError as error:
    print("OSError", error.errno)
"""


@pytest.mark.skipif(not can_mount(), reason="needs unshare and a mount of its own")
@pytest.mark.parametrize(("options", "errno"), [("size=100k", 28), ("ro", 30)])
def test_a_local_disk_that_is_full_or_read_only_is_not_blamed_on_the_store(
    tmp_path: Path, options: str, errno: int
) -> None:
    url = str(tmp_path / "share")
    put(home(tmp_path, "one", url), b"m" * 300_000)
    (tmp_path / "small").mkdir()
    script = 'mount -t tmpfs -o "$1" none "$2" && "$3" -c "$4" "$2" "$5"; ls -A "$2/cache/tmp"'
    done = subprocess.run(
        [
            "unshare",
            "-Urm",
            "sh",
            "-c",
            script,
            "sh",
            options,
            str(tmp_path / "small"),
            sys.executable,
            GET,
            url,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"OSError {errno}\n", done.stdout + done.stderr
    assert "warning" not in done.stderr
    assert content(home(tmp_path, "other", url).get(KEY)) == b"m" * 300_000
