"""Other clients under the same load as ours → requests a second and client CPU a request, of each."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.text.console import note
from tritonsmith.perf.load.runs.generator import generate
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.server.control import model_statistics
from tritonsmith.perf.wire.grpc import METHOD
from tritonsmith.perf.wire.payload import InferPayload
from tritonsmith.perf.wire.target import Target


@dataclass(frozen=True, slots=True)
class Measured:
    """requests_per_s, and the CPU time of each request in microseconds: the client's, and its server's."""

    requests_per_s: float
    cpu_us: float
    server_us: float = 0.0

    @property
    def both_us(self) -> float:
        """What a request costs a machine that client and server share: 2 cores do 2,000,000 / both_us a second."""
        return self.cpu_us + self.server_us


def cpu_s_of(pid: int | None) -> float:
    """CPU seconds of a process and all its children so far; 0 for no process."""
    import psutil

    if pid is None:
        return 0.0
    total = 0.0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error as error:
        raise RuntimeError(f"the server ended: {error}") from error
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def run_ours(
    target: Target, payload: InferPayload, concurrency: int, seconds: float, server_pid: int | None = None
) -> Measured:
    """Our generator in this process."""
    server_s = cpu_s_of(server_pid)
    records = generate(target, Closed(concurrency), [payload], duration_s=seconds)
    if records.failures():
        note(f"failures: {records.failures()}")
    server_s = cpu_s_of(server_pid) - server_s
    elapsed_s = (records.end_ns.max() - records.header.start_ns) / 1e9
    each_us = 1e6 / len(records)
    return Measured(len(records) / elapsed_s, records.header.client_cpu_s * each_us, server_s * each_us)


def run_wrk(
    url: str, request: bytes, concurrency: int, seconds: float, server_pid: int | None = None
) -> Measured:
    """wrk with one thread, which repeats our request; no Lua runs between requests."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "request.lua"
        script.write_text(_wrk_script(request))
        command = ["wrk", "-t1", f"-c{concurrency}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
        out, *shares = _watched(command, server_pid)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert rate, out
    if "Non-2xx" in out:
        note(f"wrk saw failures: {out}")
    return _of_shares(float(rate[1]), shares)


def _of_shares(rate_per_s: float, shares: list[float]) -> Measured:
    client, server = (share / rate_per_s * 1e6 for share in shares)
    return Measured(rate_per_s, client, server)


def _wrk_script(request: bytes) -> str:
    head, _, body = request.partition(b"\r\n\r\n")
    escaped = "".join(f"\\{byte:03d}" for byte in body)
    lines = ['wrk.method = "POST"', f'wrk.body = "{escaped}"']
    for field in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = field.partition(": ")
        if name not in ("Host", "Content-Length"):
            lines.append(f'wrk.headers["{name}"] = "{value}"')
    return "\n".join(lines)


def run_perf_analyzer(
    protocol: str,
    address: str,
    model: str,
    concurrency: int,
    seconds: float,
    served_by: tuple[str, int | None],
) -> Measured:
    """perf_analyzer in its default, synchronous mode (the faster one on small requests), counted by the server.

    served_by: the server's HTTP address, which counts the answers, and its process.

    What it prints is not used: 2.60 now and then never ends its windows over HTTP, and with --request-count it tells
    time in whole seconds. It is ended when it was measured.
    """
    import psutil

    url, server_pid = served_by
    command = ["perf_analyzer", "-m", model, "-u", address, "-i", protocol]
    command += ["--concurrency-range", str(concurrency), "-p", str(round(seconds * 10_000))]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        before = _answered(url, model)
        deadline = time.monotonic() + 10
        while _answered(url, model) < before + 20 * concurrency:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("perf_analyzer sent nothing")
            time.sleep(0.02)
        begin = (time.monotonic(), cpu_s_of(process.pid), cpu_s_of(server_pid), _answered(url, model))
        time.sleep(seconds)
        end = (time.monotonic(), cpu_s_of(process.pid), cpu_s_of(server_pid), _answered(url, model))
    finally:
        # Asked first: calls that are cut off in the middle have ended a Triton 2.51 with them.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(5)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()
    wall_s, client_s, server_s, answers = (after - first for after, first in zip(end, begin, strict=True))
    return Measured(answers / wall_s, client_s / answers * 1e6, server_s / answers * 1e6)


def _answered(url: str, model: str) -> int:
    """Requests that the server says it answered."""
    return sum(int(s["inference_stats"]["success"]["count"]) for s in model_statistics(url, model))


def _watched(command: list[str], server_pid: int | None) -> tuple[str, float, float]:
    """(what it printed, the cores that it used while it was well under way, those that the server used then)."""
    import psutil

    with tempfile.TemporaryFile("w+") as out:
        process = psutil.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        samples: list[tuple[float, float, float]] = []
        while process.poll() is None:
            try:
                times = process.cpu_times()
            except psutil.Error:
                break
            samples.append((time.monotonic(), times.user + times.system, cpu_s_of(server_pid)))
            time.sleep(0.1)
        process.wait()
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {text[-500:]}")
    begin, end = samples[len(samples) // 4], samples[-1]
    seconds = max(1e-9, end[0] - begin[0])
    return text, (end[1] - begin[1]) / seconds, (end[2] - begin[2]) / seconds


def run_grpcio(
    address: str, message: bytes, concurrency: int, seconds: float, server_pid: int | None = None
) -> Measured:
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

    wall_s, cpu_s, server_s = time.monotonic(), time.process_time(), cpu_s_of(server_pid)
    done = asyncio.run(work())
    wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
    server_s = cpu_s_of(server_pid) - server_s
    return Measured(done / wall_s, cpu_s / done * 1e6, server_s / done * 1e6)


def missing() -> list[str]:
    """Clients that are not on this machine, with where they come from."""
    found = {
        "wrk": "Debian's package wrk",
        "perf_analyzer": "in PyPI's wheel tritonclient 2.60; it needs glibc 2.38",
    }
    return [f"{name} ({where})" for name, where in found.items() if shutil.which(name) is None]
