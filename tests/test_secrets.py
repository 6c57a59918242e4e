"""What nobody else may read (the environment, headers, addresses with passwords) stays off command lines and out of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import psutil
import pytest

from tests import onnx_models
from tests.conftest import ROOT
from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import ServerError, UsageError
from tritonsmith.builder.base.files.store_url import check_store_url
from tritonsmith.builder.base.text.shown import without_secrets
from tritonsmith.builder.publish.provenance import spec_origin
from tritonsmith.builder.spec.spec import load_spec
from tritonsmith.perf.commands.load.flags import headers_from_flags
from tritonsmith.perf.server.process.process import GuardedProcess
from tritonsmith.perf.server.spec import kind_from_text
from tritonsmith.perf.wire.grpc import GrpcTarget
from tritonsmith.perf.wire.http import HttpTarget

SECRET = "hunter2-a1b2c3"
# Longer than one argument may be (128 KiB), as no single variable may: three of them.
LONG = {f"TRITONSMITH_TEST_LONG_{i}": f"{SECRET}{'x' * 100_000}" for i in range(3)}


def seen_of(process: psutil.Process) -> set[str]:
    """The command lines of all below a process, until it ends."""
    lines: set[str] = set()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        for child in [process, *process.children(recursive=True)]:
            try:
                lines.add(" ".join(child.cmdline()))
            except psutil.Error:
                continue
        time.sleep(0.1)
    return lines


def contents(directory: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file below, those inside archives too."""
    for path in (p for p in directory.rglob("*") if p.is_file() and not p.is_symlink()):
        yield str(path), path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{path}:{name}", archive.read(name)) for name in archive.namelist())


def run(arguments: list[str], directory: Path) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    environment = {
        **os.environ, **LONG, "SECRET": SECRET, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory / "tmp"),
        "TRITONSMITH_CACHE": str(directory / "cache"),
    }  # fmt: skip
    (directory / "tmp").mkdir(exist_ok=True)
    with (directory / "out").open("w") as out, (directory / "err").open("w") as err:
        process = psutil.Popen(
            [sys.executable, "-m", "tritonsmith", *arguments],
            cwd=directory,
            env=environment,
            stdout=out,
            stderr=err,
        )
        lines = seen_of(process)
    told = (directory / "out").read_text(), (directory / "err").read_text()
    return subprocess.CompletedProcess(arguments, process.wait(), *told), lines


def assert_nowhere(directory: Path, lines: set[str]) -> None:
    assert [line for line in lines if SECRET in line] == []
    assert [name for name, content in contents(directory) if SECRET.encode() in content] == []


