from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import ServerError, UsageError
from tritonsmith.perf.load.answers import Validation
from tritonsmith.perf.load.runs.generator import ClientOptions, Progress, generate
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.schedule import Closed, Load, Open, Replay
from tritonsmith.perf.stats import summarise
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array


def payloads(count: int = 4) -> list[InferPayload]:
    rng = np.random.default_rng(0)
    made = []
    for rows in range(1, count + 1):
        x = rng.random((rows, 4), dtype=np.float32)
        made.append(InferPayload("m", (tensor_from_array("x", x),), batch_size=rows, expected={"y": 2 * x}))
    return made


def consistent(records: RequestRecords) -> None:
    """What holds of any records."""
    sent = records.sent_ns > 0
    assert (np.diff(records.scheduled_ns) >= 0).all()
    assert (records.sent_ns[sent] >= records.scheduled_ns[sent]).all(), "nothing is sent before it is due"
    assert (records.end_ns >= records.scheduled_ns).all()
    answered = records.ok
    assert (records.first_byte_ns[answered] >= records.sent_ns[answered]).all()
    assert (records.end_ns[answered] >= records.first_byte_ns[answered]).all()
    assert int(records.status.max(initial=0)) < len(records.header.reasons)


@pytest.mark.parametrize(
    "load",
    [Closed(4), Open(300), Open(300, "poisson", seed=3), Replay(tuple(range(0, 200_000_000, 1_000_000)))],
)
def test_every_request_that_the_server_saw_is_a_row(load: Load) -> None:
    with fake_server() as server:
        records = generate(HttpTarget(server.url), load, payloads(), duration_s=0.4)
        assert len(records) == server.infer_requests
    consistent(records)
    assert records.ok.all()
    assert len(records) > 50
    assert records.header.batch_sizes == (1, 2, 3, 4)
    assert records.header.client_cpu_s > 0
    assert records.header.client_wall_s >= 0.1


def test_a_closed_loop_keeps_as_many_in_flight_as_said_and_no_more() -> None:
    with fake_server(delay_s=0.02) as server:
        records = generate(HttpTarget(server.url), Closed(7), payloads(), duration_s=0.5)
        # A test beside this one whose server had this port before may knock, too.
        assert 7 <= server.connections <= 14
    consistent(records)
    steps = np.concatenate([np.ones(len(records)), -np.ones(len(records))])
    order = np.argsort(np.concatenate([records.sent_ns, records.end_ns]), kind="stable")
    assert steps[order].cumsum().max() == 7
    assert 7 * 0.5 / 0.02 / 4 < len(records) <= 7 * 0.5 / 0.02 + 7, (
        "fewer when the machine is busy, never more"
    )


def test_the_pool_is_cycled_evenly_in_an_order_from_the_seed() -> None:
    with fake_server() as server:
        runs = [
            generate(HttpTarget(server.url), Open(500), payloads(5), requests=50, seed=seed)
            for seed in (1, 1, 2)
        ]
    first, same, other = (run.payload_index.tolist() for run in runs)
    assert first == same != other
    assert np.bincount(first).tolist() == [10] * 5


def test_an_open_loop_sends_when_due_whatever_the_answers_do() -> None:
    with fake_server(delay_s=0.3) as server:
        records = generate(HttpTarget(server.url), Open(200), payloads(), duration_s=0.5)
        arrivals = np.diff(server.request_times_s)
        assert server.connections > 16, "more connections are opened when all are busy"
    consistent(records)
    assert len(records) == 100
    assert np.median(arrivals) == pytest.approx(0.005, rel=0.3)
    offsets = records.scheduled_ns - records.header.start_ns
    assert offsets.tolist() == [i * 5_000_000 for i in range(100)]
    assert np.median(records.sent_ns - records.scheduled_ns) < 2_000_000


def test_a_server_that_stands_still_for_a_second_shows_in_the_open_loops_tail() -> None:
    with fake_server() as server:
        timer = threading.Timer(
            0.7, lambda: setattr(server.behaviour, "stall_until_s", time.monotonic() + 1.0)
        )
        timer.start()
        records = generate(HttpTarget(server.url), Open(200), payloads(), duration_s=3.0)
        timer.join()
    consistent(records)
    assert len(records) == 600
    assert records.ok.all()
    latency_s = records.latency_ns / 1e9
    assert np.percentile(latency_s, 99) >= 0.9
    assert np.percentile(latency_s, 50) < 0.1


