"""Our generator, wrk, perf_analyzer and grpcio, interleaved on one live Triton → rates, ratios, client CPU a request.

    python -m tests.bench.clients [--rounds 3] [--seconds 2] [--url http://127.0.0.1:8000 --grpc-url 127.0.0.1:8001]

Three models: a 64×16 MatMul; the same answered from Triton's response cache, where the server costs least and
clients differ most; and requests of 256 KiB. What is not on PATH is left out and said.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.peers import Measured, missing, run_grpcio, run_ours, run_perf_analyzer, run_wrk
from tests.bench.tiny_server import CACHED, LARGE, MODEL, payload_for, tiny_server, write_models
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.console import emit_text, note
from tritonsmith.perf.load.load_test import ServedAt
from tritonsmith.perf.wire.grpc import GrpcTarget
from tritonsmith.perf.wire.http import HttpTarget

Side = Callable[[int, float], Measured]
HEAD = (
    "| protocol | model | concurrency | client | requests/s | CPU µs a request: client | server | ours / it | "
    "its CPU / ours, server included |\n|---|---|--:|---|--:|--:|--:|---|--:|"
)
CASES = ((MODEL, 8), (MODEL, 32), (CACHED, 8), (CACHED, 32), (LARGE, 8))


@dataclass(frozen=True, slots=True)
class Case:
    """What all clients of a row did; their measurements, a mapping a round."""

    protocol: str
    model: str
    concurrency: int
    rounds: tuple[Mapping[str, Measured], ...]

    def median(self, client: str) -> Measured:
        """Of each number by itself."""
        seen = [r[client] for r in self.rounds]
        return Measured(
            statistics.median(m.requests_per_s for m in seen),
            statistics.median(m.cpu_us for m in seen),
            statistics.median(m.server_us for m in seen),
        )

    def ratios(self, client: str) -> list[float]:
        """Ours over the other's rate, round by round."""
        return [r["ours"].requests_per_s / r[client].requests_per_s for r in self.rounds]


def sides_of(served: ServedAt, protocol: str, model: str) -> dict[str, Side]:
    """The clients that are there for this protocol."""
    payload = payload_for(model)
    sides: dict[str, Side] = {}
    has_analyzer = shutil.which("perf_analyzer") is not None
    if protocol == "http":
        target = HttpTarget(served.http_url)
        request = target.encode(payload)
        sides["ours"] = lambda c, s: run_ours(target, payload, c, s, served.pid)
        if shutil.which("wrk"):
            sides["wrk"] = lambda c, s: run_wrk(
                f"{target.url}/v2/models/{model}/infer", request, c, s, served.pid
            )
        address = target.url.removeprefix("http://")
    else:
        grpc = GrpcTarget(served.grpc_url)
        address = grpc.url.removeprefix("grpc://")
        message = grpc.encode(payload)[5:]
        sides["ours"] = lambda c, s: run_ours(grpc, payload, c, s, served.pid)
        sides["grpcio"] = lambda c, s: run_grpcio(address, message, c, s, served.pid)
    if has_analyzer:
        sides["perf_analyzer"] = lambda c, s: run_perf_analyzer(
            protocol, address, model, c, s, (served.http_url.removeprefix("http://"), served.pid)
        )
    return sides


def wait_for_quiet(most_s: float) -> float:
    """Until nothing else uses a tenth of the machine, at most so long; the share that others use, 0 to 1."""
    import psutil

    deadline = time.monotonic() + most_s
    while True:
        share = float(psutil.cpu_percent(0.5)) / 100
        if share < 0.1 or time.monotonic() > deadline:
            return share


def measure(
    served: ServedAt,
    rounds: int,
    seconds: float,
    protocols: Sequence[str],
    quiet_s: float = 0.0,
    models: Sequence[str] = (),
    concurrencies: Sequence[int] = (),
) -> Iterator[Case]:
    """A case a protocol, model and concurrency; the order turns round every round, so that a drift of the
    machine falls on all alike. quiet_s: wait at most so long for a quiet machine before each round."""
    for protocol in protocols:
        for model, concurrency in CASES:
            if model not in (models or [model]) or concurrency not in (concurrencies or [concurrency]):
                continue
            sides = sides_of(served, protocol, model)
            done = []
            for number in range(rounds):
                if quiet_s:
                    wait_for_quiet(quiet_s)
                names = list(sides) if number % 2 == 0 else list(reversed(sides))
                try:
                    if number == 0:
                        sides["ours"](concurrency, 0.5)
                    measured = {name: sides[name](concurrency, seconds) for name in names}
                except (RuntimeError, TritonsmithError) as error:
                    note(f"a round of {protocol}, {model}, concurrency {concurrency} is lost: {error}")
                    continue
                done.append({name: measured[name] for name in sides})
            if done:
                yield Case(protocol, model, concurrency, tuple(done))


def lines_of(case: Case) -> Iterator[str]:
    """A row of Markdown for each client, ours first."""
    for client in case.rounds[0]:
        of = case.median(client)
        ratio = cost = ""
        if client != "ours":
            each = case.ratios(client)
            ratio = f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
            cost = f"{of.both_us / case.median('ours').both_us:.2f}"
        yield (
            f"| {case.protocol} | {case.model} | {case.concurrency} | {client} | {of.requests_per_s:,.0f} "
            f"| {of.cpu_us:.1f} | {of.server_us:.0f} | {ratio} | {cost} |"
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="of a server with the three models; an embedded one by default")
    parser.add_argument("--grpc-url", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument(
        "--quiet", type=float, default=0.0, help="seconds to wait for a quiet machine, a round"
    )
    parser.add_argument("--model", nargs="*", default=[], help="only these of the three")
    parser.add_argument("--concurrency", nargs="*", type=int, default=[], help="only these")
    parser.add_argument("--protocol", nargs="*", default=["http", "grpc"])
    given = parser.parse_args()
    for client in missing():
        note(f"not on PATH, and so not in the table: {client}")
    with tiny_server(given.url, given.grpc_url, write_models) as served:
        emit_text(
            f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; medians of {given.rounds} rounds"
        )
        emit_text(HEAD)
        cases = measure(
            served,
            given.rounds,
            given.seconds,
            given.protocol,
            given.quiet,
            given.model,
            given.concurrency,
        )
        for case in cases:
            for line in lines_of(case):
                emit_text(line)


if __name__ == "__main__":
    main()