@pytest.mark.server
def test_a_build_and_a_served_load_test_leave_no_trace_of_the_environment(tmp_path: Path) -> None:
    onnx.save(onnx_models.affine(["b", 1]), str(tmp_path / "good.onnx"))
    (tmp_path / "models.yaml").write_text("models:\n  good:\n    source: {onnx: good.onnx}\n")
    built, lines = run(["build"], tmp_path)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "models.lock.json").is_file() and any("builder." in line for line in lines)
    assert_nowhere(tmp_path, lines)

    asked = ["-m", "good", "--duration", "200ms", "--warmup", "0s", "-o", "run.npz"]
    loaded, lines = run(["load", "model_repository", *asked], tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    assert any("guard.py" in line for line in lines) and any("tritonserver" in line for line in lines)
    assert_nowhere(tmp_path, lines)


def test_the_guard_gets_a_long_environment_through_its_pipe(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os, time; print(sum(map(len, os.environ.values())), flush=True); time.sleep(60)"
    process = GuardedProcess(
        [sys.executable, "-c", code],
        env={**LONG, "SECRET": SECRET},
        log_path=log,
        work_dir=tmp_path,
        patience_s=0,
    )
    try:
        while not log.read_text():
            time.sleep(0.01)
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        assert process.pid in {p.pid for p in family}
        assert not [p for p in family if SECRET in " ".join(p.cmdline())]
    finally:
        process.stop()
    assert int(log.read_text()) > 300_000
    assert_nowhere(tmp_path, set())


def test_an_environment_that_no_process_can_have_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError) as caught:
        GuardedProcess(
            ["/bin/true"],
            env={"SECRET": SECRET, "LONG": "x" * 300_000},
            log_path=tmp_path / "log",
            work_dir=tmp_path,
            patience_s=0,
        )
    assert caught.value.code == "server_not_started" and "128 KiB" in str(caught.value.fix)
    assert SECRET not in str(caught.value)


def test_headers_of_a_file_reach_the_server_and_no_record(tmp_path: Path) -> None:
    (tmp_path / "headers").mkdir()
    file = tmp_path / "headers" / "token"
    file.write_text(f"Authorization: Bearer {SECRET}\n\nX-Tenant: t\n")
    assert headers_from_flags([f"@{file}", "A: b"]) == {
        "Authorization": f"Bearer {SECRET}", "X-Tenant": "t", "A": "b",
    }  # fmt: skip
    with fake_server(require_header=("authorization", f"Bearer {SECRET}")) as server:
        (tmp_path / "run").mkdir()
        asked = ["-m", "m", "--requests", "20", "--processes", "2", "-o", "run.npz"]
        done, lines = run(["load", server.url, "-H", f"@{file}", *asked], tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert_nowhere(tmp_path / "run", lines)


@pytest.mark.parametrize("flag", [f"Bearer {SECRET}", f": {SECRET}", "@/no/such/file"])
def test_a_header_that_is_none_is_not_shown(flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        headers_from_flags([flag])
    assert caught.value.code == "bad_header" and SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        f"s3://AKIA:{SECRET}@bucket/prefix",
        f"s3://AKIA:ab/{SECRET}@bucket",
        f"abfs://account:{SECRET}@container/x",
        f"az://container/x?sv=2022&sig={SECRET}",
        f"gs://bucket/x?X-Goog-Signature={SECRET}",
    ],
)
def test_a_store_is_not_named_with_its_secret(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_store_url(address)
    assert caught.value.code == "secret_in_address" and SECRET not in json.dumps(caught.value.as_dict())


@pytest.mark.parametrize("make", [HttpTarget, GrpcTarget, kind_from_text], ids=["http", "grpc", "attached"])
@pytest.mark.parametrize(
    "place", [f"me:{SECRET}@host:8000", f"{SECRET}@host:8000", f"host:8000/?token={SECRET}"]
)
def test_a_server_is_not_named_with_a_secret(make: object, place: str) -> None:
    assert callable(make)
    with pytest.raises(UsageError) as caught:
        make(f"http://{place}")
    assert caught.value.code == "secret_in_address" and SECRET not in str(caught.value)


def test_the_record_of_a_publication_tells_no_remote(tmp_path: Path) -> None:
    onnx.save(onnx_models.affine(["b", 1]), str(tmp_path / "good.onnx"))
    spec = tmp_path / "models.yaml"
    spec.write_text("models:\n  good:\n    source: {onnx: good.onnx}\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x"]
    for arguments in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://x:{SECRET}@host/a.git"],
        ["add", "models.yaml"],
        ["commit", "-qm", "m"],
    ):
        subprocess.run([*git, *arguments], check=True)
    origin = spec_origin(load_spec(spec))
    assert origin.commit is not None and SECRET not in repr(origin)


SHOWN = [
    "http://127.0.0.1:8000/v2/models/a@b",
    "https://host/x?page=2",
    "abfs://container@account.dfs.core.windows.net/x",
    "file:///tmp/a:b@c",
    "s3://bucket/a@b",
    "mail@example.org: nothing",
]


@pytest.mark.parametrize("text", SHOWN)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"cannot reach https://k:{SECRET}@minio:9000/b now", "cannot reach https://***@minio:9000/b now"),
        (f"https://x-access-token:{SECRET}@github.com/a/b.git", "https://***@github.com/a/b.git"),
        (f"'https://b.s3.amazonaws.com/k?X-Amz-Signature={SECRET}&n=1'", "'https://b.s3.amazonaws.com/k?X-Amz-Signature=***&n=1'"),
        (f"sent Authorization: Bearer {SECRET}", "sent Authorization: Bearer ***"),
    ],
)  # fmt: skip
def test_what_others_say_is_shown_without_its_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