def test_waiting_for_a_free_connection_counts_from_the_time_it_was_due() -> None:
    options = ClientOptions(connections=1, max_connections=2)
    with fake_server(delay_s=0.05) as server:
        records = generate(HttpTarget(server.url), Open(100), payloads(), duration_s=0.5, options=options)
        assert server.connections == 2
    consistent(records)
    assert records.ok.all()
    # Two connections of 20 requests/s each serve 40 of 100: the last one waits for the 50 × 25 ms of all.
    assert records.latency_ns[-1] == pytest.approx(0.8e9, rel=0.35)
    assert (records.end_ns - records.sent_ns).max() < 0.3e9
    assert records.header.most_in_flight == 2 and summarise(records).overloaded


@pytest.mark.parametrize("load", [Closed(3), Open(200)])
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ({"error_every": 5}, "HTTP 503: Request timeout expired"),
        ({"drop_every": 5}, "connection: "),
        ({"drop_every": 5, "drop_inside": True}, "connection: "),
    ],
)
def test_failures_are_rows_with_their_reason_and_the_load_goes_on(
    load: Load, behaviour: dict[str, int], reason: str
) -> None:
    with fake_server(**behaviour) as server:
        records = generate(HttpTarget(server.url), load, payloads(), duration_s=0.5)
        seen = server.infer_requests
    consistent(records)
    assert len(records) == seen
    failures = records.failures()
    assert sum(failures.values()) == seen // 5
    assert all(text.startswith(reason) for text in failures)


@pytest.mark.parametrize("load", [Closed(3), Open(200)])
def test_a_server_that_restarts_fails_requests_and_is_found_again(load: Load) -> None:
    with fake_server() as server:

        def restart() -> None:
            time.sleep(0.3)
            server.stop_listening()
            time.sleep(0.3)
            server.listen()

        thread = threading.Thread(target=restart)
        thread.start()
        records = generate(HttpTarget(server.url), load, payloads(), duration_s=1.2)
        thread.join()
    consistent(records)
    down = records.failures()
    assert any(text.startswith("connect: ") for text in down), down
    unsent = records.sent_ns == 0
    assert not records.ok[unsent].any()
    last = records.scheduled_ns > records.header.start_ns + 900_000_000
    assert last.any() and records.ok[last].all(), "the load is back after the restart"
    if isinstance(load, Open):
        assert len(records) == 240, "what was due and could not be sent is a row too"


@pytest.mark.parametrize("load", [Closed(2), Open(20)])
def test_an_answer_that_never_comes_is_a_timeout(load: Load) -> None:
    started = time.monotonic()
    with fake_server(never=True) as server:
        records = generate(
            HttpTarget(server.url), load, payloads(), duration_s=0.3, options=ClientOptions(timeout_s=0.2)
        )
    consistent(records)
    assert time.monotonic() - started < 3
    assert set(records.failures()) == {"timeout: no answer within 0.2 s"}
    assert (records.end_ns - records.sent_ns).min() >= 0.2e9


