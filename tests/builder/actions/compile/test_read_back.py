"""What TensorRT's engine tells of itself → the sidecar's rows. TensorRT loads an engine on a GPU only: here its answers are
values, in the form of the vendor's stubs; tests/builder/actions/compile/test_names.py holds every name against the bindings."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from tritonsmith.builder.actions.compile.compilers.tensorrt import engine_rows

Format = Enum("Format", "LINEAR CHW32")
Mode = Enum("Mode", "INPUT OUTPUT")
Location = Enum("Location", "DEVICE HOST")
Kind = Enum("Kind", "FLOAT HALF INT64 FP8")
Level = Enum("Level", "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY")
TRT = SimpleNamespace(TensorFormat=Format, TensorIOMode=Mode, TensorLocation=Location)

X, SIZES, FIXED, Y = "x", "sizes", "fixed", "y"


class Answers:
    """An engine with a dynamic input, a shape tensor, a static input and one output, in two optimization profiles."""

    num_io_tensors = 4
    num_optimization_profiles = 2
    hardware_compatibility_level = Level.SAME_COMPUTE_CAPABILITY

    def get_tensor_name(self, index: int) -> str:
        return (X, SIZES, FIXED, Y)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.OUTPUT if name == Y else Mode.INPUT

    def get_tensor_dtype(self, name: str) -> Kind:
        return {X: Kind.HALF, SIZES: Kind.INT64, FIXED: Kind.FLOAT, Y: Kind.FP8}[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {X: (-1, 4), SIZES: (2,), FIXED: (3,), Y: (-1, 4)}[name]

    def get_tensor_format(self, name: str, profile_index: int) -> Format:
        return Format.CHW32 if (name, profile_index) == (Y, 1) else Format.LINEAR

    def get_tensor_location(self, name: str) -> Location:
        return Location.HOST if name == SIZES else Location.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return name == SIZES

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        return [(1, 4), (4, 4), (8 * (profile_index + 1), 4)]

    def get_tensor_profile_values(self, profile_index: int, name: str) -> list[list[int]]:
        assert isinstance(profile_index, int) and name == SIZES
        return [[1, 1], [2, 2], [8, 8]]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return (4096, 8192)[profile_index]


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return engine_rows(TRT, Answers())


def test_tensors_are_the_engines_own(rows: dict[str, Any]) -> None:
    told = {row.pop("name"): tuple(row.values()) for row in [dict(row) for row in rows["tensors"]]}
    assert told == {
        X: ("input", "TYPE_FP16", [-1, 4], False, False),
        SIZES: ("input", "TYPE_INT64", [2], True, False),
        FIXED: ("input", "TYPE_FP32", [3], False, False),
        # A type that Triton has no word for keeps TensorRT's; a format that is not linear in one profile is none.
        Y: ("output", "FP8", [-1, 4], False, True),
    }


def test_profiles_are_those_of_dynamic_inputs_and_values_of_shape_tensors(rows: dict[str, Any]) -> None:
    first, second = rows["profiles"]
    assert first == {
        X: {"min": [1, 4], "opt": [4, 4], "max": [8, 4]},
        SIZES: {"min": [1, 1], "opt": [2, 2], "max": [8, 8]},
    }
    assert second[X]["max"] == [16, 4]


def test_the_rest(rows: dict[str, Any]) -> None:
    assert rows["hardware_compatibility"] == "same_compute_capability"
    assert rows["device_memory_bytes"] == [4096, 8192]
