"""What an export is asked for and what it gives back, as values that travel between processes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tritonsmith.builder.actions.accuracy.accuracy import AccuracyReport, Bounds, report_from_dict
from tritonsmith.builder.base.tensors import TensorSpec, tensor_from_dict

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
class ExportRequest:
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

    def as_dict(self) -> dict[str, object]:
        """JSON form."""
        return {
            "model": self.model,
            "kind": self.kind,
            "reference": self.reference,
            "search_path": self.search_path,
            "opset": self.opset,
            "max_batch_size": self.max_batch_size,
            "inputs": [tensor.as_dict() for tensor in self.inputs],
            "outputs": [tensor.as_dict() for tensor in self.outputs],
            "dynamic_dims": {name: list(sizes) for name, sizes in self.dynamic_dims.items()},
            "samples": self.samples,
            "sample_batch_sizes": list(self.sample_batch_sizes),
            "seed": self.seed,
            "graph_level": self.graph_level,
            "bounds": asdict(self.bounds),
            "external_above_bytes": self.external_above_bytes,
            "options": dict(self.options),
            "output_names": list(self.output_names),
            "dim_relations": dict(self.dim_relations),
            "exporter": self.exporter,
        }


def request_from_dict(data: Mapping[str, Any]) -> ExportRequest:
    """The inverse of ExportRequest.as_dict."""
    return ExportRequest(
        model=str(data["model"]),
        kind=str(data["kind"]),
        reference=str(data["reference"]),
        search_path=str(data["search_path"]),
        opset=int(data["opset"]),
        max_batch_size=int(data["max_batch_size"]),
        inputs=tuple(tensor_from_dict(item) for item in data["inputs"]),
        outputs=tuple(tensor_from_dict(item) for item in data["outputs"]),
        dynamic_dims={name: (sizes[0], sizes[1], sizes[2]) for name, sizes in data["dynamic_dims"].items()},
        samples=data["samples"],
        sample_batch_sizes=tuple(data["sample_batch_sizes"]),
        seed=int(data["seed"]),
        graph_level=int(data["graph_level"]),
        bounds=Bounds(**data["bounds"]),
        external_above_bytes=int(data["external_above_bytes"]),
        options=dict(data["options"]),
        output_names=tuple(data["output_names"]),
        dim_relations=dict(data["dim_relations"]),
        exporter=data["exporter"],
    )


@dataclass(frozen=True, slots=True)
class ExportResult:
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

    def as_dict(self) -> dict[str, object]:
        """JSON form."""
        return {
            "files": list(self.files),
            "inputs": [tensor.as_dict() for tensor in self.inputs],
            "outputs": [tensor.as_dict() for tensor in self.outputs],
            "opset": self.opset,
            "ir_version": self.ir_version,
            "dependencies": list(self.dependencies),
            "accuracy": self.accuracy.as_dict(),
            "samples_path": self.samples_path,
            "seconds": self.seconds,
            "tools": dict(self.tools),
            "relations": dict(self.relations),
            "exporter": self.exporter,
            "notes": list(self.notes),
        }


def result_from_dict(data: Mapping[str, Any]) -> ExportResult:
    """The inverse of ExportResult.as_dict."""
    return ExportResult(
        files=tuple(data["files"]),
        inputs=tuple(tensor_from_dict(item) for item in data["inputs"]),
        outputs=tuple(tensor_from_dict(item) for item in data["outputs"]),
        opset=int(data["opset"]),
        ir_version=int(data["ir_version"]),
        dependencies=tuple(data["dependencies"]),
        accuracy=report_from_dict(data["accuracy"]),
        samples_path=data["samples_path"],
        seconds=float(data["seconds"]),
        tools=dict(data["tools"]),
        relations=dict(data["relations"]),
        exporter=data["exporter"],
        notes=tuple(data["notes"]),
    )
