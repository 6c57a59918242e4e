"""(NVML, a server's process) → readings of the GPUs that CUDA shows to the server, and of no others.

NVML counts the GPUs of the machine by PCI bus; CUDA shows what CUDA_VISIBLE_DEVICES names, by default fastest first
(CUDA C++ Programming Guide, CUDA Environment Variables). UUIDs are the same in both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from tritonsmith.builder.base.machine.cuda import Gpu, gpus
from tritonsmith.builder.base.machine.own import IMPORT_ROOT
from tritonsmith.perf.usage.resource_use import GpuReading

_DECIDE = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_ASK = (
    "import json; from tritonsmith.builder.base.machine.cuda import gpus; "
    "print(json.dumps([[g.index, g.name, g.uuid] for g in gpus()[0]]))"
)
_WITHIN_S = 30.0


def gpus_of_process(pid: int) -> tuple[tuple[int, str, str], ...]:
    """(CUDA's number, name, UUID) of each GPU that CUDA shows to a process; as to this one where its environment cannot be
    read (another user's)."""
    import psutil

    ours = tuple(os.environ.get(name) for name in _DECIDE)
    theirs = ours
    with suppress(psutil.Error, OSError):
        environment = psutil.Process(pid).environ()
        theirs = tuple(environment.get(name) for name in _DECIDE)
    return _rows(gpus()[0]) if theirs == ours else _asked_under(theirs)


def _rows(found: Sequence[Gpu]) -> tuple[tuple[int, str, str], ...]:
    return tuple((gpu.index, gpu.name, gpu.uuid) for gpu in found)


@lru_cache(maxsize=8)
def _asked_under(values: tuple[str | None, ...]) -> tuple[tuple[int, str, str], ...]:
    """The driver reads the variables once a process: another environment is another process."""
    environment = {k: v for k, v in os.environ.items() if k not in _DECIDE}
    environment |= {name: value for name, value in zip(_DECIDE, values, strict=True) if value is not None}
    environment["PYTHONPATH"] = str(IMPORT_ROOT)
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _ASK],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=True,
        )
        return tuple((int(index), str(name), str(uuid)) for index, name, uuid in json.loads(answer.stdout))
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


def open_nvml() -> Any:
    """The module `pynvml`, started; ImportError without it, its NVMLError without a driver."""
    import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]

    pynvml.nvmlInit()
    return pynvml


def driver_version(nvml: Any) -> str:
    """`580.159.03`"""
    told = nvml.nvmlSystemGetDriverVersion()
    return told.decode() if isinstance(told, bytes) else str(told)


def handles_of(nvml: Any, shown: Sequence[tuple[int, str, str]]) -> dict[str, Any]:
    """`0 NVIDIA L4` → NVML's handle, of each GPU that CUDA shows; nvml: the module `pynvml`. Its NVMLError for a GPU that it
    does not know. A part of a GPU (MIG) has a UUID of its own."""
    return {f"{index} {name}": _handle(nvml, uuid) for index, name, uuid in shown}


def _handle(nvml: Any, uuid: str) -> Any:
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def read(nvml: Any, handles: Mapping[str, Any]) -> dict[str, GpuReading]:
    """A reading of each (NVML API reference; units there: %, bytes, mW, mJ); None for what a GPU does not tell: before
    Volta none counts energy, and a part of a GPU (MIG) has neither energy nor power of its own."""

    def asked(call: Callable[[], float]) -> float | None:
        try:
            return call()
        except nvml.NVMLError:
            return None

    def reading(handle: Any) -> GpuReading:
        return GpuReading(
            utilisation=asked(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            memory_bytes=asked(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
            power_w=asked(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            energy_j=asked(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3),
        )

    return {name: reading(handle) for name, handle in handles.items()}


def reader_of(pid: int) -> Callable[[], dict[str, GpuReading]]:
    """Reads the GPUs that CUDA shows to a process; ImportError, or pynvml's NVMLError without a driver or a GPU."""
    module = open_nvml()
    handles = handles_of(module, gpus_of_process(pid))
    if not handles:
        raise module.NVMLError(module.NVML_ERROR_NOT_FOUND)
    return lambda: read(module, handles)
