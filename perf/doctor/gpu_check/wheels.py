"""What the GPU check needs beyond a Python → which packages this Python lacks, with versions; the standard library alone.

It runs before anything of ours can be imported: on a machine without network even pydantic may have to be brought.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

from tritonsmith.builder.base.machine.own import IMPORT_ROOT

HOW = "bring its wheel: make gpu-check WHEELS=DIR"
_CONSTRAINTS = IMPORT_ROOT / "constraints.txt"


@dataclass(frozen=True, slots=True)
class Wheel:
    """One package. gpu: only the steps that need a GPU need it. stands_for: what else will do in its place."""

    name: str
    why: str
    gpu: bool = False
    stands_for: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """`name==version` where constraints.txt pins it, else the name."""
        version = _pinned().get(self.name)
        return f"{self.name}=={version}" if version else self.name


# Without these not even the command line starts.
BASE = (
    "fsspec",
    "hpack",
    "jinja2",
    "numpy",
    "onnx",
    "packaging",
    "protobuf",
    "psutil",
    "pydantic",
    "pyyaml",
    "rich",
)
WHEELS = (
    *(Wheel(name, "the command line") for name in (*BASE, "tritonclient", "grpcio", "typer", "uvloop")),
    Wheel("onnxruntime", "references on the CPU", stands_for=("onnxruntime-gpu",)),
    Wheel("ml-dtypes", "bf16"),
    Wheel("onnxruntime-gpu", "every step with ONNX Runtime on CUDA", gpu=True),
    Wheel("nvidia-ml-py", "memory and energy", gpu=True),
    Wheel("cuda-python", "CUDA shared memory", gpu=True, stands_for=("cuda-bindings",)),
    Wheel("tensorrt", "engines", gpu=True),
    Wheel("tensorrt-rtx", "TensorRT-RTX"),
)


def lacking(gpu: bool) -> tuple[Wheel, ...]:
    """Those that are not installed; gpu: those of the GPU's steps, too."""
    return tuple(
        wheel
        for wheel in WHEELS
        if (gpu or not wheel.gpu) and not any(_is_installed(n) for n in (wheel.name, *wheel.stands_for))
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _pinned() -> dict[str, str]:
    """constraints.txt: name → version; of several for several Pythons the last, which is the newest Python's."""
    if not _CONSTRAINTS.is_file():
        return {}
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", _CONSTRAINTS.read_text(), re.MULTILINE))
