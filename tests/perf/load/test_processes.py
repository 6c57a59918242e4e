from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.perf.fake_server import FakeServer, fake_server
from tritonsmith.builder.base.errors import ServerError, TrialError
from tritonsmith.perf.load.runs.generator import ClientOptions, Progress, generate
from tritonsmith.perf.load.runs.plan import Plan
from tritonsmith.perf.load.runs.processes import shares
from tritonsmith.perf.records.schedule import Closed, Load, Open
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array

OPTIONS = ClientOptions(processes=2)
PAYLOADS = [
    InferPayload("m", (tensor_from_array("x", np.full((1, 4), i, np.float32)),), batch_size=1)
    for i in range(4)
]


def test_the_shares_of_a_closed_loop_add_up() -> None:
    plans = shares(Plan(Closed(7), 0, 1, 10, 0), 3)
    assert [p.load.concurrency for p in plans if isinstance(p.load, Closed)] == [3, 2, 2]
    assert [p.requests for p in plans] == [4, 3, 3]
    assert len(shares(Plan(Closed(1), 0, 1, None, 0), 4)) == 1


def test_the_shares_of_an_open_loop_are_together_the_whole_schedule() -> None:
    plan = Plan(Open(100, "poisson", seed=1), 0.2, 1.0, None, 0)
    parts = np.concatenate([p.send_times_ns() for p in shares(plan, 3)])
    assert np.array_equal(np.sort(parts), plan.send_times_ns())


@pytest.mark.parametrize("load", [Closed(4), Open(200)])
def test_two_processes_make_one_record_of_one_load(load: Load) -> None:
    told: list[Progress] = []
    called: list[float] = []
    with fake_server() as server:
        records = generate(
            HttpTarget(server.url),
            load,
            PAYLOADS,
            warmup_s=0.2,
            duration_s=0.5,
            options=OPTIONS,
            on_progress=told.append,
            at_measure_start=lambda: called.append(time.monotonic()),
        )
        assert len(records) == server.infer_requests
    assert records.ok.all()
    assert records.header.processes == 2
    assert records.header.load["kind"] == ("closed" if isinstance(load, Closed) else "open")
    counts = np.bincount(records.payload_index)
    assert counts.max() - counts.min() <= 0.2 * counts.max() + 4
    assert told[-1].requests > 10
    assert abs(called[0] - records.header.measure_start_ns / 1e9) < 0.2
    if isinstance(load, Open):
        assert len(records) == 140
        assert set(np.diff(records.scheduled_ns).tolist()) == {5_000_000}, "one clock, one start"
    else:
        assert records.header.load["concurrency"] == 4


def test_a_server_that_is_not_there_is_the_same_error() -> None:
    with pytest.raises(ServerError) as error:
        generate(HttpTarget("http://127.0.0.1:1"), Closed(4), PAYLOADS, duration_s=1, options=OPTIONS)
    assert error.value.code == "connect"


@contextmanager
def under_load(server: FakeServer, act: Callable[[], None]) -> Iterator[None]:
    """Does it once the server has seen requests."""

    def wait_and_act() -> None:
        while server.infer_requests < 50:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    yield
    thread.join()


def test_ctrl_c_reaches_every_process_and_their_rows_are_kept() -> None:
    with fake_server() as server, under_load(server, lambda: os.kill(os.getpid(), signal.SIGINT)):
        started = time.monotonic()
        records = generate(HttpTarget(server.url), Open(200), PAYLOADS, duration_s=60, options=OPTIONS)
    assert time.monotonic() - started < 20
    assert records.header.interrupted
    assert len(records) >= 50


def test_a_process_that_dies_ends_the_load_with_one_error() -> None:
    with (
        fake_server() as server,
        under_load(server, lambda: multiprocessing.active_children()[0].kill()),
        pytest.raises(TrialError) as error,
    ):
        generate(HttpTarget(server.url), Closed(4), PAYLOADS, duration_s=60, options=OPTIONS)
    assert error.value.code == "client_died"
    assert not multiprocessing.active_children()


KILLED = """
import sys, time
from tritonsmith.perf.load.runs.generator import generate
from tritonsmith.perf.wire.http import HttpTarget
from tests.perf.load.test_processes import OPTIONS, PAYLOADS, Closed
generate(
    HttpTarget(sys.argv[1]), Closed(4), PAYLOADS, duration_s=30, options=OPTIONS,
    on_progress=lambda progress: time.sleep(0.5),
)
"""


def test_a_load_that_is_killed_takes_its_processes_along() -> None:
    """What they told and nobody has read makes the pipe end with an error where it would end in silence."""
    with fake_server(delay_s=0.01) as server:
        load = subprocess.Popen(
            [sys.executable, "-c", KILLED, server.url], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        while server.infer_requests < 200:
            assert load.poll() is None
            time.sleep(0.02)
        load.kill()
        _, errors = load.communicate(timeout=15)  # until the last of them has let go of it
    assert not errors, errors
