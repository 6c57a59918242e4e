"""Sweeps on a real tritonserver: arms applied and read back, a server that dies, Ctrl-C, the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.onnx_models import add_model, affine
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.base.errors import TrialError, TritonsmithError
from tritonsmith.perf.commands.sweep.output import error_of
from tritonsmith.perf.records.record import load_records
from tritonsmith.perf.report import load_run, write_report
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import Server, ServerSpec, launch
from tritonsmith.perf.sweep.plan import Arm, SweepSpec
from tritonsmith.perf.sweep.run import SweepOptions, SweepProgress, run_sweep
from tritonsmith.perf.sweep.run_record import JOURNAL, RECORDS, RESULT
from tritonsmith.perf.sweep.trial import apply_config

pytestmark = pytest.mark.server

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching {}
"""
COUNT, DELAY = "instance_group.count", "dynamic_batching.max_queue_delay_microseconds"


def spec(model: str, **changes: Any) -> SweepSpec:
    quick = {"concurrency": [1, 4], "rounds": 2, "duration_s": 0.15, "warmup_s": 0.05}
    return SweepSpec.model_validate({"model": model, "space": {COUNT: [1, 2]}, **quick, **changes})


@pytest.fixture
def model(triton: LiveTriton, request: pytest.FixtureRequest) -> Iterator[str]:
    """A loaded model of its own for each test, gone after it."""
    name = f"sweep_{abs(hash(request.node.name)) % 10**6}"
    triton.load(name, affine(["batch", 4]), CONFIG)
    yield name
    control.unload_model(triton.http_url, name)


def ready(triton: LiveTriton, prefix: str) -> set[str]:
    rows = control.repository_index(triton.http_url)
    return {row.name for row in rows if row.name.startswith(prefix) and row.state == "READY"}


def test_arms_stand_side_by_side_and_the_server_is_left_as_it_was(
    triton: LiveTriton, model: str, tmp_path: Path
) -> None:
    seen: list[set[str]] = []

    def watch(step: SweepProgress) -> None:
        if step.text.startswith("round 1"):
            seen.append(ready(triton, model))

    run = run_sweep(
        spec(model, space={COUNT: [1], DELAY: [0, 3000]}),
        triton.server,
        SweepOptions((triton.repository,), triton.repository, tmp_path, on_progress=watch),
    )
    names = {f"{model}__arm0{i}" for i in range(3)}
    assert seen[0] == names
    assert ready(triton, model) == {model}
    assert control.model_config(triton.http_url, model)["instance_group"][0]["count"] == 1
    assert run.complete and len([t for t in run.trials if not t.trial.confirms]) == 3 * 2 * 2
    told = [(t.error, t.summary and t.summary.answered) for t in run.trials]
    # On a machine that stands still for a moment 0.15 s may pass without an answer.
    assert sum(bool(answered) for _, answered in told) >= len(told) - 2, told
    assert all(error is None for error, _ in told), told
    assert run.verdict.outcome in ("tie", "winner", "keep", "undecided")
    assert run.notes[0].endswith("the same as the current config, not measured twice")
    # What Triton counted is what we sent, and the delay did what a delay does.
    waits = {
        arm: [
            t.server.mean_queue_us
            for t in run.trials
            if t.server and t.trial.arm_id == arm and t.trial.concurrency == 1
        ]
        for arm in ("arm00", "arm02")
    }
    assert run.arms[2].settings == {COUNT: 1, DELAY: 3000}
    assert min(waits["arm02"]) > 2000 > min(waits["arm00"])
    # Everything is on disk, and the report is made again from it.
    assert load_run(tmp_path).verdict == run.verdict
    assert len(load_records(tmp_path / RECORDS / "0000.npz")) > 0
    assert write_report(load_run(tmp_path), tmp_path).html.stat().st_size > 10_000


