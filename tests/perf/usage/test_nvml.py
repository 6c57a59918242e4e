"""NVML is asked about the GPUs that CUDA shows to the server, by UUID; what one does not tell is not made up from others."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tritonsmith.perf.usage import nvml
from tritonsmith.perf.usage.consumption import energy_j
from tritonsmith.perf.usage.resource_use import energy_of


class Library:
    """NVML's answers, as values: GPUs by UUID in the order of their bus, not of CUDA; the third is a part of one (MIG)."""

    class NVMLError(Exception):
        """As in pynvml."""

    names = ("GPU-slow", "GPU-fast", "MIG-part")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid not in self.names:
            raise self.NVMLError("not found")
        return self.names.index(uuid)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=50)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=1 << 30)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return self._of_a_whole_gpu(handle, 250_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return self._of_a_whole_gpu(handle, (1500, 7000, 0)[handle])

    def _of_a_whole_gpu(self, handle: int, value: int) -> int:
        if handle == 2:
            raise self.NVMLError("not supported")
        return value


FAST, SLOW, PART = (
    (0, "NVIDIA H100", "fast"),
    (1, "NVIDIA L4", "slow"),
    (0, "NVIDIA H100 MIG 1g.10gb", "part"),
)


@pytest.mark.parametrize(
    ("shown", "joules"),
    [
        # CUDA's first is NVML's second.
        ([FAST], 7.0),
        ([FAST, SLOW], 8.5),
        ([SLOW], 1.5),
        ([PART], None),
        ([SLOW, PART], None),
        ([], None),
    ],
)
def test_energy_is_that_of_the_servers_gpus(shown: list[tuple[int, str, str]], joules: float | None) -> None:
    library = Library()
    readings = nvml.read(library, nvml.handles_of(library, shown))
    assert list(readings) == [f"{index} {name}" for index, name, _ in shown]
    assert energy_of(readings.values()) == joules


def test_a_part_of_a_gpu_tells_its_memory_and_no_power() -> None:
    library = Library()
    (reading,) = nvml.read(library, nvml.handles_of(library, [PART])).values()
    assert (reading.memory_bytes, reading.power_w, reading.energy_j) == (1 << 30, None, None)


def test_a_gpu_that_nvml_does_not_know_is_an_error() -> None:
    with pytest.raises(Library.NVMLError):
        nvml.handles_of(Library(), [(0, "NVIDIA L4", "")])


def test_a_process_is_asked_about_under_its_own_environment() -> None:
    """No GPU here, and none under a server's CUDA_VISIBLE_DEVICES either: both ways end with what the driver says."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"],
        stdin=subprocess.PIPE,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    ) as server:
        try:
            assert nvml.gpus_of_process(server.pid) == ()
        finally:
            assert server.stdin is not None
            server.stdin.close()
    assert energy_j("", pid=None) is None, "a server elsewhere has GPUs of its own"
