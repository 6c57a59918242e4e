"""CPU, memory and GPU use: sums by hand, a real process tree, metrics text, and what cannot be seen."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.perf.conftest import LiveTriton
from tests.perf.fake_server import fake_server
from tritonsmith.perf.load.load_test import LoadTest, run_load_test
from tritonsmith.perf.load.result import result_from_records
from tritonsmith.perf.load.text import result_as_dict, text_of_result
from tritonsmith.perf.records.record import load_records, save_records
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.report.load.report import load_html_of
from tritonsmith.perf.usage.resource_use import (
    GpuReading,
    GpuSample,
    ResourceUse,
    TreeSample,
    gpu_readings_from_metrics,
    resource_use,
)
from tritonsmith.perf.usage.resources import sample_resources, server_pid_at

METRICS = """# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
nv_gpu_utilization{gpu_uuid="GPU-a"} 0.500000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 1073741824.000000
nv_gpu_power_usage{gpu_uuid="GPU-a"} 120.5
nv_energy_consumption{gpu_uuid="GPU-a"} %f
nv_gpu_utilization{gpu_uuid="GPU-b"} 0
nv_inference_count{model="m",version="1"} 7
"""


def test_cpu_is_that_of_the_stretch_whoever_came_and_went() -> None:
    server, old, new = (1, 0.0), (2, 0.0), (3, 9.0)
    trees = [
        TreeSample(0, {server: (10.0, 100), old: (5.0, 50)}, 120),
        TreeSample(1_000_000_000, {server: (10.5, 110), old: (5.5, 60), new: (0.2, 40)}, None),
        TreeSample(2_000_000_000, {server: (11.0, 100), new: (0.7, 45)}, 130),
    ]
    use = resource_use(2_000_000_000, trees, [])
    assert use.process is not None
    assert use.process.cpu_s == pytest.approx(1.0 + 0.5 + 0.7)
    assert use.process.cpu_cores == pytest.approx(1.1)
    assert (use.process.rss_bytes, use.process.pss_bytes, use.process.processes) == (210, 130, 3)
    assert use.gpus == () and use.why_no_gpu
    assert typed(ResourceUse, json_of(use)) == use


def test_gpu_energy_is_the_counters_difference_or_power_over_time() -> None:
    def sample(at_s: int, counter: float | None) -> GpuSample:
        return GpuSample(at_s * 10**9, {"0": GpuReading(0.25 * at_s, 100.0 + at_s, 50.0, counter)})

    counted = resource_use(0, [], [sample(0, 1000.0), sample(2, 1180.0)])
    assert counted.gpus[0].energy_j == 180
    assert counted.energy_per_inference_j(90) == 2
    assert counted.gpus[0].utilisation == 0.25 and counted.gpus[0].memory_bytes == 102
    assert resource_use(0, [], [sample(0, None), sample(2, None)]).energy_j == 100
    assert resource_use(0, [], [sample(0, None)]).energy_j is None
    assert counted.energy_per_inference_j(0) is None


def test_tritons_gpu_metrics_are_read_by_gpu() -> None:
    read = gpu_readings_from_metrics(METRICS % 5.5)
    assert read["GPU-a"] == GpuReading(0.5, 2**30, 120.5, 5.5)
    assert read["GPU-b"] == GpuReading(0.0, None, None, None)
    assert gpu_readings_from_metrics('nv_inference_count{model="m"} 7') == {}


BUSY = "import sys, time\nend = time.monotonic() + 60\nprint('up', flush=True)\nwhile time.monotonic() < end: pass\n"
PARENT = (
    "import subprocess, sys\n"
    f"child = subprocess.Popen([sys.executable, '-c', {BUSY!r}], stdout=sys.stdout)\n"
    "child.wait()\n"
)


def test_a_real_tree_is_measured_children_included() -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with sample_resources(process.pid, interval_s=0.1) as sampled:
            time.sleep(0.5)
            sampled.restart()
            time.sleep(0.8)
        use = sampled.use
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    assert use.process is not None
    assert use.wall_s == pytest.approx(0.8, abs=0.4), "what was before the restart is not in it"
    assert 0.1 < use.process.cpu_cores < 1.6, "the child burns a core, the parent sleeps"
    assert use.process.processes == 2
    assert use.process.pss_bytes and use.process.pss_bytes <= use.process.rss_bytes
    assert not use.gpus and use.why_no_gpu


@contextmanager
def metrics_server(text: str) -> Iterator[tuple[str, list[int]]]:
    """HOST:PORT of metrics whose energy counter goes up by 1 J each time, and the list of the times it was asked."""
    asked: list[int] = []

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(len(asked))
            body = (text % (100 + len(asked))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_gpus_are_read_from_tritons_metrics() -> None:
    with metrics_server(METRICS) as (url, asked), sample_resources(None, url) as sampled:
        time.sleep(0.1)
    use = sampled.use
    assert use.gpu_source == "triton"
    assert use.gpus[0].energy_j == len(asked) - 2, "the counter's difference between first and last sample"
    assert use.process is None and "not on this machine" in use.why_no_process


def test_a_load_test_tells_what_an_inference_cost_and_its_record_tells_it_again(tmp_path: Path) -> None:
    one_gpu = "".join(line for line in METRICS.splitlines(keepends=True) if "GPU-b" not in line)
    with metrics_server(one_gpu) as (url, _), fake_server() as server:
        load = Closed(2)
        result = run_load_test(server.url, LoadTest("m", load, duration_s=0.3, warmup_s=0.1, metrics_url=url))
    text = text_of_result(result, load)
    assert "GPU GPU-a: 50 % busy, 1,024 MiB, 120 W" in text and "mJ an inference" in text
    each_j = result_as_dict(result)["resources"]["energy_per_inference_j"]
    assert result.resources is not None and result.resources.energy_j is not None
    assert each_j == pytest.approx(result.resources.energy_j / len(result.records.measured()))
    save_records(result.records, tmp_path / "run.npz")
    again = result_from_records(load_records(tmp_path / "run.npz"))
    assert text_of_result(again, load) == text
    assert "mJ an inference" in load_html_of(again.records, again.summary)


@pytest.mark.gpu
def test_a_gpu_of_this_machine_is_read_through_nvml() -> None:
    pytest.importorskip("pynvml", reason="pynvml is not installed: pip install nvidia-ml-py")
    with sample_resources(os.getpid(), interval_s=0.1) as sampled:
        time.sleep(0.5)
    assert sampled.use.gpu_source == "nvml"
    assert sampled.use.gpus[0].memory_bytes and sampled.use.energy_j is not None


def test_what_cannot_be_seen_says_why() -> None:
    with sample_resources(None) as sampled:
        pass
    assert sampled.use.process is None and sampled.use.gpus == () and sampled.use.why_no_gpu
    with sample_resources(2**22 + 5) as gone:
        pass
    assert gone.use.why_no_process == "the server's process ended"
    assert server_pid_at("http://192.0.2.1:8000") == (None, "the server is on another machine (192.0.2.1)")
    with fake_server() as server:
        assert server_pid_at(server.url) == (None, "the server is in the client's own process")
    assert server_pid_at(server.url)[0] is None


@pytest.mark.server
def test_a_live_server_is_found_by_its_port(triton: LiveTriton) -> None:
    pid, why = server_pid_at(triton.http_url)
    assert pid is not None, why
    with sample_resources(pid, triton.server.metrics_url) as sampled:
        time.sleep(0.3)
    assert sampled.use.process is not None
    assert sampled.use.process.rss_bytes > 10 << 20
    assert sampled.use.why_no_gpu