def test_in_place_each_arm_is_really_applied_and_the_model_gets_its_own_config_back(
    triton: LiveTriton, model: str
) -> None:
    counts: dict[str, set[int]] = {}

    def watch(step: SweepProgress) -> None:
        if step.last is not None:
            served = control.model_config(triton.http_url, model)["instance_group"][0]["count"]
            counts.setdefault(step.last.trial.arm_id, set()).add(served)

    run = run_sweep(
        spec(model, concurrency=[1, 2, 4], rounds=1),
        triton.server,
        SweepOptions((triton.repository,), on_progress=watch),
    )
    assert run.environment["placement"] == "in_place"
    assert all(t.error is None for t in run.trials)
    assert counts == {"arm00": {1}, "arm01": {1}, "arm02": {2}}
    assert control.model_config(triton.http_url, model)["instance_group"][0]["count"] == 1


@pytest.mark.nightly
def test_an_arm_that_triton_refuses_is_out_with_tritons_reason_and_the_others_are_measured(
    triton: LiveTriton, model: str
) -> None:
    run = run_sweep(
        spec(model, space={"instance_group.kind": ["KIND_GPU"], "max_batch_size": [8, 4]}),
        triton.server,
        SweepOptions((triton.repository,), triton.repository),
    )
    assert set(run.arm_errors) == {"arm02", "arm03"}
    assert "KIND_GPU but no GPUs are available" in run.arm_errors["arm02"]
    assert {t.trial.arm_id for t in run.trials} == {"arm00", "arm01"}
    assert run.complete


MODES = """
import json
import os
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        self.mode = json.loads(args["model_config"])["parameters"]["mode"]["string_value"]
        if self.mode == "refuse":
            raise pb.TritonModelException("no such mode")
        if self.mode == "die":
            os._exit(7)

    def execute(self, requests):
        if self.mode == "die_late":
            os._exit(8)
        if self.mode == "fail":
            return [pb.InferenceResponse(error=pb.TritonError("always fails")) for _ in requests]
        inputs = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("y", x)]) for x in inputs]
"""


def with_modes(directory: Path, mode: str) -> Path:
    """A Python model that does what its parameter says."""
    (directory / "1").mkdir(parents=True)
    (directory / "1" / "model.py").write_text(MODES)
    parameter = f'parameters {{ key: "mode" value {{ string_value: "{mode}" }} }}'
    config = CONFIG.replace("onnxruntime", "python").replace("dynamic_batching {}", parameter)
    (directory / "config.pbtxt").write_text(config)
    return directory


REASONS = {
    "refuse": "no such mode",
    "die": "is not healthy",
    "die_late": "ended with exit code 8",
    "fail": "requests was answered: HTTP 500: always fails",
}
"""Mode → what its arm is told to have failed with."""


@pytest.mark.nightly
@pytest.mark.timeout(120)
def test_a_variant_that_fails_costs_itself_alone_and_is_never_ranked(tmp_path: Path) -> None:
    modes = ("refuse", "fail", "fine")
    fails_alone(tmp_path, variants={m: str(with_modes(tmp_path / "variants" / m, m)) for m in modes})


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_settings_that_fail_in_every_way_cost_their_arms_alone(tmp_path: Path) -> None:
    fails_alone(tmp_path, space={"parameters.mode.string_value": [*REASONS, "fine"]})


def fails_alone(tmp_path: Path, **varied: Any) -> None:
    repository = tmp_path / "repository"
    with_modes(repository / "modes", "ok")
    swept = {
        "model": "modes",
        "concurrency": [2],
        "rounds": 2,
        "duration_s": 0.15,
        "warmup_s": 0.05,
        **varied,
    }
    start = ServerSpec(repositories=(repository,), model_control="explicit", exit_timeout_s=0)
    with launch(start) as server:
        # A server of ours, that need not be left as it was: Triton waits for the instances that died.
        options = SweepOptions((repository,), repository, restart=lambda: server)
        run = run_sweep(SweepSpec.model_validate(swept), server, options)
    told = {arm.label.split()[-1]: run.arm_errors.get(arm.id) for arm in run.arms if not arm.baseline}
    assert run.complete and len(told) > 2 and told["fine"] is None
    assert {m: error for m, error in told.items() if error and REASONS[m] in error}.keys() == told.keys() - {
        "fine"
    }
    assert run.verdict.broken.keys() == run.arm_errors.keys(), (
        "each is named with its reason, and none is ranked"
    )
    for point in run.verdict.points:
        assert set(point.having("broken")) == run.arm_errors.keys()
        assert {run.verdict.arm_id, point.best, *point.like_best}.isdisjoint(run.arm_errors)
    # Out after its first trial: no later round waits for it.
    assert all(sum(t.trial.arm_id == arm for t in run.trials) <= 1 for arm in run.arm_errors)
    measured = {t.trial.arm_id for t in run.trials if t.summary is not None and t.summary.answered}
    assert measured == {arm.id for arm in run.arms} - run.arm_errors.keys()


