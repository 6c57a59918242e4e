"""What nvidia-smi and NVML tell → GPUs, the driver's version, memory in use, energy; the parsing and arithmetic is pure."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tritonsmith.perf.usage import nvml

QUERY = (
    "index",
    "uuid",
    "name",
    "compute_cap",
    "driver_version",
    "memory.total",
    "memory.used",
    "power.draw",
)
_AGREE_WITHIN = 0.10


@dataclass(frozen=True, slots=True)
class SmiGpu:
    """One line of nvidia-smi; None where it says [N/A] or [Not Supported]."""

    index: int
    uuid: str
    name: str
    compute_capability: str
    driver: str
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    power_w: float | None


def gpus_from_smi(text: str) -> tuple[SmiGpu, ...]:
    """The output of `nvidia-smi --query-gpu=… --format=csv,noheader,nounits`, in QUERY's order (MiB, W)."""
    return tuple(_gpu_from_line(line) for line in text.splitlines() if line.count(",") >= len(QUERY) - 1)


def _gpu_from_line(line: str) -> SmiGpu:
    first, *others = [cell.strip() for cell in line.split(",")]
    # Of the cells only the name may hold a comma.
    extra = len(others) + 1 - len(QUERY)
    uuid, name, rest = others[0], ", ".join(others[1 : 2 + extra]), others[2 + extra :]
    capability, driver, total, used, power = rest
    return SmiGpu(int(first), uuid, name, capability, driver, _mib(total), _mib(used), _number(power))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _mib(text: str) -> int | None:
    number = _number(text)
    return None if number is None else int(number) << 20


def smi_gpus() -> tuple[SmiGpu, ...]:
    """The GPUs by nvidia-smi; none where there is no nvidia-smi or it does not answer within 10 s."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return gpus_from_smi(done.stdout) if done.returncode == 0 else ()


def driver_version() -> str | None:
    """`580.159.03`: NVML's, else nvidia-smi's; None without either."""
    try:
        return nvml.driver_version(nvml.open_nvml())
    except Exception:  # no pynvml, no driver, no GPU: NVML's error classes are made when it is imported
        found = smi_gpus()
        return found[0].driver if found else None


@dataclass(frozen=True, slots=True)
class Energy:
    """One stretch of time by three accounts, in joules: NVML's counter, Triton's, and power × time."""

    nvml_j: float
    triton_j: float | None
    power_j: float

    @property
    def disagreements(self) -> tuple[str, ...]:
        """What lies more than 10 % from NVML's counter; a counter that stood still under load is one, too."""
        if self.nvml_j <= 0:
            return ("NVML's energy counter did not move under load",)
        others = {"Triton's counter": self.triton_j, "power × time": self.power_j}
        return tuple(
            f"{what}: {value:.1f} J, NVML's {self.nvml_j:.1f} J"
            for what, value in others.items()
            if value is not None and abs(value - self.nvml_j) > _AGREE_WITHIN * self.nvml_j
        )


def energy_of(
    seconds: float,
    nvml_j: tuple[float, float],
    triton_j: tuple[float, float] | None,
    power_w: Sequence[float],
) -> Energy:
    """(counters before and after, power samples at equal distances) → Energy."""
    mean_w = sum(power_w) / len(power_w) if power_w else 0.0
    return Energy(
        nvml_j=nvml_j[1] - nvml_j[0],
        triton_j=None if triton_j is None else triton_j[1] - triton_j[0],
        power_j=mean_w * seconds,
    )
