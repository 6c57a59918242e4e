"""What an export is asked for and what it gives back, as values that travel between processes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tritonsmith.builder.actions.accuracy.accuracy import AccuracyReport, Bounds
from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.base.tensors import TensorSpec

Exporter = Literal["dynamo", "torchscript"]
"""torch.onnx.export(dynamo=True), which captures with torch.export, and dynamo=False, which runs once and notes what ran."""
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")

OPSETS = range(18, 23)
"""ONNX opsets a torch source may be exported to.

Below 18 torch's exporter falls back to 18 without failing; from 23 on it writes attention as one Attention
node, which ONNX Runtime's CPU provider rejects at run time for some masks.
"""

EXTERNAL_ABOVE_BYTES = 2**31 - 2**24
"""Weights above this travel outside the ONNX file: protobuf ends at 2 GiB; 16 MiB are left for the graph."""


@dataclass(frozen=True, slots=True)
class ExportRequest(JsonForm):
    """One source to turn into ONNX.

    model:        its name, for messages.
    kind:         a kind of builder.base.sources. `reference` is "module:callable" of torch, else a path (relative ones are
                  taken from search_path; onnx also takes "package:NAME/path") or a name.
    options:      the kind's own options.
    search_path:  the spec's directory; first on sys.path, and working directory, of the child process.
    opset:        asked of a source that is translated; an onnx source keeps its own.
    inputs, outputs: what the spec states, full shapes; empty means infer. A stated input may leave none out.
    output_names: all that the spec lists, those without a shape, too; empty means infer.
    dynamic_dims: name → (min, opt, max), of those that follow from others, too.
    dim_relations: name → what it follows from (builder.base.dim_relations), as the spec states it.
    exporter:     of a torch source; None: dynamo, and torchscript where that refuses.
    samples:      "module:callable" (→ list of {input name: ndarray}) or an .npz path; None draws inputs.
    sample_batch_sizes: batch sizes the samples must contain when max_batch_size > 0.
    graph_level:  Triton's optimization.graph.level: what ONNX Runtime infers of the outputs depends on it.
    bounds:       judge the accuracy by these; a measure that is not stated is not judged. Nothing stated:
                  builder.actions.accuracy.accuracy.default_bounds.
    """

    model: str
    kind: str
    reference: str
    search_path: str
    opset: int = 20
    max_batch_size: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    dynamic_dims: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    samples: str | None = None
    sample_batch_sizes: tuple[int, ...] = (1, 3)
    seed: int = 0
    graph_level: int = 0
    bounds: Bounds = field(default_factory=Bounds)
    external_above_bytes: int = EXTERNAL_ABOVE_BYTES
    options: Mapping[str, Any] = field(default_factory=dict)
    output_names: tuple[str, ...] = ()
    dim_relations: Mapping[str, str] = field(default_factory=dict)
    exporter: Exporter | None = None


@dataclass(frozen=True, slots=True)
class ExportResult(JsonForm):
    """What run_export left in its output directory.

    files:        paths below out_dir that belong in a model version's directory: `model.onnx`, or, with
                  external data, `model.onnx/model.onnx` and its data files beside it, as Triton wants them.
    inputs, outputs: full shapes, batch dimension included, dynamic dimensions by name where they have one.
    dependencies: absolute paths of every file the source was read from; their content decides staleness.
    samples_path: `samples.npz` below out_dir, inputs with the source's own answers; None when note in
                  accuracy says that no inputs could be made.
    tools:        versions that took part, `torch` only when it did.
    relations, exporter, notes: as of Exported.
    """

    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    ir_version: int
    dependencies: tuple[str, ...]
    accuracy: AccuracyReport
    samples_path: str | None
    seconds: float
    tools: Mapping[str, str]
    relations: Mapping[str, str] = field(default_factory=dict)
    exporter: str | None = None
    notes: tuple[str, ...] = ()
