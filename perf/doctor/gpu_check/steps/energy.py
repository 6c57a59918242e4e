"""Matrix products for ten seconds → joules by NVML's counter, by Triton's, and by power × time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tritonsmith.perf.doctor.gpu_check.step import MissingError, Outcome, UnexpectedError
from tritonsmith.perf.doctor.gpu_check.steps import models
from tritonsmith.perf.doctor.gpu_check.steps.nvidia import energy_of
from tritonsmith.perf.doctor.gpu_check.steps.serving import MODEL, gpu_reading, told
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import ServerSpec, launch
from tritonsmith.perf.usage.resource_use import gpu_readings_from_metrics

_LOAD_S = 10.0
_SIDE = 8192
_METRICS_MS = 100


def energy(device: str, work: Path, argument: str) -> dict[str, Any] | Outcome:
    """A server that has nothing to do tells the GPU's counter while this process keeps the GPU busy."""
    reading = gpu_reading()

    def joules() -> float:
        return told(reading().energy_j, "energy")

    def watts() -> float:
        return told(reading().power_w, "power")

    name, multiply = _multiplication()
    onnx = models.perceptron(work / "perceptron.onnx")
    repository = models.repository(work / "repository", MODEL, onnx, "KIND_CPU")
    spec = ServerSpec(
        repositories=(repository,),
        extra_args=(f"--metrics-interval-ms={_METRICS_MS}",),
        log_path=work / "tritonserver.log",
    )
    with launch(spec) as server:
        multiply()
        counted = triton_j(control.metrics_text(server.metrics_url))
        begin_s, begin_j, power, products = time.monotonic(), joules(), [watts()], 0
        while time.monotonic() - begin_s < _LOAD_S:
            multiply()
            products += 1
            power.append(watts())
        seconds, end_j = time.monotonic() - begin_s, joules()
        time.sleep(2 * _METRICS_MS / 1e3)
        after = triton_j(control.metrics_text(server.metrics_url))
    both = None if counted is None or after is None else (counted, after)
    found = energy_of(seconds, (begin_j, end_j), both, power)
    facts = {
        **asdict(found),
        "seconds": seconds,
        "library": name,
        "tflop_per_s": products * 2 * _SIDE**3 / seconds / 1e12,
    }
    if found.disagreements:
        raise UnexpectedError("; ".join(found.disagreements), **facts)
    if both is None:
        return Outcome(
            "missing", "this server's metrics have no nv_energy_consumption (it needs DCGM)", facts
        )
    return facts


def triton_j(text: str) -> float | None:
    """The first GPU's nv_energy_consumption in Prometheus text; None where there is none."""
    return next((reading.energy_j for reading in gpu_readings_from_metrics(text).values()), None)


def _multiplication() -> tuple[str, Callable[[], None]]:
    """(library, one matrix product that is done when it returns)"""
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None and torch.cuda.is_available():
        a = torch.ones((_SIDE, _SIDE), device="cuda", dtype=torch.float16)

        def by_torch() -> None:
            a @ a
            torch.cuda.synchronize()

        return f"torch {torch.__version__}", by_torch
    try:
        import cupy
    except ImportError:
        raise MissingError("neither torch with CUDA nor cupy is here to make a load") from None
    b = cupy.ones((_SIDE, _SIDE), dtype=cupy.float16)

    def by_cupy() -> None:
        b @ b
        cupy.cuda.Device().synchronize()

    return f"cupy {cupy.__version__}", by_cupy
