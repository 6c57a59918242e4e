"""What a judgement is asked for and what it gives back, as values that travel between processes as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import computed_field

from tritonsmith.builder.actions.accuracy.accuracy import AccuracyReport, Bounds
from tritonsmith.builder.actions.accuracy.layers import LayerLoss
from tritonsmith.builder.base.files.json_forms import JsonForm

Served = Literal["onnxruntime", "tensorrt"]


@dataclass(frozen=True, slots=True)
class Metric:
    """The user's own measure.

    reference: "module:callable", called as f(reference, candidate) with two lists of {output name: array}, one
               element a sample, once for each runtime; gives one number.
    at_least, at_most: bounds; at least one is stated.
    """

    reference: str
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class MetricValue:
    """What the user's measure gave on one runtime; None when a sample failed there, so that it was not asked."""

    runtime: str
    value: float | None
    passed: bool


@dataclass(frozen=True, slots=True)
class GateRequest(JsonForm):
    """One variant to judge.

    source, candidate: .onnx files of the fp32 model and of the variant.
    samples:     samples.npz with the source's answers; answers that are missing come from the fp32 model.
    bounds:      what is stated is judged for every output; nothing stated: variant_bounds(precision).
    served_by:   onnxruntime serves with optimisations on, so both ways count; TensorRT reads the graph as
                 written, so that one counts and the other is told as a finding.
    candidates:  nodes of the source that the variant converted; only those are proposed for exclusion.
    search_path: where a metric's module is found.
    """

    model: str
    precision: str
    source: str
    candidate: str
    samples: str
    search_path: str
    bounds: Bounds = field(default_factory=Bounds)
    metric: Metric | None = None
    served_by: Served = "onnxruntime"
    candidates: tuple[str, ...] = ()
    always_layers: bool = False


@dataclass(frozen=True, slots=True)
class GateResult(JsonForm):
    """The verdict.

    accuracy: the comparisons that count, as in an export's report.
    findings: what a reader has to know beside the numbers, one sentence each: a difference between the graph
              optimised and as written, a runtime that refuses it, an emulation in place of a run.
    layers:   the nodes that lose most, largest own loss first; empty when the gate said yes.
    exclude:  what to add to the variant's `exclude` to try next.
    """

    accuracy: AccuracyReport
    metric: tuple[MetricValue, ...]
    findings: tuple[str, ...]
    layers: tuple[LayerLoss, ...]
    exclude: tuple[str, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """True when every output, and the user's metric, is within its bounds."""
        return self.accuracy.passed and all(value.passed for value in self.metric)
