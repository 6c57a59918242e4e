"""Samples of a process tree and of GPUs → CPU, memory, power and energy over a stretch of time; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import computed_field

from tritonsmith.perf.usage.prometheus import samples_of

ProcessKey = tuple[int, float]
"""(pid, create time): a pid may come again."""


@dataclass(frozen=True, slots=True)
class TreeSample:
    """A process tree at one instant: CPU seconds so far and resident bytes of each; proportional ones of all."""

    at_ns: int
    processes: Mapping[ProcessKey, tuple[float, int]]
    pss_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one instant; None where it does not tell. energy_j counts up."""

    utilisation: float | None
    memory_bytes: float | None
    power_w: float | None
    energy_j: float | None


@dataclass(frozen=True, slots=True)
class GpuSample:
    """All GPUs at one instant."""

    at_ns: int
    gpus: Mapping[str, GpuReading]


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """A server's process tree.

    cpu_s:     CPU time of all its processes, in seconds; cpu_cores: the same a second.
    rss_bytes: most resident memory at once, pages that are shared counted in each process.
    pss_bytes: most proportional set size at once, shared pages counted once; None where the kernel tells none.
    processes: most at once.
    """

    cpu_s: float
    cpu_cores: float
    rss_bytes: int
    pss_bytes: int | None
    processes: int


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One GPU: mean utilisation (0 to 1), most memory, mean power, energy; None where it does not tell."""

    name: str
    utilisation: float | None
    memory_bytes: int | None
    power_w: float | None
    energy_j: float | None


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """What a server used in wall_s seconds; what is missing says why.

    gpu_source: `nvml` or `triton` (its metrics, whose GPU numbers are about a second old).
    """

    wall_s: float
    process: ProcessUse | None
    why_no_process: str
    gpus: tuple[GpuUse, ...]
    why_no_gpu: str
    gpu_source: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def energy_j(self) -> float | None:
        """Of all GPUs together; None when one of them does not tell, or there is none."""
        return energy_of(self.gpus)

    def energy_per_inference_j(self, inferences: int) -> float | None:
        """Joules an inference, idle power included."""
        return None if self.energy_j is None or inferences <= 0 else self.energy_j / inferences


def energy_of(gpus: Iterable[GpuReading | GpuUse]) -> float | None:
    """Joules of all together; None where one of them does not tell, as a part is not the whole, or there is none."""
    parts = [gpu.energy_j for gpu in gpus]
    return sum(p for p in parts if p is not None) if parts and None not in parts else None


def resource_use(
    wall_ns: int,
    trees: Sequence[TreeSample],
    gpus: Sequence[GpuSample],
    *,
    why_no_process: str = "",
    why_no_gpu: str = "",
    gpu_source: str = "",
) -> ResourceUse:
    """All samples of a stretch of time → what was used in it."""
    process = _process_use(trees)
    used = _gpu_use(gpus)
    return ResourceUse(
        wall_s=wall_ns / 1e9,
        process=process,
        why_no_process="" if process else why_no_process or "the server's process ended",
        gpus=used,
        why_no_gpu="" if used else why_no_gpu or "no GPU answered",
        gpu_source=gpu_source if used else "",
    )


def _process_use(trees: Sequence[TreeSample]) -> ProcessUse | None:
    if not trees:
        return None
    first: dict[ProcessKey, float] = {key: cpu_s for key, (cpu_s, _) in trees[0].processes.items()}
    last: dict[ProcessKey, float] = {}
    for tree in trees:
        last |= {key: cpu_s for key, (cpu_s, _) in tree.processes.items()}
    # A process that came later began at 0; of one that ended, the last sample is what is known.
    cpu_s = sum(cpu - first.get(key, 0.0) for key, cpu in last.items())
    seconds = (trees[-1].at_ns - trees[0].at_ns) / 1e9
    pss = [tree.pss_bytes for tree in trees if tree.pss_bytes is not None]
    return ProcessUse(
        cpu_s=cpu_s,
        cpu_cores=cpu_s / seconds if seconds > 0 else 0.0,
        rss_bytes=max(sum(rss for _, rss in tree.processes.values()) for tree in trees),
        pss_bytes=max(pss) if pss else None,
        processes=max(len(tree.processes) for tree in trees),
    )


def _gpu_use(samples: Sequence[GpuSample]) -> tuple[GpuUse, ...]:
    names = dict.fromkeys(name for sample in samples for name in sample.gpus)
    return tuple(_one_gpu(name, [s for s in samples if name in s.gpus]) for name in names)


def _one_gpu(name: str, samples: Sequence[GpuSample]) -> GpuUse:
    def told(what: str) -> list[float]:
        values = (getattr(sample.gpus[name], what) for sample in samples)
        return [value for value in values if value is not None]

    memory, power, counter = told("memory_bytes"), told("power_w"), told("energy_j")
    mean_w, energy_j = _mean(power), None
    if len(counter) > 1 and counter[-1] >= counter[0]:
        energy_j = counter[-1] - counter[0]
    elif len(power) > 1 and mean_w is not None:
        energy_j = mean_w * (samples[-1].at_ns - samples[0].at_ns) / 1e9
    return GpuUse(name, _mean(told("utilisation")), int(max(memory)) if memory else None, mean_w, energy_j)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


_FIELD_OF_METRIC = {
    "nv_gpu_utilization": "utilisation",
    "nv_gpu_memory_used_bytes": "memory_bytes",
    "nv_gpu_power_usage": "power_w",
    "nv_energy_consumption": "energy_j",
}


def gpu_readings_from_metrics(text: str) -> dict[str, GpuReading]:
    """Triton's Prometheus text → {GPU uuid: reading} (docs/user_guide/metrics.md, GPU metrics: ratio, bytes, W, J)."""
    found: dict[str, dict[str, float | None]] = {}
    for metric, of, value in samples_of(text, *_FIELD_OF_METRIC):
        if "gpu_uuid" in of:
            none = dict.fromkeys(_FIELD_OF_METRIC.values())
            found.setdefault(of["gpu_uuid"], none)[_FIELD_OF_METRIC[metric]] = value
    return {uuid: GpuReading(**fields) for uuid, fields in found.items()}
