"""A job on a real Ray cluster of this machine: the same output as the local run, whatever its rows do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.perf.batch.jobs import ask, job_on
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
