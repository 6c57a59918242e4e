"""A trial that Ctrl-C cuts short is told as such, whichever of its loads it was, and counts for nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

from tests.perf.fake_server import FakeServer, fake_server
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.sweep.plan import Trial, spec_from_mapping
from tritonsmith.perf.sweep.run_record import facts_of, values_of
from tritonsmith.perf.sweep.trial import Subject, TrialResult, measure
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array

REQUESTS = [InferPayload("m", (tensor_from_array("x", np.ones((1, 4), np.float32)),), batch_size=1)]


class Elsewhere:
    """A server whose process is not ours to see."""

    pid = None


def interrupt_after(server: FakeServer, requests: int) -> threading.Thread:
    """Ctrl-C for this process as soon as the server has seen so many."""

    def watch() -> None:
        end = time.monotonic() + 30
        while server.infer_requests < requests and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "stated",
    [{"concurrency": [2]}, {"slo_p99_ms": 50.0}],
    ids=["a closed loop", "the closed loop that a search for a rate begins with"],
)
def test_an_interrupted_trial_is_marked_and_counts_in_no_verdict(stated: dict[str, Any]) -> None:
    spec = spec_from_mapping(
        {
            "model": "m",
            "space": {"instance_group.count": [1, 2]},
            "warmup_s": 0.2,
            "duration_s": 1.0,
            **stated,
        }
    )
    with fake_server(delay_s=0.01) as server:
        subject = Subject(Elsewhere(), server.url.removeprefix("http://"), "m", "m")
        watch = interrupt_after(server, 5)
        result = measure(subject, Trial(0, 0, "arm00", 2), spec, REQUESTS)
        watch.join()
    assert result.interrupted and typed(TrialResult, json_of(result)).interrupted
    assert values_of(spec, [result]) == {} and facts_of([result]) == {}
    assert result.slo is None
