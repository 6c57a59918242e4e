"""What a sweep can vary besides the model config, on a real tritonserver: and what it takes up again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.onnx_models import add_model, affine, tensor
from tests.onnx_models import model as onnx_model
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.report.page.members import compositions, held_up_by
from tritonsmith.perf.server import control
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.run import SweepOptions, SweepProgress, run_sweep
from tritonsmith.perf.sweep.run.arm_server import ArmServer
from tritonsmith.perf.sweep.run.resume import earlier_run
from tritonsmith.perf.sweep.run_record import JOURNAL, load_run
from tritonsmith.perf.sweep.trial import MemberConfig

pytestmark = pytest.mark.server

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching {}
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
ensemble_scheduling { step [{ model_name: "NAME" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "mid" } },
  { model_name: "NAME_last" model_version: -1
  input_map { key: "x" value: "mid" } output_map { key: "y" value: "y" } }] }
"""
COUNT, DELAY = "instance_group.count", "dynamic_batching.max_queue_delay_microseconds"


def spec(model: str, **changes: Any) -> SweepSpec:
    quick = {"concurrency": [2], "rounds": 2, "duration_s": 0.12, "warmup_s": 0.03}
    return SweepSpec.model_validate({"model": model, "space": {DELAY: [100]}, **quick, **changes})


@pytest.fixture
def model(triton: LiveTriton, request: pytest.FixtureRequest) -> Iterator[str]:
    """A loaded model of its own for each test, gone after it."""
    name = f"axes_{abs(hash(request.node.name)) % 10**6}"
    triton.load(name, affine(["batch", 4]), CONFIG)
    yield name
    control.unload_model(triton.http_url, name)


def options(triton: LiveTriton, output: Path | None = None, **changes: Any) -> SweepOptions:
    return SweepOptions((triton.repository,), triton.repository, output, **changes)


def in_place(triton: LiveTriton, output: Path | None = None, **changes: Any) -> SweepOptions:
    return SweepOptions((triton.repository,), None, output, **changes)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_sweep_is_resumed_by_content_and_measures_only_what_is_new(
    triton: LiveTriton, model: str, tmp_path: Path
) -> None:
    run_sweep(spec(model, space={COUNT: [2]}, rounds=1), triton.server, in_place(triton, tmp_path))
    run = load_run(tmp_path)
    memory = {t.trial.arm_id: t.memory_bytes or 0 for t in run.trials}
    assert memory["arm02"] > memory["arm00"] + 5e6 > 5e6  # a second instance is a second process
    first = {t.trial.number: t for t in load_run(tmp_path).trials}

    more = run_sweep(
        spec(model, space={COUNT: [2]}, rounds=2), triton.server, in_place(triton, tmp_path, resume=True)
    )
    assert {n: t for n, t in ((t.trial.number, t) for t in more.trials) if n in first} == first
    assert len([t for t in more.trials if not t.trial.confirms]) == len(first) + 3
    reused = f"{len(first)} of {len(first)} finished trials of the earlier run are reused"
    assert f"{reused}; changed since: rounds is 2, was 1." in more.notes
    assert [t.key for t in load_run(tmp_path).trials] == [t.key for t in more.trials]

    onnx = triton.repository / model / "1" / "model.onnx"
    onnx.write_bytes(affine(["batch", 4], scale=3.0).SerializeToString())
    fresh = run_sweep(
        spec(model, space={COUNT: [2]}, rounds=1), triton.server, in_place(triton, tmp_path, resume=True)
    )
    assert not {t.trial.number for t in fresh.trials} & {t.trial.number for t in more.trials}
    assert any("Nothing of the earlier run is reused" in n and "the model's files" in n for n in fresh.notes)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_sweep_killed_outright_goes_on_with_resume_and_no_other_flag(tmp_path: Path) -> None:
    repository = tmp_path / "model_repository"
    repository.mkdir()
    add_model(repository, "m", affine(["batch", 4]), CONFIG)
    command = [sys.executable, "-m", "tritonsmith", "sweep", "-o", "run"]
    flags = [
        str(repository),
        "-m",
        "m",
        "--set",
        f"{COUNT}=1,2",
        "-c",
        "1,2",
        "--rounds",
        "3",
        "--duration",
        "150ms",
    ]
    where: dict[str, Any] = {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    }
    running = subprocess.Popen([*command, *flags], stderr=subprocess.DEVNULL, **where)
    journal = tmp_path / "run" / JOURNAL
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        journal.exists() and journal.read_text().count('"trial"') >= 8
    ):
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = earlier_run(tmp_path / "run").finished
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=120, **where)
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "run")
    again = [t for t in run.trials if t.key in before]
    assert run.complete
    assert len([t for t in run.trials if not (t.trial.confirms or t.trial.settles)]) == 3 * 2 * 3
    assert sum(before[t.key] == t for t in again) >= len(before) - 2  # less the comparison that was cut


