"""A server on this machine, sampled while a block runs → CPU, memory and GPU use of its whole process tree.

    with sample_resources(server.pid, server.metrics_url) as sampled:
        ...                                  # sampled.restart() begins anew, say after the warm-up
    sampled.use.process, sampled.use.gpus

A backend with processes of its own (Python stubs) does its work in children of the server, so the tree is
counted. GPUs are read through NVML where `pynvml` is installed and the server is on this machine, else from
Triton's metrics (nv_gpu_*, docs/user_guide/metrics.md). What cannot be seen is None with its reason.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.server import control
from tritonsmith.perf.usage import nvml
from tritonsmith.perf.usage.resource_use import (
    GpuReading,
    GpuSample,
    ProcessKey,
    ResourceUse,
    TreeSample,
    gpu_readings_from_metrics,
    resource_use,
)

INTERVAL_S = 0.5
# Walking all processes and their page tables costs milliseconds, which the client on the same machine would feel.
SLOW_INTERVAL_S = 2.0

METRICS_TIMEOUT_S = 1.0

ReadGpus = Callable[[], dict[str, GpuReading]]


class Sampler:
    """Takes samples in a thread of its own from `start` to `stop`; `use` is what they add up to."""

    def __init__(self, pid: int | None, metrics_url: str, why_no_pid: str, interval_s: float) -> None:
        self._pid = pid
        self._interval_s = interval_s
        self._why_no_process = why_no_pid
        self._read_gpus, self._gpu_source, self._why_no_gpu = _gpu_reader(pid, metrics_url)
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="resources", daemon=True)
        self._reset()

    def _reset(self) -> None:
        self._begin_ns = self._end_ns = time.monotonic_ns()
        self._trees: list[TreeSample] = []
        self._gpus: list[GpuSample] = []
        self._slow_ns = 0

    def start(self) -> None:
        """Take the first sample and go on in the background."""
        self.restart()
        self._thread.start()

    def restart(self) -> None:
        """Forget what was sampled; from now on counts."""
        with self._lock:
            self._reset()
            self._sample()

    def stop(self) -> None:
        """Take the last sample and end."""
        self._ended.set()
        self._thread.join()
        with self._lock:
            self._slow_ns = 0
            self._sample()
            self._end_ns = time.monotonic_ns()

    @property
    def use(self) -> ResourceUse:
        """Of the time since the start or the last restart."""
        with self._lock:
            return resource_use(
                max(self._end_ns, self._begin_ns) - self._begin_ns,
                self._trees,
                self._gpus,
                why_no_process=self._why_no_process,
                why_no_gpu=self._why_no_gpu,
                gpu_source=self._gpu_source,
            )

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            with self._lock:
                self._sample()
                self._end_ns = time.monotonic_ns()

    def _sample(self) -> None:
        now = time.monotonic_ns()
        slow = now - self._slow_ns >= SLOW_INTERVAL_S * 1e9
        if slow:
            self._slow_ns = now
        if self._pid is not None:
            known = list(self._trees[-1].processes) if self._trees and not slow else None
            sample = _tree_sample(self._pid, known, with_pss=slow)
            if sample is not None:
                self._trees.append(sample)
        if self._read_gpus is not None and (slow or self._gpu_source == "nvml"):
            with suppress(OSError, TritonsmithError):
                self._gpus.append(GpuSample(now, self._read_gpus()))


@contextmanager
def sample_resources(
    pid: int | None, metrics_url: str = "", *, why_no_pid: str = "", interval_s: float = INTERVAL_S
) -> Iterator[Sampler]:
    """Sample while the block runs; `use` of what it gives is a ResourceUse, also after the block.

    pid:         the server's process; None when it is not on this machine (why_no_pid may say more).
    metrics_url: HOST:PORT of Triton's metrics; empty when there are none.
    """
    why = "" if pid is not None else why_no_pid or "the server's process is not on this machine"
    sampler = Sampler(pid, metrics_url, why, interval_s)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stop()


def server_pid_at(url: str) -> tuple[int | None, str]:
    """The process that listens at a URL's port on this machine; else None and why there is none to be seen."""
    import psutil

    parts = urlsplit(url if "://" in url else f"//{url}")
    host, port = parts.hostname or "", parts.port
    own = {a.address for rows in psutil.net_if_addrs().values() for a in rows} | {
        "localhost",
        "127.0.0.1",
        "::1",
    }
    if host not in own or port is None:
        return None, f"the server is on another machine ({host})"
    try:
        listening = [
            c
            for c in psutil.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port
        ]
    except psutil.Error as error:
        return None, f"the machine's connections cannot be read: {error}"
    pids = sorted({c.pid for c in listening if c.pid})
    if not pids:
        return None, "the server's process belongs to another user or to a container"
    with suppress(psutil.Error):
        # All of a server's listeners may be shared with children that were forked later: take the oldest.
        pids.sort(key=lambda pid: psutil.Process(pid).create_time())
        if psutil.Process(pids[0]).name() == "docker-proxy":
            return None, "the server is in a container behind docker-proxy"
    if pids[0] == os.getpid():
        return None, "the server is in the client's own process"
    return pids[0], ""


def _tree_sample(pid: int, known: list[ProcessKey] | None, with_pss: bool) -> TreeSample | None:
    """CPU seconds and memory of the processes; the tree is walked when `known` is None. None when all are gone."""
    import psutil

    processes: dict[ProcessKey, tuple[float, int]] = {}
    pss_bytes: int | None = 0 if with_pss else None
    try:
        tree = (
            [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            if known is None
            else [psutil.Process(key[0]) for key in known if psutil.pid_exists(key[0])]
        )
    except (psutil.Error, OSError):  # a client that has all the files open that it may cannot look, either
        return None
    for process in tree:
        with suppress(psutil.Error, OSError):
            times, memory = process.cpu_times(), process.memory_info()
            processes[process.pid, process.create_time()] = (times.user + times.system, memory.rss)
            if pss_bytes is not None:
                try:
                    pss_bytes += process.memory_full_info().pss
                except (psutil.AccessDenied, AttributeError):
                    pss_bytes = None
    return TreeSample(time.monotonic_ns(), processes, pss_bytes) if processes else None


def _gpu_reader(pid: int | None, metrics_url: str) -> tuple[ReadGpus | None, str, str]:
    """(how to read the GPUs or None, where from, why not)"""
    why = "pynvml is not installed"
    if pid is not None:
        try:
            return nvml.reader_of(pid), "nvml", ""
        except ImportError:
            pass
        except Exception as error:  # pynvml.NVMLError, a class that is known only when it is imported
            why = f"NVML: {error}"
    else:
        why = "no GPU of this machine is the server's"
    if not metrics_url:
        return None, "", f"{why}, and no metrics URL is known"

    def read() -> dict[str, GpuReading]:
        return gpu_readings_from_metrics(control.metrics_text(metrics_url, METRICS_TIMEOUT_S))

    try:
        if read():
            return read, "triton", ""
    except (OSError, TritonsmithError):
        return None, "", f"{why}, and Triton's metrics do not answer at {metrics_url}"
    return None, "", f"{why}, and Triton's metrics name no GPU"
