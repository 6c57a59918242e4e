"""ONNX + optimization profiles → engine: TensorRT's plan where there is a GPU, TensorRT-RTX's proof anywhere."""

from tritonsmith.builder.actions.compile.instance_groups import instance_groups_with_profiles
from tritonsmith.builder.actions.compile.profiles import (
    OptimizationProfile,
    ShapeRange,
    StatedProfile,
    derive_profiles,
)
from tritonsmith.builder.actions.compile.request import (
    CompileOptions,
    CompileRequest,
    CompileResult,
    options_from_dict,
)
from tritonsmith.builder.actions.compile.run import run_compile

__all__ = [
    "CompileOptions",
    "CompileRequest",
    "CompileResult",
    "OptimizationProfile",
    "ShapeRange",
    "StatedProfile",
    "derive_profiles",
    "instance_groups_with_profiles",
    "options_from_dict",
    "run_compile",
]
