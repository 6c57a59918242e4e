"""(a variant, its model's artifact) → the Action that converts it to its precision and judges what came of it."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pydantic.config import with_config
from typing_extensions import NotRequired, TypedDict

from tritonsmith.builder.actions.accuracy.action import LayersRecord, judged, layers_record
from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
from tritonsmith.builder.actions.action import (
    Action,
    Artifact,
    Identity,
    Kind,
    Ran,
    Subject,
    Workplace,
    request_digest,
)
from tritonsmith.builder.actions.convert.coverage import CoverageRecord
from tritonsmith.builder.actions.convert.request import ConvertRequest
from tritonsmith.builder.actions.convert.run import run_convert
from tritonsmith.builder.actions.export.action import ExportRecord, graph_level
from tritonsmith.builder.actions.language.action import weights_identity
from tritonsmith.builder.actions.record import MORE
from tritonsmith.builder.base.files.untrusted import STRICT, Distance
from tritonsmith.builder.base.machine.toolchain import Toolchain, this_toolchain
from tritonsmith.builder.spec.spec import ModelSpec

# Raised when the same inputs would give another graph.
CONVERT_REVISION = 4

_NOT_JUDGED = "not judged: there are no samples; state accuracy.samples"
_NO_SAMPLES = {"passed": True, "samples": 0, "note": "no samples", "deviations": []}


@with_config(STRICT)
class _Metric(TypedDict):
    runtime: str
    value: Distance | None
    passed: bool


@with_config(MORE)
class ConvertRecord(ExportRecord, LayersRecord):
    """Of a variant's graph."""

    metric: list[_Metric]
    findings: list[str]
    converted: list[str]
    notes: list[str]  # type: ignore[misc]
    coverage: NotRequired[CoverageRecord | None]
    lacks: NotRequired[str]


def kind_of_variant(spec: ModelSpec, name: str) -> Kind:
    """Of the artifact that is made of the model for a variant."""
    if spec.variants[name].is_source:
        return "source"
    return "weights" if spec.source.kind == "llm" else "convert"


def conversion_identity(
    spec: ModelSpec, name: str, base_key: str | None, toolchain: Toolchain | None = None
) -> Identity:
    """base_key: of the export that it is made from, None while that is not there. toolchain: None for this one.

    The calibration data's content is in the key.
    """
    variant = spec.variants[name]
    if kind_of_variant(spec, name) == "weights":
        return weights_identity(spec, name, base_key)
    parameters: dict[str, Any] = {
        "revision": CONVERT_REVISION,
        "backend": variant.backend,
        "precision": variant.precision,
        "exclude": list(variant.exclude),
        "keep_io": variant.keep_io,
        "options": variant.conversion_options,
        "calibration": spec.calibration if variant.row.calibration else None,
    }
    if variant.accuracy.metric is not None:
        parameters["metric"] = variant.accuracy.metric.model_dump()
    names = () if variant.row.exact else ("onnx", "onnxruntime", *variant.row.distributions)
    tools = (toolchain or this_toolchain()).fingerprint(*names)
    request = None if base_key is None else request_digest("convert", parameters, tools, base=base_key)
    return Identity(parameters, tools, request, reads=True)


def convert_action(variant: Subject, base: Artifact) -> Action:
    """The ONNX at the variant's precision, with its judgement."""
    identity = conversion_identity(variant.spec, variant.variant, base.key)
    return Action("convert", f"convert {variant.name}", identity, partial(_run, variant, base, identity))


def _run(variant: Subject, base: Artifact, identity: Identity, made: Path, place: Workplace) -> Ran:
    stated, samples, data = variant.stated, base.record["samples"], variant.spec.calibration
    request = ConvertRequest(
        model=variant.name,
        source_onnx=str(base.onnx),
        precision=stated.precision,
        exclude=stated.exclude,
        keep_io=stated.keep_io,
        calibration=None if data is None else CalibrationSpec(data, str(variant.repository.root)),
        held_out=None if samples is None else str(base.directory / str(samples)),
        options=stated.conversion_options,
        graph_level=graph_level(variant.spec) if stated.backend == "onnxruntime" else None,
    )
    result = run_convert(request, made, variant.log(place))
    gate = judged(variant, base, made / result.onnx_file, result.converted, place, layers=False)
    record = {
        "inputs": [t.as_dict() for t in result.inputs],
        "outputs": [t.as_dict() for t in result.outputs],
        "opset": result.opset,
        "ir_version": result.ir_version,
        "accuracy": _NO_SAMPLES if gate is None else gate.accuracy.as_dict(),
        "metric": [] if gate is None else [asdict(value) for value in gate.metric],
        "findings": [_NOT_JUDGED] if gate is None else list(gate.findings),
        **layers_record(gate),
        "converted": list(result.converted),
        "served_files": list(result.files),
        "kept_fp32": [asdict(node) for node in result.kept_fp32],
        "notes": list(result.notes),
        "lacks": result.lacks,
        "coverage": None if result.coverage is None else result.coverage.as_dict(),
        "calibration": {"digest": result.calibration_digest, "rows": result.calibration_rows},
        "seconds": round(result.seconds, 3),
        "tools": identity.tools,
        "samples": None,
    }
    return Ran(record, [Path(f) for f in result.dependencies])
