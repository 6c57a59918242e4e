"""A Triton container release, image tag or server version → its row of releases.csv, its backends, its TensorRT."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

# Backends that NVIDIA builds; only these can be missed in an image, any other is the user's own.
NVIDIA_BACKENDS = frozenset(
    {"onnxruntime", "tensorrt", "pytorch", "openvino", "python", "dali", "fil", "tensorrtllm", "vllm"}
)

# Image name behind the release → backends in it. Sources: server issues 6708 and 8342 and tensorrtllm_backend issue
# 401 (trtllm), server issue 7445 (pyt), vllm_backend README (vllm); the plain image is taken to have all others.
IMAGES: Mapping[str, frozenset[str]] = {
    "py3": NVIDIA_BACKENDS - {"tensorrtllm", "vllm"},
    "trtllm-python-py3": frozenset({"tensorrtllm", "python"}),
    "vllm-python-py3": frozenset({"vllm", "python"}),
    "pyt-python-py3": frozenset({"pytorch", "python"}),
}

# Newest opset of TensorRT's ONNX parser by major version. Sources: onnx-tensorrt docs/operators.md of 10.15 (9 to 24);
# TensorRT documentation, ONNX Opset Guide (11.x: 25, 9 and above). Earlier 10.x may know less; they are not in a table.
_PARSER_OPSETS: Mapping[int, int] = {10: 24, 11: 25}
_OLDEST_PARSER_OPSET = 9

_PLAN_VERSION_NUMBERS = 4
_FIRST_VERSION_COMPATIBLE = (8, 6)
_FIRST_PACKAGE_WITH_BUILD = (10, 8)
# Compute capabilities from, to; the first TensorRT that compiles for them, the first that does no more. Sources:
# TensorRT release notes 10.3.0 ("Volta support … will be removed in TensorRT 10.5") and 10.8.0 ("supports NVIDIA
# Blackwell GPUs"). What is between is in every TensorRT 10 and 11.
_CAPABILITIES: tuple[tuple[str, str, str, str], ...] = (
    ("0.0", "6.9", "0", "10.0"),
    ("7.0", "7.4", "0", "10.5"),
    ("10.0", "12.9", "10.8", "999"),
)


@lru_cache(maxsize=1)
def releases() -> dict[str, dict[str, str]]:
    """The release table builder/base/machine/releases.csv: release → row; an empty cell is not known."""
    path = Path(__file__).with_name("releases.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return {row["release"]: row for row in csv.DictReader(file)}


def release_from_triton_version(version: str) -> str | None:
    """What a live server calls its version (`2.51.0`) → its container release (`24.10`); None when not in the table."""
    numbers = re.match(r"\d+\.\d+\.\d+", version.strip())
    if numbers is None:
        return None
    return next((name for name, row in releases().items() if row["triton"] == numbers.group()), None)


def release_from_image(reference: str) -> tuple[str, str] | None:
    """`nvcr.io/nvidia/tritonserver:26.08-py3`, or the tag alone → (`26.08`, `py3`); None when it says no release."""
    tag = re.search(r"(?:^|:)(\d\d\.\d\d)(?:-([\w.-]+))?(?:@sha256:\w+)?$", reference.strip())
    return None if tag is None else (tag.group(1), tag.group(2) or "py3")


def tensorrt_of(release: str | None, image: str = "py3") -> str | None:
    """The TensorRT inside a release's image; None when it is not known.

    The trtllm image carries an older TensorRT than its month suggests; its column never stands in for the plain
    image's.
    """
    row = releases().get(release or "")
    column = {"py3": "tensorrt_py3_image", "trtllm-python-py3": "tensorrt_trtllm_image"}.get(image)
    return (row[column] or None) if row is not None and column is not None else None


def parser_opsets(tensorrt: str | None = None) -> range:
    """Opsets that the ONNX parser of that TensorRT knows; of the newest one when the version is None or not known."""
    major = int(tensorrt.split(".")[0]) if tensorrt and tensorrt.split(".")[0].isdigit() else 0
    newest = _PARSER_OPSETS.get(major, max(_PARSER_OPSETS.values()))
    return range(_OLDEST_PARSER_OPSET, newest + 1)


def is_whole_tensorrt(version: str) -> bool:
    """Whether it says all that decides whether a plan loads: major, minor, patch and build (`10.16.0.72`).

    Source: DRIVE OS 7.0.3 documentation, TensorRT Release Properties ("version numbers must match (in major, minor,
    patch, and build)"); NVIDIA/TensorRT issues 3793 (9.2.0.5 refuses a plan of 9.2.0.4) and 3069 (8.6.1.6, 8.6.1.2).
    """
    return len(_numbers(version)) >= _PLAN_VERSION_NUMBERS


def tensorrt_requirement(version: str) -> str:
    """`10.16.0.72` → what pip installs of that TensorRT, and of what was packaged of it anew (`10.16.0.72.post1`).

    The packages called `tensorrt` carry the build in their version from 10.8.0.43 on; 10.7.0 and before do not.
    """
    numbers = _numbers(version)
    told = numbers if numbers >= _FIRST_PACKAGE_WITH_BUILD else numbers[:3]
    return f"tensorrt=={'.'.join(map(str, told))}.*"


def is_same_tensorrt(built: str, runtime: str) -> bool:
    """Equal as far as both say: `10.6.0`, as a package's version may be, and `10.6.0.26` are taken as one."""
    return all(a == b for a, b in zip(_numbers(built), _numbers(runtime), strict=False))


def takes_version_compatible(built: str, runtime: str) -> bool:
    """A version-compatible engine runs on the newer runtimes of its major; one of 8.6 on 10, one of 10 on 11.

    Source: TensorRT 11.4 documentation, Support Matrix, Version Compatibility; 10.16.1, Version Compatibility ("supported
    from version 8.6"); NvInfer.h, kVERSION_COMPATIBLE.
    """
    if _numbers(built) > _numbers(runtime) and not is_same_tensorrt(built, runtime):
        return False
    if _numbers(built) < _FIRST_VERSION_COMPATIBLE:
        return False
    majors = (_numbers(built)[:1], _numbers(runtime)[:1])
    return majors[0] == majors[1] or majors in (((8,), (10,)), ((10,), (11,)))


def builds_for(tensorrt: str, compute_capability: str) -> bool:
    """Whether a TensorRT compiles engines for GPUs of a compute capability (`9.0`), as far as _CAPABILITIES says."""
    for first, last, least, end in _CAPABILITIES:
        if _numbers(first) <= _numbers(compute_capability) <= _numbers(last):
            return _numbers(least) <= _numbers(tensorrt) < _numbers(end)
    return True


def takes_hardware(built: str, serving: str, hardware_compatibility: str) -> bool:
    """Whether an engine of one compute capability (`8.6`) loads on another.

    Source: NvInfer.h, HardwareCompatibilityLevel: AMPERE_PLUS spans 8.0 and up, SAME_COMPUTE_CAPABILITY only GPUs of
    one compute capability.
    """
    if built == serving:
        return True
    return hardware_compatibility == "ampere_plus" and min(_numbers(built), _numbers(serving)) >= (8, 0)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
