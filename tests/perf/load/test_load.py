from __future__ import annotations

import json
import math
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.perf.fake_server import fake_server
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples
from tritonsmith.builder.base.errors import ServerError, ToolError, TrialError, TritonsmithError, UsageError
from tritonsmith.perf.commands.load.flags import (
    headers_from_flags,
    ranges_from_flags,
    seconds_from_text,
    shapes_from_flags,
)
from tritonsmith.perf.commands.load.load import load as load_command
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.data.distribution import Normal, Span
from tritonsmith.perf.load.load_test import LoadTest, run_load_test
from tritonsmith.perf.load.result import result_from_records
from tritonsmith.perf.load.text import text_of_result
from tritonsmith.perf.records.record import RequestRecords, load_records
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.stats import Summary
from tritonsmith.perf.usage.counters import ServerCounters, counters_between, failures_from_metrics

NO_GPU = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
SHORT = LoadTest("m", Closed(2), duration_s=0.4, warmup_s=0.1)


def command(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(load_command)
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_the_servers_counters_are_those_of_the_measurement_alone() -> None:
    with fake_server(delay_s=0.005) as server:
        result = run_load_test(server.url, SHORT)
        assert result.server is not None
        assert result.server.requests < server.infer_requests, "the warm-up is not in it"
        measured = len(result.records.measured())
        assert abs(result.server.requests - measured) <= 4
        assert result.server.batch_executions == {1: result.server.executions}
        assert result.server.mean_compute_infer_us == pytest.approx(100)
        assert result.server.mean_queue_us == pytest.approx(50)
    text = text_of_result(result, SHORT.load)
    assert text.splitlines()[0].startswith(result.summary.validity.verdict.value)
    assert "p99.9" in text and "queue 50 µs" in text and "mean batch 1.00" in text


def test_what_the_server_counts_after_its_answer_is_waited_for_and_what_it_never_counts_is_not() -> None:
    ten = replace(SHORT, warmup_s=0.0, duration_s=None, requests=10)
    with fake_server(count_after_s=0.1) as server:
        late = run_load_test(server.url, ten)
    with fake_server(error_every=2) as server:
        refused = run_load_test(server.url, ten)
    assert late.server is not None and late.server.requests == late.server.inferences == 10
    assert refused.server is not None and (refused.server.requests, refused.server.failed) == (5, 0)


def test_failures_are_said_before_any_number_and_cost_the_exit_code() -> None:
    with fake_server(error_every=4) as server:
        code, text = command(server.url, "-m", "m", "--duration", "300ms", "--warmup", "0s")
    assert code == 1
    assert "FAILED" in text.splitlines()[1]
    assert text.index("FAILED") < text.index("throughput")
    assert "Request timeout expired" in text


def test_wrong_answers_cost_the_exit_code_too(tmp_path: Path) -> None:
    x = np.ones((1, 4), np.float32)
    save_samples(SampleSet((Sample({"x": x}, {"y": 2 * x}),), ""), tmp_path / "s.npz")
    arguments = ("-m", "m", "--requests", "50", "--data", str(tmp_path / "s.npz"))
    with fake_server() as server:
        assert command(server.url, *arguments)[0] == 0
    with fake_server(wrong_every=1) as server:
        code, text = command(server.url, *arguments)
    assert code == 1
    assert "wrong answer" in text


def test_json_output_and_the_record_file_tell_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    with fake_server() as server:
        code, text = command(
            server.url,
            *("-m", "m", "--request-rate", "200", "--arrival", "poisson", "--duration", "500ms"),
            *("--seed", "7", "--format", "json", "-o", str(path)),
        )
    assert code == 0
    said: dict[str, Any] = json.loads(text)
    records = load_records(path)
    assert said["seed"] == records.header.seed == 7
    assert said["summary"]["load"]["kind"] == "open"
    assert said["summary"]["requests"] <= len(records)
    assert records.header.environment["server"] == "fake 0.0"


def test_headers_reach_the_questions_as_well_as_the_load() -> None:
    with fake_server(require_header=("authorization", "Bearer t")) as server:
        arguments = (server.url, "-m", "m", "--requests", "20")
        assert command(*arguments, "-H", "Authorization: Bearer t")[0] == 0
        with pytest.raises(TrialError, match="no access"):
            command(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "code"),
    [
        (["URL", "-m", "missing"], UsageError, "unknown_model"),
        (["URL", "-m", "broken"], TrialError, "model_not_ready"),
        (["URL", "-m", "unloaded"], TrialError, "model_not_ready"),
        (["URL", "-o", "/"], UsageError, "bad_output"),
        (["URL", "-o", "/proc/version/x.npz"], UsageError, "bad_output"),
        (["URL", "--goodput", "soon"], UsageError, "bad_time"),
        (["URL", "--goodput", "first=5ms"], UsageError, "bad_goodput"),
        (["http://127.0.0.1:1", "-m", "m"], ServerError, "server_unreachable"),
        (["no/such/directory"], UsageError, "no_target"),
        (["URL", "-m", "m", "-c", "2", "--request-rate", "5"], UsageError, "two_loads"),
        (["URL", "-m", "m", "--duration", "soon"], UsageError, "bad_time"),
        (["URL", "-m", "m", "--duration", "0s"], UsageError, "bad_time"),
        (["127.0.0.1:8000"], UsageError, "no_target"),
        (["URL", "-m", "m", "--request-rate", "0"], UsageError, "bad_load"),
        (["URL", "-m", "m", "--request-rate", "1e12"], UsageError, "bad_load"),
        (["URL", "-m", "m", "--shape", "x"], UsageError, "bad_shape"),
        (["URL", "-m", "m", "--batch-size", "99"], UsageError, "bad_batch_size"),
        (["URL", "-m", "m", "--replay", "/no/such/file"], UsageError, "bad_replay"),
        (["URL", "-m", "m", "--step", "5:1s"], UsageError, "bad_load"),
        (["URL", "-m", "m", "--step", "2.5:1s", "-c", "4"], UsageError, "bad_load"),
        (["URL", "-m", "m", "--step", "2:1s", "--sequences", "4"], UsageError, "bad_load"),
        (["URL", "-m", "m", "--request-rate", "5", "--step", "fast"], UsageError, "bad_load"),
        (["URL", "-m", "m", "--sequences", "2", "--request-rate", "5"], UsageError, "two_loads"),
        (["URL", "-m", "m", "--sequences", "2", "-c", "3"], UsageError, "two_loads"),
        (["URL", "-m", "m", "--sequence-length", "many"], UsageError, "bad_span"),
        pytest.param(
            ["URL", "-m", "m", "--shared-memory", "cuda"], ToolError, "no_cuda_shared_memory", marks=NO_GPU
        ),
        (["URL", "-m", "m", "--shared-memory", "system"], TrialError, "shared_memory_refused"),
        (["URL", "-m", "m", "--data", "/no/such.json"], UsageError, "no_data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_expected_error(
    arguments: list[str], error: type[TritonsmithError], code: str
) -> None:
    with fake_server() as server, pytest.raises(error) as raised:
        command(*(server.url if a == "URL" else a for a in arguments))
    assert raised.value.code == code


def test_errors_name_what_is_there_and_what_was_meant(tmp_path: Path) -> None:
    wide: dict[str, Any] = {"0/x": np.ones((1, 4), "f4"), "1/x": np.ones((1, 5), "f4")}
    np.savez(tmp_path / "wide.npz", **wide)
    np.savez(tmp_path / "flat.npz", x=np.ones(4, "f4"))
    with fake_server() as server:

        def words(*arguments: str) -> str:
            with pytest.raises(TritonsmithError) as raised:
                command(server.url, *arguments)
            return str(raised.value)

        assert "did you mean 'm'?" in words("-m", "mn") and "broken, m, unloaded" in words("-m", "mn")
        assert "broken version 2: UNAVAILABLE (onnx: not a graph)" in words("-m", "broken")
        said = words("--data", str(tmp_path / "wide.npz"))
        assert f"{tmp_path / 'wide.npz'}: sample wide.npz[1]: the data for input `x`" in said
        assert "[1, 5]" in said and "[-1, 4]" in said
        said = words("--data", str(tmp_path / "flat.npz"), "-b", "2")
        assert "[4]" in said and "the first dimension is the batch" in said
        assert server.infer_requests == 0


def line(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tritonsmith", "load", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, **options)


def test_a_missed_limit_is_exit_4_and_one_json_document() -> None:
    with fake_server(delay_s=0.004) as server:
        done = line([server.url, "--slo-p99", "1ms", "--duration", "200ms", "--format", "json"])
    assert done.returncode == 4, done.stderr
    said = json.loads(done.stdout)
    assert said["error"]["code"] == "slo_missed" and said["slo"]["rate_per_s"] is None
    assert said["summary"]["latency_ns"]["p99"]["value"] > 1e6
    assert "error[slo_missed]" in done.stderr and "alone in the server takes" in done.stderr


def test_a_record_that_finds_no_room_costs_the_exit_code_and_no_number(tmp_path: Path) -> None:
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    path = tmp_path / "run.npz"
    with fake_server() as server:
        arguments = [server.url, "--requests", "500", "--format", "json", "-o", str(path)]
        done = line(arguments, preexec_fn=no_room)
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["summary"]["requests"] > 100 and said["error"]["code"] == "record_not_written"
    assert "error[record_not_written]" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_goodput_counts_what_was_answered_in_time(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    with fake_server(delay_s=0.005) as server:
        arguments = (server.url, "--requests", "200", "-o", str(path))
        code, text = command(*arguments, "--goodput", "10s")
        assert code == 0 and "within ≤ 10000 ms, 100 % of the requests" in text
        said = json.loads(command(*arguments, "--goodput", "1us", "--format", "json")[1])
    assert said["summary"]["goodput"]["share"] == 0 and said["summary"]["goodput"]["per_s"]["value"] == 0
    again = result_from_records(load_records(path))
    assert json_of(again.summary) == said["summary"], "the limits are in the record"
    assert again.server is not None and json_of(again.server) == said["server"]
    assert again.resources is not None and again.resources.wall_s > 0


def test_failures_are_counted_by_tritons_reason() -> None:
    text = (
        "# TYPE nv_inference_request_failure counter\n"
        'nv_inference_request_failure{model="m",reason="REJECTED",version="1"} %d\n'
        'nv_inference_request_failure{model="m",reason="REJECTED",version="2"} 1\n'
        'nv_inference_request_failure{model="m",reason="OTHER",version="1"} 2\n'
        'nv_inference_request_failure{model="other",reason="REJECTED",version="1"} 9\n'
    )
    before, after = failures_from_metrics(text % 3, "m"), failures_from_metrics(text % 8, "m")
    assert after == {"REJECTED": 9, "OTHER": 2}
    counted = counters_between([], [], before, after)
    assert counted is not None and counted.failed_by_reason == {"REJECTED": 5}
    assert typed(ServerCounters, json_of(counted)) == counted


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_on_the_command_line_shows_and_keeps_what_was_done(
    how: signal.Signals, code: int, tmp_path: Path
) -> None:
    path = tmp_path / "run.npz"
    with fake_server() as server:
        command = [sys.executable, "-m", "tritonsmith", "load", server.url, "-m", "m", "--duration", "60s"]
        process = subprocess.Popen(
            [*command, "-o", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 30
        while server.infer_requests < 50 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "interrupted" in out
    assert "Traceback" not in err
    records = load_records(path)
    assert records.header.interrupted
    assert len(records) >= 50


def test_ctrl_c_in_a_search_for_a_rate_is_neither_success_nor_a_missed_limit() -> None:
    with fake_server(delay_s=0.002) as server:
        search = ("load", server.url, "-m", "m", "--slo-p99", "1s", "--duration", "1s", "--warmup", "0s")
        process = subprocess.Popen(
            [sys.executable, "-m", "tritonsmith", *search, "--format", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        while "/s  " not in (line := process.stderr.readline()):  # the first probe is told
            assert line, "it ended before"
        seen, end = server.infer_requests, time.monotonic() + 30
        while server.infer_requests < seen + 20 and time.monotonic() < end:  # the next one is under way
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    said = json.loads(out)
    assert said["slo"]["interrupted"] and "was interrupted" in said["slo"]["sentence"]
    assert "error" not in said and "error[" not in err


def test_a_replay_sends_at_the_files_times(tmp_path: Path) -> None:
    times = tmp_path / "times.txt"
    times.write_text("0.0\n0.1\n0.15\n")
    path = tmp_path / "run.npz"
    with fake_server() as server:
        assert command(server.url, "-m", "m", "--replay", str(times), "-o", str(path))[0] == 0
    records = load_records(path)
    offsets = records.scheduled_ns - records.header.start_ns
    assert offsets.tolist() == [0, 100_000_000, 150_000_000]


def test_the_rate_climbs_by_steps(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    with fake_server() as server:
        code, text = command(
            *(server.url, "-m", "m", "--step", "20:500ms", "--step", "60:500ms", "--request-rate", "100"),
            *("--duration", "1500ms", "--warmup", "0s", "-o", str(path)),
        )
    assert code == 0
    records = load_records(path)
    offsets_s = (records.scheduled_ns - records.header.start_ns) / 1e9
    assert np.histogram(offsets_s, [0, 0.5, 1.0, 1.5])[0].tolist() == pytest.approx([10, 30, 50], abs=1)
    result = result_from_records(records)
    steps = result.summary.steps
    assert [step.load for step in steps] == [20, 60, 100]
    assert [step.requests for step in steps] == pytest.approx([10, 30, 50], abs=1)
    assert [step.duration_s for step in steps] == pytest.approx([0.5, 0.5, 0.5], abs=0.05)
    assert typed(Summary, json_of(result.summary)) == result.summary
    assert "UNSETTLED" not in text and "20 → 60 → 100 requests/s" in text
    assert "60 requests/s" in text and "p99" in text


def test_a_closed_loop_has_steps_too_and_a_ramp_comes_before_the_measurement(tmp_path: Path) -> None:
    with fake_server(delay_s=0.01) as server:
        shape = ("--step", "2:400ms", "-c", "4", "--duration", "600ms", "--warmup", "200ms")
        code, text = command(server.url, *shape, "--format", "json", "-o", str(tmp_path / "steps.npz"))
        steps = json.loads(text)["summary"]["steps"]
        assert code == 0 and [step["load"] for step in steps] == [2, 4]
        assert [step["duration_s"] for step in steps] == pytest.approx([0.2, 0.4], abs=0.05)
        # How many were in flight, not how fast they were answered: a busy machine does not change that.
        records = load_records(tmp_path / "steps.npz")
        change_ns = records.header.start_ns + 395_000_000  # a timer may ring a little early
        assert [_most_in_flight(records, before=change_ns), _most_in_flight(records)] == [2, 4]
        code, text = command(
            *(server.url, "-c", "4", "--ramp", "400ms", "--duration", "300ms", "--warmup", "0s"),
            *("--format", "json"),
        )
    summary = json.loads(text)["summary"]
    # What the data still call warm-up, on a busy machine for one, is left out of the 0.3 s after the ramp.
    assert summary["warmup_s"] + summary["duration_s"] == pytest.approx(0.3, abs=0.1)
    assert summary["load"]["ramp_s"] == 0.4


def _most_in_flight(records: RequestRecords, before: float = math.inf) -> int:
    """The most requests that were on their way at one moment before this time."""
    sent = records.sent_ns[records.sent_ns < before]
    return max(int(((records.sent_ns <= at) & (records.end_ns > at)).sum()) for at in sent)


def test_sequences_priority_and_timeout_reach_the_server() -> None:
    with fake_server() as server:
        arguments = (
            "-m",
            "m",
            "--sequences",
            "3",
            "--sequence-length",
            "4",
            "--requests",
            "36",
            "--warmup",
            "0s",
        )
        code, text = command(server.url, *arguments, "--priority", "2", "--request-timeout", "50ms")
        seen = server.parameters
    assert code == 0
    assert len({p["sequence_id"] for p in seen}) in range(9, 12)
    assert sum(p["sequence_start"] for p in seen) == sum(p["sequence_end"] for p in seen)
    assert all(p["priority"] == 2 and p["timeout"] == 50_000 for p in seen)
    assert "CPU and memory unknown: the server is in the client's own process" in text


def test_flags_become_values() -> None:
    assert shapes_from_flags(["a:b:1,2..3,9~2"]) == {"a:b": (Span(1, 1), Span(2, 3), Normal(9, 2))}
    assert ranges_from_flags(["ids:0..9", "x:-1.5..1"]) == {"ids": Span(0, 9), "x": Span(-1.5, 1.0)}
    assert headers_from_flags(["Authorization: Bearer a:b"]) == {"Authorization": "Bearer a:b"}
    assert [seconds_from_text(t) for t in ("500ms", "5s", "2m", "1.5")] == [0.5, 5.0, 120.0, 1.5]


def test_a_reload_in_between_is_not_taken_for_a_difference() -> None:
    before = [{"version": "1", "inference_count": 10, "execution_count": 10}]
    after = [{"version": "1", "inference_count": 3, "execution_count": 3}]
    assert counters_between(before, after) is None
    grown = counters_between(after, before)
    assert grown is not None and grown.inferences == 7


def test_data_options_are_used() -> None:
    test = LoadTest("m", Closed(1), duration_s=None, requests=30, data=DataOptions(batch_size=4, pool=3))
    with fake_server() as server:
        result = run_load_test(server.url, test)
        assert set(server.batch_counts) == {4}
    assert result.records.header.batch_sizes == (4, 4, 4)
