"""Our gRPC, our HTTP and grpcio's own client, interleaved on one live Triton → request rates and client CPU.

    python -m perf.bench.grpc_rate [--url http://127.0.0.1:8000 --grpc-url 127.0.0.1:8001 --model M]

grpcio's asyncio client sends bytes that were serialised once and reads none: the least a library can cost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable

from builder.console import emit_text
from perf.bench.http_vs_wrk import run_ours
from perf.bench.tiny_server import MODEL, payload_for, tiny_server
from perf.wire.grpc import METHOD, GrpcTarget
from perf.wire.http import HttpTarget

Run = Callable[[int, float], tuple[float, float]]


def run_grpcio(address: str, message: bytes, concurrency: int, seconds: float) -> tuple[float, float]:
    """(requests per second, client CPU µs a request) of `concurrency` tasks that call one after the other."""
    import grpc  # type: ignore[import-untyped]

    async def work() -> int:
        done = 0
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(METHOD)
            await call(message)
            end_s = time.monotonic() + seconds

            async def one() -> None:
                nonlocal done
                while time.monotonic() < end_s:
                    await call(message)
                    done += 1

            await asyncio.gather(*(one() for _ in range(concurrency)))
        return done

    wall_s, cpu_s = time.monotonic(), time.process_time()
    done = asyncio.run(work())
    return done / (time.monotonic() - wall_s), (time.process_time() - cpu_s) / done * 1e6


def main() -> None:
    """Print one line a round and concurrency, then medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url")
    parser.add_argument("--grpc-url", default="")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[8, 32])
    given = parser.parse_args()
    payload = payload_for(given.model)
    with tiny_server(given.url, given.grpc_url) as served:
        ours, http = GrpcTarget(served.grpc_url), HttpTarget(served.http_url)
        address = ours.url.removeprefix("grpc://")
        message = ours.encode(payload)[5:]
        sides: dict[str, Run] = {
            "grpcio": lambda c, s: run_grpcio(address, message, c, s),
            "ours": lambda c, s: run_ours(ours, payload, c, s),
            "HTTP": lambda c, s: run_ours(http, payload, c, s),
        }
        emit_text(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {ours.url}")
        emit_text("concurrency  grpcio/s  ours/s  HTTP/s  ours/grpcio  CPU µs a request: grpcio  ours  HTTP")
        run_ours(ours, payload, 8, 1.0)
        for concurrency in given.concurrency:
            rounds: list[dict[str, tuple[float, float]]] = []
            for number in range(given.rounds):
                names = list(sides) if number % 2 == 0 else list(reversed(sides))
                rounds.append({name: sides[name](concurrency, given.seconds) for name in names})
                emit_text(_line(concurrency, rounds[-1]))
            median = {
                name: tuple(statistics.median(r[name][what] for r in rounds) for what in (0, 1))
                for name in sides
            }
            emit_text(_line(concurrency, {n: (m[0], m[1]) for n, m in median.items()}) + "   median")


def _line(concurrency: int, found: dict[str, tuple[float, float]]) -> str:
    rates = [found[name][0] for name in ("grpcio", "ours", "HTTP")]
    costs = [found[name][1] for name in ("grpcio", "ours", "HTTP")]
    ratio = rates[1] / rates[0]
    return (
        f"{concurrency:11d} {rates[0]:9.0f} {rates[1]:7.0f} {rates[2]:7.0f} {ratio:12.2f} "
        f"{costs[0]:25.1f} {costs[1]:5.1f} {costs[2]:5.1f}"
    )


if __name__ == "__main__":
    main()
