"""wrk and our generator, interleaved on one live Triton → their request rates and client CPU a request.

    python -m perf.bench.http_vs_wrk [--url http://127.0.0.1:8000 --model M] [--rounds 5] [--seconds 2]

Without --url the embedded server is started on a model of one 64×16 MatMul.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from builder.console import emit_text, note
from perf.bench.tiny_server import MODEL, payload_for, tiny_server
from perf.generator import generate
from perf.schedule import Closed
from perf.wire.http import HttpTarget
from perf.wire.payload import InferPayload
from perf.wire.target import Target


def run_wrk(script: Path, url: str, concurrency: int, seconds: float) -> tuple[float, float]:
    """(requests per second, client CPU µs a request) of one wrk run with one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds:g}s", "-s", str(script), url]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    total = re.search(r"(\d+) requests in", done.stdout)
    assert rate and total, done.stdout
    if "Non-2xx" in done.stdout:
        note(f"wrk saw failures: {done.stdout}")
    return float(rate[1]), cpu_s / int(total[1]) * 1e6


def wrk_script(directory: Path, request: bytes) -> Path:
    """A Lua script that has wrk make our request once and repeat it; no Lua runs between requests."""
    path = directory / "request.lua"
    head, _, body = request.partition(b"\r\n\r\n")
    escaped = "".join(f"\\{byte:03d}" for byte in body)
    lines = ['wrk.method = "POST"', f'wrk.body = "{escaped}"']
    for field in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = field.partition(": ")
        if name not in ("Host", "Content-Length"):
            lines.append(f'wrk.headers["{name}"] = "{value}"')
    path.write_text("\n".join(lines))
    return path


def run_ours(target: Target, payload: InferPayload, concurrency: int, seconds: float) -> tuple[float, float]:
    """(requests per second, client CPU µs a request) of one run of the generator."""
    records = generate(target, Closed(concurrency), [payload], duration_s=seconds)
    if records.failures():
        note(f"failures: {records.failures()}")
    elapsed_s = (records.end_ns.max() - records.header.start_ns) / 1e9
    return len(records) / elapsed_s, records.header.client_cpu_s / len(records) * 1e6


def main() -> None:
    """Print one line a round and concurrency, then medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[8, 32])
    given = parser.parse_args()
    with_wrk = shutil.which("wrk") is not None
    if not with_wrk:
        note("wrk is not on PATH: only our own numbers follow")
    payload = payload_for(given.model)
    with tiny_server(given.url) as served, tempfile.TemporaryDirectory() as directory:
        target = HttpTarget(served.http_url)
        script = wrk_script(Path(directory), target.encode(payload))
        path = f"{target.url}/v2/models/{given.model}/infer"
        emit_text(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {target.url}")
        emit_text("concurrency  wrk/s  ours/s  ours/wrk  CPU µs a request: wrk  ours")
        run_ours(target, payload, 8, 1.0)
        for concurrency in given.concurrency:
            rows = []
            for number in range(given.rounds):
                # A B, B A, …: a drift of the machine falls on both sides alike.
                pair = [(0.0, 0.0), (0.0, 0.0)]
                for side in (0, 1) if number % 2 == 0 else (1, 0):
                    if side == 1:
                        pair[1] = run_ours(target, payload, concurrency, given.seconds)
                    elif with_wrk:
                        pair[0] = run_wrk(script, path, concurrency, given.seconds)
                rows.append(pair)
                emit_text(_line(concurrency, *pair[0], *pair[1]))
            medians = [
                statistics.median(row[side][what] for row in rows) for side in (0, 1) for what in (0, 1)
            ]
            emit_text(_line(concurrency, *medians) + "   median")


def _line(concurrency: int, wrk: float, wrk_us: float, ours: float, ours_us: float) -> str:
    ratio = f"{ours / wrk:8.2f}" if wrk else "       -"
    return f"{concurrency:11d} {wrk:6.0f} {ours:7.0f}  {ratio} {wrk_us:22.1f} {ours_us:5.1f}"


if __name__ == "__main__":
    main()