@pytest.mark.parametrize("load", [Closed(2), Open(300)])
def test_wrong_answers_are_found_on_the_sample(load: Load) -> None:
    options = ClientOptions(validation=Validation(every=1))
    with fake_server(wrong_every=3) as server:
        records = generate(HttpTarget(server.url), load, payloads(3), duration_s=0.3, options=options)
        seen = server.infer_requests
    assert records.header.checked == seen
    assert records.failures() == {"wrong answer: output `y` differs from the expected values": seen // 3}


def test_every_payload_is_checked_once_and_then_one_in_so_many() -> None:
    options = ClientOptions(validation=Validation(every=10))
    with fake_server() as server:
        records = generate(HttpTarget(server.url), Open(1000), payloads(5), requests=300, options=options)
    assert records.ok.all()
    # 5 first ones, then every 11th: the next step that has no divisor in common with a pool of 5 is 11.
    assert records.header.checked == 5 + (300 - 5) // 11 + 1


def test_answers_without_expected_outputs_are_not_checked() -> None:
    bare = [InferPayload("m", payload.inputs) for payload in payloads()]
    options = ClientOptions(validation=Validation(every=1))
    with fake_server(wrong_every=1) as server:
        records = generate(HttpTarget(server.url), Closed(1), bare, requests=20, options=options)
    assert records.header.checked == 0
    assert records.ok.all()


def test_the_warm_up_is_kept_apart_and_a_count_begins_after_it() -> None:
    calls: list[float] = []
    with fake_server(delay_s=0.005) as server:
        for load in (Closed(2), Open(100)):
            records = generate(
                HttpTarget(server.url),
                load,
                payloads(),
                warmup_s=0.2,
                requests=30,
                at_measure_start=lambda: calls.append(time.monotonic()),
            )
            measured = records.measured()
            assert len(measured) in range(28, 33)
            assert len(records) > len(measured) + 10
            assert records.header.measure_start_ns - records.header.start_ns == 200_000_000
            assert abs(calls[-1] - records.header.measure_start_ns / 1e9) < 0.1
    assert len(calls) == 2


def test_a_closed_loop_can_ramp_up() -> None:
    with fake_server(delay_s=0.01) as server:
        records = generate(HttpTarget(server.url), Closed(4, ramp_s=0.4), payloads(), duration_s=0.6)
    consistent(records)
    early = (records.end_ns < records.header.start_ns + 100_000_000).sum()
    late = (records.end_ns > records.header.start_ns + 500_000_000).sum()
    assert 2 * early < late


@pytest.mark.parametrize("processes", [1, 2])
def test_a_closed_loop_climbs_and_falls_by_steps(processes: int) -> None:
    load = Closed(2, steps=((2, 0.3), (6, 0.3)))
    options = ClientOptions(processes=processes)
    with fake_server(delay_s=0.01) as server:
        records = generate(HttpTarget(server.url), load, payloads(), duration_s=0.9, options=options)
    consistent(records)
    start = records.header.start_ns
    for from_s, to_s, want in ((0.05, 0.28, 2), (0.35, 0.58, 6), (0.65, 0.88, 2)):
        instants = start + (np.linspace(from_s, to_s, 50) * 1e9).astype(np.int64)
        flying = [int(((records.sent_ns <= t) & (records.end_ns > t)).sum()) for t in instants]
        assert max(flying) == want and np.median(flying) == want
    assert (records.header.stop_ns - start) / 1e9 == pytest.approx(0.9, abs=0.15)


def test_more_connections_than_a_shell_allows_by_default_are_opened() -> None:
    code = (
        "import resource, sys; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard)); sys.argv = ['tritonsmith', *sys.argv[1:]];"
        "from tritonsmith.command_line import main; main()"
    )
    with fake_server() as server:
        arguments = [
            "load",
            server.url,
            "-c",
            "150",
            "--requests",
            "600",
            "--warmup",
            "0s",
            "--format",
            "json",
        ]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stdout[:500] + done.stderr
    assert json.loads(done.stdout)["failures"] == {}


def test_progress_is_told_and_ends_near_one() -> None:
    told: list[Progress] = []
    with fake_server(error_every=2) as server:
        generate(HttpTarget(server.url), Closed(2), payloads(), duration_s=0.5, on_progress=told.append)
    assert len(told) >= 4
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert told[-1].done > 0.6
    assert told[-1].failed in range(told[-1].requests // 2 - 1, told[-1].requests // 2 + 2)


@pytest.mark.parametrize("load", [Closed(3), Open(100)])
@pytest.mark.parametrize("behaviour", [{}, {"never": True}])
def test_ctrl_c_ends_the_run_and_keeps_what_was_recorded(load: Load, behaviour: dict[str, bool]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with fake_server(**behaviour) as server:
        timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        started = time.monotonic()
        records = generate(HttpTarget(server.url), load, payloads(), duration_s=30)
        timer.join()
    assert time.monotonic() - started < 3
    consistent(records)
    assert records.header.interrupted
    assert len(records) >= 3
    assert records.ok.any() == (not behaviour)
    assert signal.getsignal(signal.SIGINT) is before


def test_no_server_at_the_start_is_an_error_and_not_a_thousand_rows() -> None:
    for load in (Closed(2), Open(10)):
        with pytest.raises(ServerError) as error:
            generate(HttpTarget("http://127.0.0.1:1"), load, payloads(), duration_s=1)
        assert error.value.code == "connect"
        assert "refused" in str(error.value.seen)


def test_a_run_without_an_end_or_a_payload_is_refused() -> None:
    target = HttpTarget("http://127.0.0.1:1")
    with pytest.raises(UsageError):
        generate(target, Closed(1), payloads())
    with pytest.raises(UsageError):
        generate(target, Closed(1), [], duration_s=1)
