"""What a conversion is asked for and what it gives back, as values that travel between processes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
from tritonsmith.builder.actions.convert.coverage import Coverage
from tritonsmith.builder.actions.export.request import EXTERNAL_ABOVE_BYTES
from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.base.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class ConvertRequest(JsonForm):
    """One fp32 ONNX model to bring to a precision.

    model:       its name, for messages.
    source_onnx: path of the fp32 model; external data lies beside it.
    exclude:     nodes that stay as they are: globs over node names and op types.
    keep_io:     fp16 and bf16: inputs and outputs stay fp32.
    calibration: required where the precision's row says so; None otherwise allowed.
    held_out:    samples.npz that judges the result: never calibrated on, but looked at for overflow.
    options:     by precision, see builder.actions.convert.options.
    graph_level: Triton's optimization.graph.level where ONNX Runtime serves the result, else None.
    """

    model: str
    source_onnx: str
    precision: str
    exclude: tuple[str, ...] = ()
    keep_io: bool = True
    calibration: CalibrationSpec | None = None
    held_out: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    external_above_bytes: int = EXTERNAL_ABOVE_BYTES
    graph_level: int | None = None


@dataclass(frozen=True, slots=True)
class KeptNode:
    """A node that was not converted, and why.

    reason: `excluded by "…"`, `overflows fp16: …`, `Resize stays in fp32`, `Conv has no bf16 form at opset 20`.
    """

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConvertResult(JsonForm):
    """What run_convert left in its output directory.

    files:      paths below out_dir for a model version's directory, as in ExportResult.
    inputs, outputs: full shapes; fp16 or bf16 only when keep_io was False.
    kept_fp32:  nodes that could have been converted and were not, with the reason.
    converted:  names of the source's nodes that compute in the asked precision.
    calibration_digest, calibration_rows: None and 0 when none was read.
    dependencies: files the calibration was read from.
    tensorrt_only: ONNX Runtime's CPU provider has no kernels for it at any optimisation level.
    notes:      what a reader of a report should know (ranges unchecked, opset raised).
    coverage:   how much of the model is in the precision; None for fp32 and tf32, which change nothing.
    lacks:      why ONNX Runtime, which is to serve it, cannot load it on a CPU; empty when it can, or is not to.
    """

    precision: str
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    ir_version: int
    kept_fp32: tuple[KeptNode, ...]
    converted: tuple[str, ...]
    calibration_digest: str | None
    calibration_rows: int
    dependencies: tuple[str, ...]
    seconds: float
    tools: Mapping[str, str]
    tensorrt_only: bool
    notes: tuple[str, ...] = ()
    coverage: Coverage | None = None
    lacks: str = ""

    @property
    def onnx_file(self) -> str:
        """The .onnx file itself, below out_dir."""
        return next(name for name in self.files if name.endswith(".onnx"))
