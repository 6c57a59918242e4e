"""Precision → its PrecisionRow: how a graph gets there, is judged, and what runs it; other packages may add rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from tritonsmith.builder.base.rows import table_of

_CONVERT = "tritonsmith.builder.actions.convert"


@dataclass(frozen=True, slots=True)
class PrecisionRow:
    """One precision. References are "module:function", imported when they are needed.

    name:        as `precision:` has it.
    bounds:      of the accuracy gate where none are stated: fields of builder.actions.accuracy.accuracy.Bounds.
    convert:     (Conversion) → Converted, of builder.actions.convert.conversion, run in a process of its own; None: the
                 graph is the source's, and what runs it is told.
    form:        what the conversion changes: "weights" are stored in few bits behind DequantizeLinear, or every float
                 of the graph becomes a "half".
    options:     the class of its options, a frozen pydantic model that forbids others.
    calibration: its conversion "needs" calibration data, or only "looks" at them; None reads none.
    uncalibrated: options under which it needs none after all.
    distributions: whose versions decide the graph's bytes beside onnx's and onnxruntime's.
    exact:       it computes what the source computes: integer outputs must be equal, not alike in 99 % of the rows, and for
                 ONNX Runtime the export itself is the variant.
    tf32:        whether a GPU multiplies fp32 as TF32; None leaves it as it is.
    no_onnxruntime: why ONNX Runtime cannot run it; empty where it can.
    on_cuda:     ONNX Runtime's CUDA provider runs the graph "wholly", or in "part"; None: gpu-check does not look.
    least_capability: compute capability below which TensorRT does not compile it; None where all will do.
    tensorrt_takes: option → the values that TensorRT takes. tensorrt_options: what it is given where none are stated.
    emulate:     (ModelProto) → ModelProto that computes the same on a CPU, for the gate; `emulated` is what the gate calls it,
                 `why_emulated` what a reader is told.
    """

    name: str
    bounds: Mapping[str, float]
    convert: str | None = None
    form: Literal["weights", "half"] = "weights"
    options: str = f"{_CONVERT}.options:PrecisionOptions"
    calibration: Literal["needs", "looks"] | None = None
    uncalibrated: Mapping[str, Any] = field(default_factory=dict)
    distributions: tuple[str, ...] = ()
    exact: bool = False
    tf32: bool | None = None
    no_onnxruntime: str = ""
    on_cuda: Literal["wholly", "part"] | None = None
    least_capability: str | None = None
    tensorrt_takes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    tensorrt_options: Mapping[str, Any] = field(default_factory=dict)
    emulate: str | None = None
    emulated: str = ""
    why_emulated: str = ""


# Bounds: two runtimes that sum fp32 in another order differ by 1e-7 to 1e-6. At equal norms relative L2 and cosine say the
# same, relative_l2² = 2 (1 − cosine): 0.15 goes with 0.989, 0.2 with 0.98. fp16 has 11 significant bits and bf16 8, so that
# a network of a hundred layers loses about 1e-3 and 1e-2; quantized ones have no natural bound, and 0.99 is where embeddings
# and detectors begin to change answers.
# Compute capabilities: TensorRT-RTX documentation, "Working with Quantized Types" (FP8, FP4); tried: TensorRT-RTX 1.7
# refuses bf16 for 7.5, fp8 for 8.6 and nvfp4 for 8.9. int4's blocks: TensorRT documentation, Quantization Schemes;
# TensorRT-RTX takes 32, too. Distributions: ml_dtypes rounds to the types that NumPy lacks, and onnxruntime's weight-only
# quantizer is written on onnx-ir.
_ROWS = (
    PrecisionRow("fp32", {"relative_l2": 1e-4, "negligible_abs": 1e-6}, exact=True, tf32=False, on_cuda="wholly"),
    PrecisionRow(
        "tf32", {"relative_l2": 5e-3, "cosine": 0.9999, "negligible_abs": 1e-3}, tf32=True, on_cuda="wholly",
        emulate=f"{_CONVERT}.precisions.emulate:emulated_tf32", emulated="TF32 emulated by rounding",
        why_emulated="a CPU computes this graph as fp32; judged, too, by rounding what products read to TF32",
    ),
    PrecisionRow(
        "fp16", {"relative_l2": 1e-2, "cosine": 0.9999, "negligible_abs": 1e-3},
        convert=f"{_CONVERT}.precisions.half:convert_fp16", form="half",
        calibration="looks",  # for overflow
        on_cuda="wholly",
    ),
    PrecisionRow(
        "bf16", {"relative_l2": 5e-2, "cosine": 0.999, "negligible_abs": 1e-2},
        convert=f"{_CONVERT}.precisions.half:convert_bf16", form="half", distributions=("ml_dtypes",),
        on_cuda="part", least_capability="8.0",
        emulate=f"{_CONVERT}.precisions.emulate:emulated_bf16", emulated="bf16 emulated by rounding",
        why_emulated="ONNX Runtime's CPU provider has no bf16 kernels; judged by rounding to bf16 between operators",
    ),
    PrecisionRow(
        "int8", {"relative_l2": 0.15, "cosine": 0.99},
        convert=f"{_CONVERT}.precisions.quantize:convert_int8", options=f"{_CONVERT}.options:Int8Options",
        calibration="needs", on_cuda="part",
    ),
    PrecisionRow(
        "fp8", {"relative_l2": 0.15, "cosine": 0.99},
        convert=f"{_CONVERT}.precisions.quantize:convert_fp8", options=f"{_CONVERT}.options:Int8Options",
        calibration="needs", distributions=("ml_dtypes",), least_capability="8.9",
    ),
    PrecisionRow(
        "int4", {"relative_l2": 0.2, "cosine": 0.98},
        convert=f"{_CONVERT}.precisions.weight_only:convert_int4", options=f"{_CONVERT}.options:Int4Options",
        distributions=("ml_dtypes", "onnx-ir"), tensorrt_options={"block_size": 64},
        tensorrt_takes={"block_size": (64, 128), "symmetric": (True,), "format": ("qdq",)},
    ),
    PrecisionRow(
        "nvfp4", {"relative_l2": 0.2, "cosine": 0.98},
        convert=f"{_CONVERT}.precisions.nvfp4:convert_nvfp4", options=f"{_CONVERT}.options:Nvfp4Options",
        calibration="needs", uncalibrated={"activations": False}, distributions=("ml_dtypes",),
        no_onnxruntime="ONNX Runtime has no kernels for 4-bit floats", least_capability="10.0",
        emulate=f"{_CONVERT}.precisions.emulate:emulated_nvfp4", emulated="NVFP4 emulated by rounding",
        why_emulated="ONNX Runtime has no kernels for 4-bit floats; judged by rounding to them in blocks",
    ),
)  # fmt: skip


@lru_cache(maxsize=1)
def precision_rows() -> Mapping[str, PrecisionRow]:
    """Every precision that is known, ours first, then those that other packages name in that group of entry points."""
    return table_of("tritonsmith.precisions", PrecisionRow, _ROWS, lambda row: row.name)