@pytest.mark.slow
@pytest.mark.nightly
def test_variants_and_client_batches_are_arms_and_a_wrong_variant_does_not_count(
    triton: LiveTriton, model: str, tmp_path: Path
) -> None:
    add_model(tmp_path, "other", affine(["batch", 4], scale=5.0), CONFIG)
    x = np.ones((1, 4), np.float32)
    save_samples(SampleSet((Sample({"x": x}, {"y": 2 * x + 1}),)), tmp_path / "samples.npz")
    run = run_sweep(
        spec(
            model,
            space={"client.batch_size": [1, 4]},
            variants={"five": str(tmp_path / "other"), "same": str(triton.repository / model)},
            rounds=1,
            max_wrong=0.0,
            answers="any",
        ),
        triton.server,
        options(triton, data=DataOptions(file=tmp_path / "samples.npz")),
    )
    labels = ["client batch 4", "five, client batch 1", "five, client batch 4"]
    assert [arm.label for arm in run.arms[2:]] == labels
    sizes = {
        t.trial.arm_id: t.server.inferences / t.server.requests
        for t in run.trials
        if t.server and t.server.requests
    }
    assert "same, client batch 1: the same as the current config, not measured twice" in run.notes
    assert sizes == {"arm00": 1, "arm01": 1, "arm02": 4, "arm03": 1, "arm04": 4}
    assert any(n.startswith("Broken: five") and "wrong answers" in n for n in run.verdict.notes)
    assert run.verdict.arm_id not in ("arm03", "arm04")


def test_a_variant_with_other_tensors_is_refused_and_named(
    triton: LiveTriton, model: str, tmp_path: Path
) -> None:
    add_model(tmp_path, "wide", affine(["batch", 8]), CONFIG.replace("dims: [4]", "dims: [8]"))
    with pytest.raises(TritonsmithError, match="variant wide has other inputs") as error:
        run_sweep(spec(model, variants={"wide": str(tmp_path / "wide")}), triton.server, options(triton))
    assert "x FP32 [-1, 8]" in str(error.value.seen)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_composing_models_settings_are_swept_under_load_on_its_ensemble_and_another_beside(
    triton: LiveTriton, model: str
) -> None:
    add_model(triton.repository, f"{model}_pipe", affine(["batch", 4]), ENSEMBLE.replace("NAME", model))
    add_model(triton.repository, f"{model}_last", affine(["batch", 4]), CONFIG)
    triton.load(f"{model}_noise", affine(["batch", 4]), CONFIG)
    seen: dict[str, int] = {}

    def watch(step: SweepProgress) -> None:
        if step.last is not None:
            config = control.model_config(triton.http_url, f"{model}_last")
            seen[step.last.trial.arm_id] = config["instance_group"][0]["count"]

    run = run_sweep(
        spec(
            model,
            space={COUNT: [2], f"{model}_last:{COUNT}": [2]},
            load_model=f"{model}_pipe",
            beside={f"{model}_noise": 2},
            rounds=1,
            concurrency=[1, 2],
            duration_s=0.3,
        ),
        triton.server,
        options(triton, on_progress=watch),
    )
    control.unload_model(triton.http_url, f"{model}_noise")
    assert run.environment["placement"] == "in_place"
    assert seen == {"arm00": 1, "arm01": 1, "arm02": 2}  # the other composing model's settings, too
    for trial in run.trials:
        assert trial.error is None and trial.server is not None
        assert trial.server.requests == trial.others[f"{model}_pipe"].requests > 0
    assert run.trials[-1].others[f"{model}_noise"].requests > 0
    assert control.model_config(triton.http_url, model)["instance_group"][0]["count"] == 1


def slow_product(times: int) -> Any:
    """y[batch, 4] = x · 0: so many products of 512 × 512 zeros take their time all the same."""
    products = [helper.make_node("MatMul", [f"h{i}", "square"], [f"h{i + 1}"]) for i in range(times)]
    return onnx_model(
        [
            helper.make_node("MatMul", ["x", "wide"], ["h0"]),
            *products,
            helper.make_node("MatMul", [f"h{times}", "narrow"], ["y"]),
        ],
        [tensor("x", ["batch", 4])],
        [tensor("y", ["batch", 4])],
        {
            name: np.zeros(shape, np.float32)
            for name, shape in {"wide": (4, 512), "square": (512, 512), "narrow": (512, 4)}.items()
        },
    )


