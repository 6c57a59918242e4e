"""What the converting function of a PrecisionRow gets, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.accuracy.calibration import Calibration
from tritonsmith.builder.actions.accuracy.samples import SampleSet
from tritonsmith.builder.actions.convert.request import ConvertRequest

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

_RANGE_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Conversion:
    """One fp32 model to bring to a precision.

    model:       the ModelProto, prepared (named nodes, folded constants); the function may change it.
    request:     what was asked; its source_onnx is a file of the same model, to run on samples.
    excluded:    node → why the user keeps it as it is.
    options:     checked, of the row's class.
    calibration: None where the precision reads none, or none is stated and it only looks at them.
    held_out:    samples that judge the result.
    """

    model: Any
    request: ConvertRequest
    excluded: Mapping[str, str]
    options: Any
    calibration: Calibration | None
    held_out: SampleSet

    def range_samples(self) -> list[Mapping[str, Array]]:
        """A few inputs that show how large values get."""
        samples = [sample.inputs for sample in self.held_out.samples]
        return [*samples, *(self.calibration.samples if self.calibration else ())][:_RANGE_SAMPLES]


@dataclass(frozen=True, slots=True)
class Converted:
    """kept: node of the source → why it was not converted. nodes: those that were. notes: for a report's reader."""

    model: Any
    kept: Mapping[str, str]
    nodes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
