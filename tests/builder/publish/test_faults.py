"""Publishing that is killed, refused and cut off: what is served is always whole, and the next run succeeds."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.builder.publish.projects import Project, two_builds
from tests.failing_proxy import failing_proxy
from tests.faults import check_destination, check_directory, kill_publishes
from tritonsmith.builder.base.errors import TritonsmithError

_KILLS = 20


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    kills = kill_publishes(tmp_path, times=_KILLS, seed=6)
    assert kills.times == _KILLS and kills.first_publishes > 0
    assert kills.states_seen > 2, "the kills hit publishes that got somewhere"


@pytest.mark.nightly
@pytest.mark.slow
def test_an_error_of_s3_at_each_call(
    bucket: str, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing_proxy(s3_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        first, second = two_builds(tmp_path, f"{bucket}/proxied", models=("m",))
        assert not first.publish(keep=2).errors
        proxy.heal()
        assert not second.publish(keep=2).errors
        calls = len(proxy.requests)
        assert calls > 12
        told: list[str] = []
        for number in range(1, calls + 1):
            project, scale = (first, "2.0") if number % 2 else (second, "3.0")
            proxy.fail_from(number, "403")
            try:
                told += [e.code for e in project.publish(keep=2).errors]
            except TritonsmithError as error:
                told.append(error.code)
            proxy.heal()
            served = check_destination(project.destination)
            assert served["m"], f"nothing is served after an error at call {number}"
            assert not project.publish(keep=2).errors, "the next run succeeds"
            assert project.labels("m") == scale
        assert set(told) == {"store"} and len(told) > calls // 2, "the last calls only clean up"


_FULL = """
import subprocess, sys
from pathlib import Path
from tests.builder.publish.projects import Project, two_builds
from tests.faults import check_directory
small, large, mount = map(Path, sys.argv[1:])
published = mount / "models"
assert not Project(small, str(published)).publish().errors
(failed,) = Project(large, str(published)).publish().models
assert failed.error is not None and failed.error.code == "disk", failed
print(failed.error)
assert check_directory(published) == {"m": (1,)}
assert [p.name for p in mount.iterdir()] == ["models"], "nothing half-written is left beside it"
subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
try:
    Project(large, str(published)).publish()
except OSError as error:
    print(error)
assert check_directory(published) == {"m": (1,)}
subprocess.run(["mount", "-o", "remount,rw,size=8m", str(mount)], check=True)
assert not Project(large, str(published)).publish().errors
assert check_directory(published) == {"m": (2,)}
try:
    Project(large, str(mount)).publish()
except Exception as error:
    print(error)
"""


def test_a_full_disk_and_a_read_only_one(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    probe = subprocess.run(["unshare", "-Urm", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True)
    if probe.returncode:
        pytest.skip("no right to mount in a namespace of one's own")
    for name, size in (("small", 10), ("large", 1 << 20)):
        project = Project(tmp_path / name, "")
        project.root.mkdir()
        project.write({"m": 2.0})
        (project.root / "sources" / "m" / "labels.txt").write_text("x" * size)
        project.build()
    small, large = str(tmp_path / "small"), str(tmp_path / "large")
    script = 'mount -t tmpfs -o size=400k none "$1" && exec "$2" -c "$3" "$4" "$5" "$1"'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", str(mount), sys.executable, _FULL, small, large],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left" in done.stdout and "Read-only file system" in done.stdout
    assert "is the root of a file system" in done.stdout and "file://" in done.stdout


def test_two_publishers_of_a_directory_wait_for_each_other(tmp_path: Path) -> None:
    first, second = two_builds(tmp_path, str(tmp_path / "published"))
    failures: list[object] = []

    def run(project: Project) -> None:
        failures.extend(project.publish().errors)

    threads = [threading.Thread(target=run, args=(p,)) for p in (first, second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    served = check_directory(tmp_path / "published")
    assert served in ({"m": (2,), "other": (2,)}, {"m": (3,), "other": (3,)})


@pytest.mark.parametrize("again", ["sent again", pytest.param("given up", marks=pytest.mark.slow)])
def test_a_put_that_came_through_though_its_answer_did_not(
    bucket: str, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    with failing_proxy(s3_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        first, second = two_builds(tmp_path, f"{bucket}/lost", models=("m",))
        first.publish()
        proxy.fail_from(10**9, methods=("PUT",))
        assert not second.publish().errors
        claim, config = 1, len(proxy.requests)
        assert proxy.requests[claim - 1].endswith("claim.json") and proxy.requests[-1].endswith(
            "config.pbtxt"
        )
        for project, scale, put in ((first, "2.0", config), (second, "3.0", claim)):
            if again == "sent again":
                proxy.fail_once(put, "lost", methods=("PUT",))
            else:
                proxy.fail_from(put, "lost", methods=("PUT",))
            (done,) = project.publish().models
            if again == "sent again":
                assert done.error is None, "the client tried once more, and found what it had written"
            proxy.heal()
            check_destination(project.destination)
            assert not project.publish().errors and project.labels("m") == scale
            check_destination(project.destination)
