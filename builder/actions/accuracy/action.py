"""(a variant's graph, the fp32 artifact it is of) → how it is judged, and the Action that compares it layer by layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.accuracy.request import GateRequest, GateResult, Metric
from tritonsmith.builder.actions.action import Action, Artifact, Identity, Ran, Workplace, log_path
from tritonsmith.builder.actions.convert.run import run_gate
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def judged(
    spec: ModelSpec,
    name: str,
    repository: RepositorySpec,
    base: Artifact,
    candidate: Path,
    converted: tuple[str, ...],
    place: Workplace,
    layers: bool = False,
) -> GateResult | None:
    """The variant held against the fp32 source on the export's own samples; None when there are none."""
    samples, variant = base.record["samples"], spec.variants[name]
    if samples is None:
        return None
    metric = variant.accuracy.metric
    request = GateRequest(
        model=f"{spec.name}/{name}",
        precision=variant.precision,
        source=str(base.onnx),
        candidate=str(candidate),
        samples=str(base.directory / str(samples)),
        search_path=str(repository.root),
        metric=None if metric is None else Metric(metric.callable, metric.at_least, metric.at_most),
        served_by=variant.backend,
        candidates=converted,
        always_layers=layers,
    )
    with place.workspace() as scratch:
        return run_gate(request, scratch, log_path(place, repository.path, f"{spec.name}/{name}/gate"))


def layers_record(result: GateResult | None) -> dict[str, Any]:
    """What an artifact tells of layers; nothing was compared without a result."""
    return {
        "layers": [] if result is None else [layer.as_dict() for layer in result.layers],
        "suggested_exclude": [] if result is None else list(result.exclude),
    }


def layers_action(
    spec: ModelSpec, name: str, repository: RepositorySpec, base: Artifact, artifact: Artifact
) -> Action:
    """Of a variant that was good enough when it was made, and is refused by the bounds that are stated now."""
    identity = Identity({}, {}, f"layers of {artifact.key}")
    run = partial(_run, spec, name, repository, base, artifact)
    return Action("layers", f"compare layers {spec.name}/{name}", identity, run)


def _run(
    spec: ModelSpec,
    name: str,
    repository: RepositorySpec,
    base: Artifact,
    artifact: Artifact,
    made: Path,
    place: Workplace,
) -> Ran:
    onnx, converted = artifact.onnx, tuple(artifact.record.get("converted", ()))
    assert onnx is not None
    return Ran(layers_record(judged(spec, name, repository, base, onnx, converted, place, layers=True)))
