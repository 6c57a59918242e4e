"""A job on a real Ray cluster of this machine: the same output as the local run, whatever its rows do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.perf.batch.jobs import ask, job_on, write_rows
from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import TritonsmithError, UsageError
from tritonsmith.perf.batch.job import run_batch
from tritonsmith.perf.batch.ray_job import RayPlace, ray_address, run_batch_on_ray

RAY = "ray"


def test_an_executor_that_is_none_is_refused() -> None:
    assert ray_address("ray") is None and ray_address("ray:10.0.0.1:6379") == "10.0.0.1:6379"
    with pytest.raises(UsageError):
        ray_address("dask")


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_output_is_that_of_the_local_run_with_poisoned_and_bad_rows_in_it(tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    rows = [*map(ask, range(1500)), ask(3), '{"no": "json"', *map(ask, range(1500, 2000))]
    local, on_ray = tmp_path / "local", tmp_path / "ray"
    local.mkdir()
    on_ray.mkdir()
    with fake_server(refuse_value=42.0, error_every=50, drop_every=70) as server:
        here = run_batch(job_on(server, local, rows, skip_bad=True))
        there = run_batch_on_ray(job_on(server, on_ray, rows, skip_bad=True), RayPlace(most_actors=2))
    assert (here.answered, here.failed) == (there.answered, there.failed) == (1999, 3)
    assert there.failures == here.failures == {"bad_line": 2, "request_refused": 1} and there.executor == RAY
    for name in ("out.jsonl", "out.errors.jsonl"):
        assert (local / name).read_bytes() == (on_ray / name).read_bytes()


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_job_that_a_cluster_lost_goes_on_locally_or_on_another(tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    with fake_server() as server:
        rows = [ask(number) for number in range(3000)]
        job = job_on(server, tmp_path, rows)
        server.behaviour.infer_status = 403
        with pytest.raises(TritonsmithError) as lost:
            run_batch_on_ray(job, RayPlace())
        assert lost.value.code == "not_allowed" and (tmp_path / "out.jsonl.journal").exists()
        server.behaviour.infer_status = 0
        assert run_batch_on_ray(job, RayPlace()).answered == 3000


# Kills.

_ROWS = 4000


def _commands_below(pid: int) -> dict[int, str]:
    """Of the processes that this one or its children started: pid → its first word, or the title it gave itself."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
            above = int(directory.name)
            while above > 1 and above != pid:
                above = int(Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # it has ended meanwhile
            continue
        if above == pid:
            found[int(directory.name)] = words[0].decode(errors="replace")
    return found


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["actor", "node", "driver"])
def test_after_a_kill_the_output_is_the_local_runs_byte_for_byte(tmp_path: Path, victim: str) -> None:
    """kill -9 in mid-job. Ray makes an actor anew, and the job goes on; after the others the same command does."""
    pytest.importorskip("ray.data")
    local, on_ray = tmp_path / "local", tmp_path / "ray"
    local.mkdir()
    on_ray.mkdir()
    with fake_server(refuse_value=42.0) as server:
        run_batch(job_on(server, local, map(ask, range(_ROWS))))
        server.values_seen.clear()
        server.behaviour.delay_s = 0.1
        write_rows(on_ray / "in.jsonl", map(ask, range(_ROWS)))
        command = [
            *(sys.executable, "-m", "tritonsmith", "batch", str(on_ray / "in.jsonl"), "-q"),
            *("-o", str(on_ray / "out.jsonl"), "--url", server.url, "--in-flight", "2"),
            *("--executor", "ray", "--ray-actors", "2"),
        ]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        journal = on_ray / "out.jsonl.journal"
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 300):
            time.sleep(0.05)
        commands = _commands_below(process.pid)
        pids = {
            "actor": [pid for pid, command in commands.items() if command.startswith("ray::MapWorker")],
            "node": [pid for pid, command in commands.items() if command.endswith("/raylet/raylet")],
            "driver": [process.pid],
        }[victim]
        assert pids, commands
        os.kill(pids[0], signal.SIGKILL)
        server.behaviour.delay_s = 0.01
        _, told = process.communicate(timeout=240)
        assert "Traceback" not in told, told
        if victim != "actor":
            assert process.returncode != 0 and not (on_ray / "out.jsonl").exists(), told
            ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
            assert ended.returncode == 1, ended.stderr  # a row failed, as in the local run
        for pid, title in commands.items():  # Ray's agents outlive what they belong to
            with suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode()):
                    os.kill(pid, signal.SIGKILL)
        seen = server.values_seen
    assert all(seen[float(number)] for number in range(_ROWS))
    for name in ("out.jsonl", "out.errors.jsonl"):
        assert (local / name).read_bytes() == (on_ray / name).read_bytes()
    assert sorted(path.name for path in on_ray.iterdir()) == ["in.jsonl", "out.errors.jsonl", "out.jsonl"]
