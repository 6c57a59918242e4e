"""An fp32 ONNX file → ONNX at a precision (fp16, bf16, int8, fp8, int4), judged against the fp32 one."""

from tritonsmith.builder.actions.convert.request import (
    ConvertRequest,
    ConvertResult,
    KeptNode,
)
from tritonsmith.builder.actions.convert.run import run_convert, run_gate

__all__ = [
    "ConvertRequest",
    "ConvertResult",
    "KeptNode",
    "run_convert",
    "run_gate",
]
