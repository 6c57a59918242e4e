"""Every benchmark of the harness, one after the other → one table: what is wanted, what was measured.

    python -m tests.bench [clients | stall | speed | alike | planted ...] [--rounds 3] [--seconds 2]

With no name all of them run, which takes about a quarter of an hour. They print and never fail on time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator

from tests.bench import clients, peers, stall
from tests.bench.clients import Case
from tests.bench.tiny_server import CACHED, LARGE, MODEL, tiny_server, write_models
from tritonsmith.builder.base.text.console import emit_text, note

Row = tuple[str, str, str]
"""(number, what is wanted of it, what was measured)"""


def main() -> None:
    """Print each benchmark's own lines, then the table."""
    parts: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
        "clients": _clients,
        "stall": _stall,
        "speed": _speed,
        "alike": _alike,
        "planted": _planted,
    }
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="*", help=", ".join(parts))
    parser.add_argument("--rounds", type=int, default=3, help="of the clients")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each client's run")
    parser.add_argument(
        "--quiet", type=float, default=0.0, help="seconds to wait for a quiet machine, a round"
    )
    given = parser.parse_args()
    unknown = [name for name in given.part if name not in parts]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of {', '.join(parts)}")
    rows: list[Row] = []
    for name in given.part or parts:
        emit_text(f"\n{name}")
        rows += parts[name](given)
    load = os.getloadavg()[0]
    emit_text(f"\n{os.cpu_count()} cores, load average {load:.1f} at the end")
    emit_text("| number | wanted | measured |\n|---|---|---|")
    for number, wanted, measured in rows:
        emit_text(f"| {number} | {wanted} | {measured} |")


def _clients(given: argparse.Namespace) -> Iterator[Row]:
    for client in peers.missing():
        note(f"not on PATH, and so not in the table: {client}")
    cases: dict[tuple[str, str, int], Case] = {}
    with tiny_server(None, "", write_models) as served:
        emit_text(clients.HEAD)
        for case in clients.measure(served, given.rounds, given.seconds, ("http", "grpc"), given.quiet):
            cases[case.protocol, case.model, case.concurrency] = case
            for line in clients.lines_of(case):
                emit_text(line)
    for protocol, model, concurrency, client, wanted in (
        ("http", MODEL, 32, "wrk", "≥ 0.9"),
        ("http", CACHED, 32, "wrk", "≥ 0.9"),
        ("http", MODEL, 32, "perf_analyzer", "≥ 1.4"),
        ("http", CACHED, 32, "perf_analyzer", "≥ 1.4"),
        ("grpc", MODEL, 32, "perf_analyzer", "≥ 1.5"),
        ("grpc", CACHED, 32, "perf_analyzer", "≥ 1.5"),
        ("grpc", LARGE, 8, "perf_analyzer", "≥ 1.5"),
        ("grpc", MODEL, 32, "grpcio", ""),
    ):
        if (protocol, model, concurrency) in cases:
            yield _ratio(cases[protocol, model, concurrency], client, wanted)
    if ("http", MODEL, 8) in cases:
        cpu_us = cases["http", MODEL, 8].median("ours").cpu_us
        yield "client CPU a request, HTTP, concurrency 8", "≤ 40 µs", f"{cpu_us:.1f} µs"


def _ratio(case: Case, client: str, wanted: str) -> Row:
    name = f"{case.protocol}, {case.model}, concurrency {case.concurrency}: ours / {client}"
    if client not in case.rounds[0]:
        return name, wanted, f"{client} is not on PATH"
    each = case.ratios(client)
    cost = case.median(client).both_us / case.median("ours").both_us
    measured = f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f}); by CPU {cost:.2f}"
    return name, wanted, measured


def _stall(given: argparse.Namespace) -> Iterator[Row]:
    found = stall.measure(200.0, 5.0)
    yield "p99 of an open loop at 200/s, server stopped for 1 s", "≥ 900 ms", f"{found['p99']:,.0f} ms"


def _speed(given: argparse.Namespace) -> Iterator[Row]:
    yield "a sweep of 5 configs × 5 load points", "≤ 60 s, ≤ 3 s a point", _last_line("points_per_minute")


def _alike(given: argparse.Namespace) -> Iterator[Row]:
    yield "winners named among identical configs", "≤ 5 %", _last_line("aa_rate")


def _planted(given: argparse.Namespace) -> Iterator[Row]:
    said = _last_line("planted_truth", "--rounds", "3", "--seconds", "0.25")
    yield "the planted best found; intervals that hold the truth", "≥ 95 %; ≥ 90 %", said


def _last_line(script: str, *arguments: str) -> str:
    """Run one of the benchmarks beside this file, show what it prints, give its last line."""
    command = [sys.executable, "-m", f"tests.bench.{script}", *arguments]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line.rstrip() or last
            emit_text(line.rstrip())
    return last if process.returncode == 0 else f"ended with {process.returncode}: {last}"


if __name__ == "__main__":
    main()