class Stubborn(BaseHTTPRequestHandler):
    """A server that says yes to every load and goes on serving one instance."""

    def do_POST(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(json.dumps({"name": "m", "instance_group": [{"kind": "KIND_CPU", "count": 1}]}).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_a_server_that_says_yes_and_serves_another_config_is_found_out() -> None:
    arm = Arm("arm02", "count 2", {COUNT: 2}, {"instance_group": [{"kind": "KIND_CPU", "count": 2}]})
    with ThreadingHTTPServer(("127.0.0.1", 0), Stubborn) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TrialError) as error:
            apply_config(NoProcess(), f"127.0.0.1:{server.server_port}", "m", arm)
        server.shutdown()
    assert error.value.code == "config_not_applied"
    assert "instance_group.count is 1, not 2" in error.value.message


class NoProcess:
    """A server elsewhere."""

    pid = None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "no_such_model"}, "unknown_model"),
        pytest.param({"budget_s": 0.5}, "budget_too_small", marks=pytest.mark.nightly),
        pytest.param({"space": {COUNT: [1]}}, "empty_space", marks=pytest.mark.nightly),
        ({"batch_size": 99}, "bad_batch_size"),
    ],
)
def test_what_cannot_be_swept_is_one_clear_error_and_leaves_nothing(
    triton: LiveTriton, model: str, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    before = ready(triton, "")
    output = tmp_path / "run"
    with pytest.raises(TritonsmithError) as error:
        run_sweep(
            spec(model).model_copy(update=changes), triton.server,
            SweepOptions((triton.repository,), triton.repository, output),
        )  # fmt: skip
    assert error.value.code == code
    assert not output.exists()
    assert ready(triton, "") == before


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "model_repository"
    path.mkdir()
    add_model(path, "m", affine(["batch", 4]), CONFIG)
    return path


@pytest.mark.nightly
@pytest.mark.slow
def test_a_server_killed_in_a_trial_is_a_failed_trial_and_a_restart(repository: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    server_spec = ServerSpec(repositories=(repository, scratch), model_control="explicit", exit_timeout_s=2)
    started: list[Server] = []
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start() -> Server:
            started.append(stack.enter_context(launch(server_spec)))
            return started[-1]

        def kill(step: SweepProgress) -> None:
            if step.done == 3 and len(started) == 1:
                pid = started[0].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)

        run = run_sweep(
            spec("m"),
            start(),
            SweepOptions((repository,), scratch, tmp_path / "run", restart=start, on_progress=kill),
        )
    assert len(started) == 2
    assert [t.trial.number for t in run.trials if t.error is not None] == [3]
    # Rounds of confirmation come on top when an arm looks like a winner.
    assert run.complete and len([t for t in run.trials if not t.trial.confirms]) == 12
    assert any("died in trial" in note and "started again" in note for note in run.notes)
    assert any("died in trial" in note for note in load_run(tmp_path / "run").notes)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_config_that_kills_the_server_again_is_named_broken_and_the_rest_goes_on(
    repository: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    server_spec = ServerSpec(repositories=(repository, scratch), model_control="explicit", exit_timeout_s=2)
    started: list[Server] = []
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start() -> Server:
            started.append(stack.enter_context(launch(server_spec)))
            return started[-1]

        def kill(step: SweepProgress) -> None:
            pid = started[-1].pid
            if step.text.endswith(": count 2") and pid is not None:
                os.kill(pid, signal.SIGKILL)

        options = SweepOptions((repository,), scratch, tmp_path / "run", restart=start, on_progress=kill)
        run = run_sweep(spec("m"), start(), options)
    assert len(started) == 3 and run.complete
    assert run.verdict.outcome == "failed" and list(run.verdict.broken) == ["arm02"]
    assert "count 2: the server died in 2 of its trials" in run.verdict.sentence
    error = error_of(run)
    assert error is not None and (error.code, error.exit_code) == ("nothing_to_compare", 1)


def test_without_a_restart_a_dead_server_ends_the_sweep_with_what_was_measured(
    repository: Path, tmp_path: Path
) -> None:
    with launch(ServerSpec(repositories=(repository,), model_control="explicit", exit_timeout_s=2)) as server:

        def kill(step: SweepProgress) -> None:
            if step.done == 3 and server.pid is not None:
                os.kill(server.pid, signal.SIGKILL)

        run = run_sweep(
            spec("m"), server, SweepOptions((repository,), output=tmp_path / "run", on_progress=kill)
        )
    assert not run.complete
    assert "the server is gone" in run.stop_reason
    assert sum(t.error is None for t in run.trials) == 3


def command(*arguments: str | Path, cwd: Path) -> list[str]:
    return [sys.executable, "-m", "tritonsmith", *map(str, arguments)]


ROOT = Path(__file__).parents[3]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


QUICK = ("--set", f"{COUNT}=1,2", "-c", "1,4", "--rounds", "2", "--duration", "150ms", "--warmup", "50ms")


@pytest.mark.slow
def test_the_command_prints_the_verdict_writes_the_report_and_makes_it_again(
    repository: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        command("sweep", repository, "-m", "m", *QUICK, "-o", "run", cwd=tmp_path),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "current config" in done.stdout
    assert "report: run/report.html" in done.stderr
    assert {"report.html", "report.json", "report.csv", RESULT, JOURNAL} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }
    first = (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "run" / "report.html").unlink()
    again = subprocess.run(
        command("report", "run", "--format", "json", cwd=tmp_path),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["model"] == "m"
    assert (tmp_path / "run" / "report.html").read_text() == first


@pytest.mark.nightly
@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured_and_exits_130(repository: Path, tmp_path: Path) -> None:
    running = subprocess.Popen(
        command("sweep", repository, "-m", "m", *QUICK, "--rounds", "30", "-o", "run", cwd=tmp_path),
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal = tmp_path / "run" / JOURNAL
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        journal.exists() and journal.read_text().count('"trial"') >= 5
    ):
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=30)
    assert running.returncode == 130, stderr
    assert "did not come to its end: interrupted" in stdout
    run = load_run(tmp_path / "run")
    assert run.interrupted and len(run.trials) >= 5
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-m", "mm", "--set", f"{COUNT}=2"), "error[unknown_model]"),
        (("-m", "m", "--set", "instance_group.cuont=1,2"), "fix:   --set instance_group.count=1,2"),
        *(
            pytest.param(arguments, text, marks=pytest.mark.nightly)  # each a process of its own
            for arguments, text in (
                (("--model", "m", "--set", f"{COUNT}=1,x"), "error["),
                (("-m", "m", "--set", f"{COUNT}=1,2", "--set", f"{COUNT}=3"), "given twice"),
                (("-m", "m", "--set", f"{COUNT}=2", "-c", "one"), "error[bad_concurrency]"),
                (("-m", "m", "--set", f"{COUNT}=2", "--duration", "soon"), "error[bad_time]"),
                (("-m", "m", "--set", f"{COUNT}=2", "--launch", "magic"), "error[unknown_launch]"),
            )
        ),
        (("-m", "m", "--set", f"{COUNT}=2", "-o", "model_repository"), "error[bad_output]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_flags_are_one_error_before_any_server_starts(
    repository: Path, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        command("sweep", repository, *arguments, cwd=tmp_path),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
