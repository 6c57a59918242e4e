"""This machine → the versions that every other line of the record depends on."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.machine.cuda import gpus
from tritonsmith.perf.doctor.gpu_check.step import MissingError
from tritonsmith.perf.doctor.gpu_check.steps.nvidia import driver_version, smi_gpus

PACKAGES = (
    "tritonsmith", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "cupy-cuda13x", "cupy-cuda12x",
    "cuda-bindings", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-ml-py", "tensorrt", "tensorrt-rtx", "tritonclient",
)  # fmt: skip


def versions(device: str, work: Path, argument: str) -> dict[str, Any]:
    """Driver, GPUs by CUDA and by nvidia-smi, libraries; MissingError without a GPU when one is asked for."""
    found, why = gpus()
    if device == "gpu" and not found:
        raise MissingError(why)
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "driver": driver_version(),
        "gpus": [asdict(gpu) for gpu in found],
        "nvidia_smi": [asdict(gpu) for gpu in smi_gpus()],
        "packages": {name: version for name in PACKAGES if (version := version_of(name)) is not None},
    }


def version_of(package: str) -> str | None:
    """Its version; None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
