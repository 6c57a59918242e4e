"""A Python stub that dies under a load or in a sweep: what was measured then is not told as the model's numbers."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psutil
import pytest

from tests.onnx_models import affine
from tests.perf.conftest import LiveTriton
from tests.perf.fake_server import fake_server
from tests.perf.server.test_stub_watch import start_stub
from tritonsmith.builder.base.errors import TrialError
from tritonsmith.perf.load.load_test import LoadTest, run_load_test
from tritonsmith.perf.load.rate import find_load_rate
from tritonsmith.perf.load.result import result_from_records
from tritonsmith.perf.load.text import result_as_dict, text_of_result
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.report.load.view import load_view
from tritonsmith.perf.server import control
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.run import SweepOptions, SweepProgress, run_sweep

LOAD = LoadTest("m", Closed(2), duration_s=0.4, warmup_s=0.1, pid=os.getpid())
DIED = r"the Python stub of instance 'm_0_0' \(pid \d+\) was ended by SIGKILL"


def test_a_load_under_which_a_stub_died_says_so_and_a_search_has_no_rate(tmp_path: Path) -> None:
    stub = start_stub(tmp_path)
    timer = threading.Timer(0.25, stub.kill)
    with fake_server() as server:  # in this process, so that the stub is a child of the server's
        timer.start()
        result = run_load_test(server.url, LOAD)
    stub.wait()
    [died] = result.died
    assert "was ended by SIGKILL" in died
    assert f"STUB DIED   {died}" in text_of_result(result, LOAD.load)
    assert result_as_dict(result)["stubs_died"] == [died]
    assert result_from_records(result.records).died == (died,)
    assert any(died in alarm for alarm in load_view(result.records, result.summary)["alarms"])

    stub = start_stub(tmp_path)
    timer = threading.Timer(0.25, stub.kill)
    with fake_server() as server, pytest.raises(TrialError, match=DIED):
        timer.start()
        find_load_rate(server.url, LOAD, 100.0)
    stub.wait()
    with fake_server() as server:
        assert run_load_test(server.url, LOAD).died == ()


@pytest.mark.nightly
@pytest.mark.server
def test_a_trial_whose_stub_died_fails_with_the_reason_and_the_current_config_goes_on(
    triton: LiveTriton, tmp_path: Path
) -> None:
    """An arm of another config is out, as one that Triton refuses."""
    model = "stub_dies"
    triton.load(model, affine(["batch", 4]), 'backend: "onnxruntime"\nmax_batch_size: 8\n')
    killed: list[str] = []

    def kill(step: SweepProgress) -> None:
        for arm, done in (("arm00", 4), ("arm02", 8)):
            if step.done == done and arm not in killed and step.text.startswith("round"):
                killed.append(arm)
                [pid, *_] = control.instance_pids(triton.server, f"{model}__{arm}")
                psutil.Process(pid).kill()

    spec = SweepSpec.model_validate(
        {
            "model": model,
            "space": {"instance_group.count": [1, 2]},
            "concurrency": [2],
            "rounds": 5,
            "duration_s": 0.2,
            "warmup_s": 0.05,
        }
    )
    run = run_sweep(
        spec,
        triton.server,
        SweepOptions((triton.repository,), triton.repository, tmp_path / "run", on_progress=kill),
    )
    control.unload_model(triton.http_url, model)
    failed = {t.trial.arm_id: t.error for t in run.trials if t.error is not None}
    assert killed == ["arm00", "arm02"] and failed.keys() == {"arm00", "arm02"}
    assert all("was ended by SIGKILL" in str(error) for error in failed.values())
    assert run.arm_errors == {"arm02": failed["arm02"]}
    assert all(t.summary is not None and not t.summary.failures for t in run.trials if t.error is None)
    assert sum(t.trial.arm_id == "arm00" and t.error is None for t in run.trials) >= 4
