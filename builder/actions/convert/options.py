"""A precision's options as a mapping from the spec → checked values; one frozen class a precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritonsmith.builder.base.errors import SpecError, unknown
from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.builder.base.rows import function_of


class PrecisionOptions(BaseModel):
    """None; those of a precision that has some are a class on this one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Int8Options(PrecisionOptions):
    """int8 and fp8: Q/DQ around the inputs and weights of some ops."""

    op_types: tuple[str, ...] = Field(
        ("Conv", "Gemm", "MatMul"), description="ops whose inputs are quantized"
    )
    method: Literal["minmax", "percentile", "entropy"] = Field(
        "minmax", description="how the range of an activation follows from its calibration values"
    )
    percentile: float = Field(99.999, gt=50, le=100, description="for method percentile")
    smooth_quant: float | None = Field(
        None, gt=0, lt=1, description="move ranges from activations to weights, by this exponent (usual: 0.5)"
    )
    quantize_outputs: bool = Field(
        False,
        description="round results too; ONNX Runtime's CPU kernels are faster, at a cost in accuracy",
    )


class Int4Options(PrecisionOptions):
    """int4: weights of MatMul alone, in blocks along the summed dimension."""

    block_size: Literal[16, 32, 64, 128, 256] = Field(32, description="weights that share one scale")
    symmetric: bool = Field(True, description="no zero points; TensorRT takes nothing else")
    format: Literal["qdq", "matmulnbits"] = Field(
        "qdq", description="standard DequantizeLinear (opset 21), or ONNX Runtime's own MatMulNBits"
    )


class Nvfp4Options(PrecisionOptions):
    """nvfp4: matrix products with a constant matrix, in blocks of 16."""

    activations: bool = Field(
        True, description="what the matrices are multiplied with, too; false: weights alone, no calibration"
    )


def options_for(precision: str, options: Mapping[str, Any]) -> Any:
    """Checked options; SpecError precision_option with the nearest valid name or the valid values."""
    kind: Any = function_of(precision_rows()[precision].options)
    try:
        return kind(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name not in kind.model_fields:
            raise SpecError(
                f"precision {precision} has no option {name}",
                code="precision_option",
                **unknown(name, kind.model_fields),
            ) from None
        raise SpecError(
            f"option {name} of precision {precision}: {first['msg']}",
            code="precision_option",
            seen=first["input"],
        ) from None
