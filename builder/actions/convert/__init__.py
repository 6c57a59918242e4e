"""An fp32 ONNX file → ONNX at a precision (fp16, bf16, int8, fp8, int4), judged against the fp32 one."""

from tritonsmith.builder.actions.convert.request import (
    NEEDS_CALIBRATION,
    PRECISIONS,
    ConvertRequest,
    ConvertResult,
    KeptNode,
    Precision,
)
from tritonsmith.builder.actions.convert.run import run_convert, run_gate

__all__ = [
    "NEEDS_CALIBRATION",
    "PRECISIONS",
    "ConvertRequest",
    "ConvertResult",
    "KeptNode",
    "Precision",
    "run_convert",
    "run_gate",
]
