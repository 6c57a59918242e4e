"""(a variant's graph, the fp32 artifact it is of) → how it is judged, and the Action that compares it layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic.config import with_config
from typing_extensions import TypedDict

from tritonsmith.builder.actions.accuracy.request import GateRequest, GateResult, Metric
from tritonsmith.builder.actions.action import Action, Artifact, Identity, Ran, Subject, Workplace
from tritonsmith.builder.actions.convert.run import run_gate
from tritonsmith.builder.actions.record import MORE
from tritonsmith.builder.base.files.untrusted import Distance


@with_config(MORE)
class _Layer(TypedDict):
    node: str
    op_type: str
    own_loss: Distance
    total_loss: Distance


@with_config(MORE)
class LayersRecord(TypedDict):
    """Of a comparison layer by layer."""

    layers: list[_Layer]
    suggested_exclude: list[str]


def judged(
    variant: Subject, base: Artifact, onnx: Path, converted: Sequence[str], place: Workplace, *, layers: bool
) -> GateResult | None:
    """The variant held against the fp32 source on the export's own samples; None when there are none.

    layers: compares them even when it is good enough.
    """
    samples, metric = base.record["samples"], variant.stated.accuracy.metric
    if samples is None:
        return None
    request = GateRequest(
        model=variant.name,
        precision=variant.stated.precision,
        source=str(base.onnx),
        candidate=str(onnx),
        samples=str(base.directory / str(samples)),
        search_path=str(variant.repository.root),
        metric=None if metric is None else Metric(metric.callable, metric.at_least, metric.at_most),
        served_by=variant.stated.backend,
        candidates=tuple(converted),
        always_layers=layers,
    )
    with place.workspace() as scratch:
        return run_gate(request, scratch, variant.log(place, "/gate"))


def layers_record(result: GateResult | None) -> dict[str, Any]:
    """What an artifact tells of layers; nothing was compared without a result."""
    return {
        "layers": [] if result is None else [layer.as_dict() for layer in result.layers],
        "suggested_exclude": [] if result is None else list(result.exclude),
    }


def layers_action(variant: Subject, base: Artifact, artifact: Artifact) -> Action:
    """Of a variant that was good enough when it was made, and is refused by the bounds that are stated now."""
    identity = Identity({}, {}, f"layers of {artifact.key}")
    return Action(
        "layers", f"compare layers {variant.name}", identity, partial(_run, variant, base, artifact)
    )


def _run(variant: Subject, base: Artifact, artifact: Artifact, made: Path, place: Workplace) -> Ran:
    assert artifact.onnx is not None
    converted = artifact.record.get("converted", ())
    return Ran(layers_record(judged(variant, base, artifact.onnx, converted, place, layers=True)))
