"""Other clients under the same load as ours → requests a second and client CPU a request, of each."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.console import note
from perf.generator import generate
from perf.schedule import Closed
from perf.wire.grpc import METHOD
from perf.wire.payload import InferPayload
from perf.wire.target import Target


@dataclass(frozen=True, slots=True)
class Measured:
    """requests_per_s, and the client's CPU time for each request in microseconds."""

    requests_per_s: float
    cpu_us: float


def run_ours(target: Target, payload: InferPayload, concurrency: int, seconds: float) -> Measured:
    """Our generator in this process."""
    records = generate(target, Closed(concurrency), [payload], duration_s=seconds)
    if records.failures():
        note(f"failures: {records.failures()}")
    elapsed_s = (records.end_ns.max() - records.header.start_ns) / 1e9
    return Measured(len(records) / elapsed_s, records.header.client_cpu_s / len(records) * 1e6)


def run_wrk(url: str, request: bytes, concurrency: int, seconds: float) -> Measured:
    """wrk with one thread, which repeats our request; no Lua runs between requests."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "request.lua"
        script.write_text(_wrk_script(request))
        command = ["wrk", "-t1", f"-c{concurrency}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
        out, cpu_share = _watched(command)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert rate, out
    if "Non-2xx" in out:
        note(f"wrk saw failures: {out}")
    return Measured(float(rate[1]), cpu_share / float(rate[1]) * 1e6)


def _wrk_script(request: bytes) -> str:
    head, _, body = request.partition(b"\r\n\r\n")
    escaped = "".join(f"\\{byte:03d}" for byte in body)
    lines = ['wrk.method = "POST"', f'wrk.body = "{escaped}"']
    for field in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = field.partition(": ")
        if name not in ("Host", "Content-Length"):
            lines.append(f'wrk.headers["{name}"] = "{value}"')
    return "\n".join(lines)


def run_perf_analyzer(protocol: str, address: str, model: str, concurrency: int, seconds: float) -> Measured:
    """perf_analyzer in its default, synchronous mode (the faster one on small requests).

    It measures three windows of 1.2 × -p and drops what it calls unstable: -s 999 has it print whatever it saw.
    """
    window_ms = max(100, round(seconds * 1000 / 3.6))
    command = ["perf_analyzer", "-m", model, "-u", address, "-i", protocol]
    command += ["--concurrency-range", str(concurrency), "-p", str(window_ms), "-s", "999", "-r", "3"]
    out, cpu_share = _watched(command)
    rate = re.search(r"Throughput: ([\d.]+) infer/sec", out)
    assert rate, out
    return Measured(float(rate[1]), cpu_share / float(rate[1]) * 1e6)


def _watched(command: list[str]) -> tuple[str, float]:
    """(what it printed, the share of a core that it used while it was well under way)."""
    import psutil

    with tempfile.TemporaryFile("w+") as out:
        process = psutil.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        samples: list[tuple[float, float]] = []
        while process.poll() is None:
            try:
                times = process.cpu_times()
            except psutil.Error:
                break
            samples.append((time.monotonic(), times.user + times.system))
            time.sleep(0.1)
        process.wait()
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {text[-500:]}")
    begin, end = samples[len(samples) // 4], samples[-1]
    return text, (end[1] - begin[1]) / max(1e-9, end[0] - begin[0])


def run_grpcio(address: str, message: bytes, concurrency: int, seconds: float) -> Measured:
    """grpcio's asyncio client with bytes serialised once, answers unread: the least that a library can cost."""
    import grpc  # type: ignore[import-untyped]

    async def work() -> int:
        done = 0
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            call: Any = channel.unary_unary(METHOD)
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
    wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
    return Measured(done / wall_s, cpu_s / done * 1e6)


def missing() -> list[str]:
    """Clients that are not on this machine, with where they come from."""
    found = {
        "wrk": "Debian's package wrk",
        "perf_analyzer": "PyPI's perf-analyzer; its wheels need glibc 2.38",
    }
    return [f"{name} ({where})" for name, where in found.items() if shutil.which(name) is None]
