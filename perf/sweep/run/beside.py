"""(another model of the server, a concurrency) → load on it from a process of its own while the block runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.load.runs.children import start_child
from tritonsmith.perf.load.runs.generator import generate
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.server import control
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import InferPayload

_PIECE_S = 10.0
_UNDER_WAY_S = 10.0
"""A process that has sent nothing by then is not waited for any longer."""


class BesideLoad:
    """Closed loops on other models; what they got done is in the server's counters, not here."""

    def __init__(
        self, payloads: Mapping[str, Sequence[InferPayload]], concurrency: Mapping[str, int]
    ) -> None:
        self._payloads = payloads
        self._concurrency = concurrency
        self._processes: dict[str, BaseProcess] = {}

    def ensure(self, http_url: str) -> None:
        """Start what does not run, at the start and after a server died and took the load with it, and wait
        until the server has answered some of it: a trial is not to begin without its neighbours."""
        answered: dict[str, int] = {}
        for model, concurrency in self._concurrency.items():
            running = self._processes.get(model)
            if running is None or not running.is_alive():
                answered[model] = _answered(http_url, model)
                self._processes[model] = start_child(_work, http_url, concurrency, self._payloads[model])
        deadline_s = time.monotonic() + _UNDER_WAY_S
        while answered and time.monotonic() < deadline_s:
            time.sleep(0.02)
            answered = {m: n for m, n in answered.items() if _answered(http_url, m) == n}

    def stop(self) -> None:
        """End the load."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join(5.0)
        self._processes.clear()


def _answered(http_url: str, model: str) -> int:
    return sum(
        int(version.get("inference_count", 0)) for version in control.model_statistics(http_url, model)
    )


def _work(http_url: str, concurrency: int, payloads: Sequence[InferPayload]) -> None:
    seed = 0
    while True:  # in pieces, so that their records do not fill the memory
        try:
            generate(HttpTarget(http_url), Closed(concurrency), payloads, duration_s=_PIECE_S, seed=seed)
        except TritonsmithError:
            return  # the server is gone; the sweep finds that out for itself
        seed += 1