def nested(triton: LiveTriton, model: str) -> tuple[str, str, str, str]:
    """outer = model, then inner; inner = `slow`, whose one thread is the bottleneck, then `last`; all four names."""
    slow, last, inner, outer = (f"{model}_{name}" for name in ("slow", "last", "inner", "outer"))
    add_model(triton.repository, slow, slow_product(100), CONFIG)
    add_model(triton.repository, last, affine(["batch", 4]), CONFIG)
    steps = ENSEMBLE.replace("NAME_last", "SECOND").replace("NAME", "FIRST")
    for name, first, second in ((inner, slow, last), (outer, model, inner)):
        add_model(
            triton.repository,
            name,
            affine(["batch", 4]),
            steps.replace("FIRST", first).replace("SECOND", second),
        )
    return slow, last, inner, outer


def test_the_models_of_an_ensemble_inside_the_ensemble_are_among_those_that_are_counted(
    triton: LiveTriton, model: str
) -> None:
    slow, last, inner, outer = nested(triton, model)
    arm_server = ArmServer(spec(model, load_model=outer), triton.server, None, None)
    try:
        found = arm_server.look()
    finally:
        arm_server.leave_as_found()
    assert arm_server.others == (outer, inner, slow, last)
    assert found.members == {name: MemberConfig(1, 0) for name in (slow, last)}


@pytest.mark.nightly
@pytest.mark.slow
def test_each_model_of_an_ensemble_has_its_numbers_and_the_slow_one_is_named(
    triton: LiveTriton, model: str
) -> None:
    slow, last, inner, outer = nested(triton, model)
    run = run_sweep(
        spec(model, load_model=outer, concurrency=[8], rounds=1, duration_s=0.3),
        triton.server,
        options(triton),
    )
    found = [c for c in compositions(run) if c.arm.id == "arm00"]
    assert [[row.member.name for row in c.rows] for c in found] == [[model, slow, last]]
    for row in found[0].rows:
        assert row.member.counters.requests > 8 and row.config is not None and row.config.instances == 1
        assert row.executions_per_s and 0 < (row.busy or 0) <= 1
    assert sum(row.member.share for row in found[0].rows) == pytest.approx(1)
    told = str(held_up_by(run))
    assert told.startswith(f"{outer} spends ") and f" of its time in {slow}'s " in told
    assert inner in run.trials[0].others  # counted, and the sum of its own: no member of outer beside them


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"objective": "energy"}, "no_gpu_metrics"),
        ({"max_wrong": 0.0}, "no_expected"),
        ({"variants": {"v": "/nowhere"}}, "variant_missing"),
        ({"load_model": "no_such_ensemble"}, "model_refused"),
    ],
)
def test_what_cannot_be_done_here_is_one_clear_error(
    triton: LiveTriton, model: str, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(TritonsmithError) as error:
        run_sweep(spec(model, **changes), triton.server, options(triton))
    assert error.value.code == code


@pytest.mark.nightly
@pytest.mark.slow
def test_a_search_proposes_arms_and_a_budget_is_kept(triton: LiveTriton, model: str) -> None:
    begun_s = time.monotonic()
    run = run_sweep(
        spec(
            model,
            space={DELAY: [50 * i for i in range(1, 300)]},
            rounds=None,
            budget_s=13,
            proposals=8,
            duration_s=0.1,
        ),
        triton.server,
        options(triton),
    )
    assert 3 <= len(run.arms) <= 10
    assert run.complete and any("optuna's TPE" in note for note in run.notes)
    assert run.wall_s <= 13 * 1.1 + os.getloadavg()[0] / 5  # a busy machine loads the first arms slowly
    assert time.monotonic() - begun_s <= 13 * 1.1 + 6  # unloading from a shared server comes after


@pytest.mark.slow
@pytest.mark.nightly
def test_the_highest_rate_that_keeps_a_p99_is_found_for_every_arm(triton: LiveTriton, model: str) -> None:
    run = run_sweep(
        spec(model, space={COUNT: [2]}, objective="rate", slo_p99_ms=200, concurrency=[1], rounds=1),
        triton.server,
        in_place(triton),
    )
    assert all(t.slo is not None and t.slo.probes for t in run.trials)
    kept = [t for t in run.trials if t.slo and t.slo.rate_per_s]
    assert kept, [t.slo for t in run.trials]
    for trial in kept:
        assert trial.summary is not None and trial.summary.load["kind"] == "open"
        p99_ns = trial.summary.latency_ns["p99"].value
        assert p99_ns is not None and p99_ns <= 200e6


@pytest.mark.nightly
def test_memory_that_is_really_held_is_held_against_the_constraint(triton: LiveTriton, model: str) -> None:
    run = run_sweep(spec(model, rounds=1, max_memory_mib=1), triton.server, options(triton))
    assert run.verdict.outcome == "nothing_fits"
    assert "Nothing meets memory ≤ 1 MiB: the nearest is" in run.verdict.sentence
    assert "times the limit" in run.verdict.sentence
