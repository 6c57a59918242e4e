"""A running server → the memory of its processes and the energy of its GPUs."""

from __future__ import annotations

import contextlib

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.server import control
from tritonsmith.perf.usage import nvml
from tritonsmith.perf.usage.resource_use import energy_of, gpu_readings_from_metrics


def server_memory_bytes(server: control.HasPid, model: str) -> int | None:
    """Proportional set size of the server's process and of the instances of `model`; None for one elsewhere.

    Instances of other models are left out, so that arms that stand side by side do not pay for each other;
    of a backend without processes of its own, the weights of all loaded models are in the server's process.
    """
    if server.pid is None:
        return None
    import psutil

    total = 0
    for pid in (server.pid, *control.instance_pids(server, model)):
        with contextlib.suppress(psutil.Error):
            info = psutil.Process(pid).memory_full_info()
            total += int(getattr(info, "pss", info.rss))
    return total or None


def energy_j(metrics_url: str, pid: int | None = None) -> float | None:
    """Joules that the server's GPUs have used up to now, all together; only differences mean something. None without any.

    From Triton's counter nv_energy_consumption (docs/user_guide/metrics.md, GPU metrics); where the server tells
    none and is a process of this machine, from NVML (nvmlDeviceGetTotalEnergyConsumption, mJ).
    """
    told = None
    if metrics_url:
        with contextlib.suppress(OSError, TritonsmithError):
            told = energy_of(gpu_readings_from_metrics(control.metrics_text(metrics_url)).values())
    if told is None and pid is not None:
        with contextlib.suppress(Exception):  # pynvml.NVMLError: its class is known only when it is imported
            told = energy_of(nvml.reader_of(pid)().values())
    return told
