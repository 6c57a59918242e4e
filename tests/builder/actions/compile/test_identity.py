"""An engine is held against what was asked for: by the head of its file, by what is read back, by what lies beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.actions.compile import (
    CompileOptions,
    CompileRequest,
    OptimizationProfile,
    ShapeRange,
)
from tritonsmith.builder.actions.compile.identity import (
    AskedEngine,
    EngineHeader,
    differences,
    header_of,
    refuse_other,
)
from tritonsmith.builder.actions.compile.sidecar import sidecar
from tritonsmith.builder.base.errors import BuildError

PROFILE = OptimizationProfile({"x": ShapeRange((1, 3), (4, 3), (8, 3))})
OPTIONS = CompileOptions(hardware_compatibility="same_compute_capability")
ASKED = AskedEngine(
    "tensorrt",
    "10.16.0.72",
    "8.9",
    "linux_x86_64",
    OPTIONS,
    (PROFILE,),
    (("x", "TYPE_FP32", (-1, 3)), ("y", "TYPE_FP32", (-1, 3))),
)
ROWS = [
    {"name": name, "mode": mode, "data_type": "TYPE_FP32", "shape": [-1, 3]}
    for name, mode in (("x", "input"), ("y", "output"))
]


def plan_bytes(version: str = "10.16.0.72", tag: bytes = b"ftrt", serialisation: int = 0) -> bytes:
    numbers = bytes(int(n) for n in version.split("."))
    return tag + serialisation.to_bytes(4, "little") + bytes(16) + numbers


def told(**other: Any) -> dict[str, Any]:
    request = CompileRequest("m", "tensorrt", "m.onnx", (PROFILE,), OPTIONS)
    said = sidecar(
        request,
        version="10.16.0.72",
        compute_capability="8.9",
        gpu="NVIDIA L4",
        tensors=ROWS,
        engine_bytes=28,
        platform="linux_x86_64",
    )
    return {**said, **other}


def found(tmp_path: Path, data: bytes = plan_bytes(), asked: AskedEngine = ASKED, **other: Any) -> list[str]:
    path = tmp_path / "model.plan"
    path.write_bytes(data)
    return differences(asked, path, told(**other))


def test_the_engine_that_was_asked_for_differs_in_nothing(tmp_path: Path) -> None:
    assert found(tmp_path) == []
    refuse_other(ASKED, tmp_path / "model.plan", told(), "m")
    # TensorRT tells of static inputs, too, and of the one profile that an engine without dynamic inputs has.
    more = {**PROFILE.as_dict(), "z": {"min": [2], "opt": [2], "max": [2]}}
    assert found(tmp_path, profiles=[more]) == []
    assert found(tmp_path, asked=replace(ASKED, profiles=()), profiles=[{}]) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"compute_capability": "8.6"}, "compute_capability is 8.6, 8.9 was asked for"),
        ({"platform": "linux_aarch64"}, "platform is linux_aarch64, linux_x86_64 was asked for"),
        ({"platform": None}, "platform is None, linux_x86_64 was asked for"),
        ({"hardware_compatibility": "none"}, "hardware_compatibility is none, same_compute_capability was asked for"),
        ({"version_compatible": True}, "version_compatible is True, False was asked for"),
        ({"stripped": True}, "stripped is True, False was asked for"),
        ({"engine_bytes": 29}, "engine_bytes is 29, 28 was asked for"),
        ({"tensorrt": "10.15.1.29"}, "version 10.16.0.72 is in the file, 10.15.1.29 beside it"),
        ({"profiles": []}, "it has 0 optimization profiles, 1 were asked for"),
        ({"profiles": [{}, {}]}, "it has 2 optimization profiles, 1 were asked for"),
        ({"profiles": [{"x": {"min": [1, 3], "opt": [2, 3], "max": [8, 3]}}]},
         "optimization profile 0 of x is {'min': [1, 3], 'opt': [2, 3], 'max': [8, 3]}, "
         "{'min': [1, 3], 'opt': [4, 3], 'max': [8, 3]} was asked for"),
        ({"tensors": []}, "it has the tensors , not x, y"),
        ({"tensors": [ROWS[0], {**ROWS[1], "data_type": "TYPE_FP16"}]}, "y is TYPE_FP16, TYPE_FP32 was asked for"),
        ({"tensors": [ROWS[0], {**ROWS[1], "shape": [-1, 4]}]}, "y has shape [-1, 4], [-1, 3] was asked for"),
    ],
)  # fmt: skip
def test_each_difference_is_said(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    assert found(tmp_path, **other) == [said]
    with pytest.raises(BuildError) as refused:
        refuse_other(ASKED, tmp_path / "model.plan", told(**other), "m")
    assert refused.value.code == "engine_other" and said in refused.value.message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        # A build apart is another TensorRT.
        (plan_bytes("10.16.0.71"), "version 10.16.0.71 is in the file, 10.16.0.72 was asked for"),
        (plan_bytes("1.7.1.116", b"vtrt"), "it was written by tensorrt_rtx, and tensorrt was asked for"),
        (b"ftrt", "the file is no engine"),
        (b"\x08\x0a" + bytes(40), "the file is no engine"),
        (b"", "the file is no engine"),
    ],
)
def test_the_head_of_the_file_decides(tmp_path: Path, data: bytes, said: str) -> None:
    assert found(tmp_path, data, engine_bytes=len(data))[0].startswith(said)


def test_an_unknown_serialisation_tells_no_version(tmp_path: Path) -> None:
    assert header_of(plan_bytes(serialisation=1)) == EngineHeader("tensorrt", None)
    assert found(tmp_path, plan_bytes("1.2.3.4", serialisation=1)) == []
    lean = replace(ASKED, options=replace(OPTIONS, version_compatible=True))
    assert found(tmp_path, b"PK" + bytes(26), lean, version_compatible=True) == [], (
        "with a lean runtime before it"
    )
