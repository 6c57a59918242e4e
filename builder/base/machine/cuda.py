"""The CUDA driver → this machine's GPUs, without a CUDA toolkit, a context or a device file of our own."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from uuid import UUID

# CUdevice_attribute of cuda.h.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: its number as CUDA counts, name, compute capability (`9.0`), memory, and its UUID, empty where the
    driver does not tell; NVML knows it as `GPU-UUID`, or `MIG-UUID` for a part of a GPU."""

    index: int
    name: str
    compute_capability: str
    memory_bytes: int
    uuid: str = ""


def gpus() -> tuple[tuple[Gpu, ...], str]:
    """(the GPUs, why there are none); the reason is empty when there are some."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return (), "the NVIDIA driver (libcuda.so.1) is not installed"
    status = driver.cuInit(0)
    if status != 0:
        return (), f"the NVIDIA driver refuses with CUDA error {status}"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return (), "the NVIDIA driver sees no GPU"
    return tuple(_gpu(driver, index) for index in range(count.value)), ""


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(128), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return Gpu(
        index,
        name.value.decode(errors="replace"),
        f"{major.value}.{minor.value}",
        memory.value,
        _uuid(driver, device),
    )


def _uuid(driver: ctypes.CDLL, device: ctypes.c_int) -> str:
    """Empty where the driver does not tell. cuDeviceGetUuid_v2 (CUDA 11.4) tells a MIG device's own, which NVML knows with
    the prefix MIG- (CUDA Driver API, Device Management; NVML, nvmlDeviceGetHandleByUUID)."""
    found = ctypes.create_string_buffer(16)
    ask = getattr(driver, "cuDeviceGetUuid_v2", None) or getattr(driver, "cuDeviceGetUuid", None)
    return str(UUID(bytes=found.raw)) if ask is not None and ask(found, device) == 0 else ""
