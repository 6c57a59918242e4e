"""(variant, fp32 source, held-out samples) → a verdict with findings, and the layers that lose most when it is no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tritonsmith.builder.actions.accuracy.accuracy import (
    Deviation,
    compare,
    report_from_deviations,
    variant_bounds,
)
from tritonsmith.builder.actions.accuracy.layers import LayerLoss, layer_losses, suggested_exclude
from tritonsmith.builder.actions.accuracy.request import GateRequest, GateResult, MetricValue
from tritonsmith.builder.actions.accuracy.samples import (
    MADE_UP_SAMPLES,
    Sample,
    SampleSet,
    load_samples,
    values_like,
)
from tritonsmith.builder.actions.export.onnx_graph import onnxruntime_runner, read_graph
from tritonsmith.builder.actions.export.sources.callables import import_reference, run_users_code
from tritonsmith.builder.base.errors import BuildError, ExportError, Where
from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.builder.base.rows import function_of

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array
    from tritonsmith.builder.actions.export.exported import Runner

OPTIMISED, AS_WRITTEN = "onnxruntime", "onnxruntime, optimisations off"

Answers = Mapping[str, "Array"] | None
"""A runtime's outputs for one sample; None where it failed, so that answers stay beside their sample."""

LAYERS_KEPT = 20
"""Rows of the per-layer comparison that are recorded."""


def judge_variant(request: GateRequest, scratch: Path) -> GateResult:
    """Runs the samples and judges; run in a child process by run_gate. scratch takes an emulation's graph.

    BuildError samples_missing and load_samples', candidate_unrunnable, metric_value; ExportError for the user's
    metric. A candidate that fails a sample fails the gate with the reason; that raises nothing.
    """
    samples = _answered(request)
    runs, findings, layers_of = _runs(request, scratch)
    outputs: dict[str, list[Answers]] = {}
    deviations: dict[str, list[Deviation]] = {}
    for runtime, run in runs:
        answers, found = _run(run, runtime, samples, request)
        outputs[runtime], deviations[runtime] = answers, found
    findings += _differences(outputs, request)
    counted = [name for name, _ in runs if name != OPTIMISED or request.served_by == "onnxruntime"]
    told = [] if OPTIMISED in counted else [d for d in deviations.get(OPTIMISED, []) if not d.passed]
    findings += [
        f"{OPTIMISED}: {d.output}, sample {d.sample}: {', '.join(d.violations)} (TensorRT reads the graph as written)"
        for d in sorted(told, key=lambda d: d.failure is None)[:3]
    ]
    report = report_from_deviations([d for name in counted for d in deviations[name]], len(samples))
    metric = _metric(request, samples, {name: outputs[name] for name in counted})
    failed = not report.passed or not all(value.passed for value in metric)
    layers: tuple[LayerLoss, ...] = ()
    if failed or request.always_layers:
        answered = (s for i, s in enumerate(samples) if all(a[i] is not None for a in outputs.values()))
        try:
            layers = layer_losses(Path(request.source), layers_of, next(answered, samples[0]).inputs)
        except Exception as error:  # the verdict stands without it
            findings.append(f"which layers lose most cannot be told: {_one_line(error)}")
    exclude = suggested_exclude(layers, request.candidates)
    return GateResult(report, metric, tuple(findings), layers[:LAYERS_KEPT], exclude)


def _answered(request: GateRequest) -> list[Sample]:
    loaded = load_samples(Path(request.samples))
    samples = (*loaded.samples, *_more(loaded))
    if not samples:
        raise BuildError(
            f"{request.model}: there are no samples to judge {request.precision} on",
            code="samples_missing",
            where=Where(Path(request.samples)),
            fix="accuracy: {samples: …} in the spec",
        )
    if all(sample.outputs for sample in samples):
        return list(samples)
    reference = onnxruntime_runner(Path(request.source), optimised=False)
    return [
        sample if sample.outputs else Sample(sample.inputs, reference(sample.inputs), sample.label or str(i))
        for i, sample in enumerate(samples)
    ]


def _more(loaded: SampleSet) -> list[Sample]:
    """Further made-up inputs where an export was content with one: a precision loses more on one request than on another."""
    import numpy as np

    if not loaded.is_made_up or not loaded.samples:
        return []
    rng = np.random.default_rng(len(loaded.samples))
    like = loaded.samples[0].inputs
    return [
        Sample({name: values_like(a, a.shape, rng) for name, a in like.items()}, {}, f"drawn {number}")
        for number in range(len(loaded.samples), MADE_UP_SAMPLES)
    ]


def _runs(request: GateRequest, scratch: Path) -> tuple[list[tuple[str, Runner]], list[str], Path]:
    """Runtimes that can run the candidate, findings about those that cannot, and a file whose layers can be looked at."""
    path = Path(request.candidate)
    runs: list[tuple[str, Runner]] = []
    findings: list[str] = []
    layers_of = path
    row = precision_rows()[request.precision]
    if row.emulate is not None:
        layers_of = _emulation(path, row.emulate, scratch)
        runs.append((row.emulated, onnxruntime_runner(layers_of, optimised=False)))
        findings.append(row.why_emulated)
    try:
        runs.append((AS_WRITTEN, onnxruntime_runner(path, optimised=False)))
    except ExportError as error:
        if runs:
            return runs, findings, layers_of
        raise BuildError(
            f"{request.model}: nothing here can run the {request.precision} variant to judge it: {error.message}",
            code="candidate_unrunnable",
            where=error.where,
        ) from error
    try:
        runs.append((OPTIMISED, onnxruntime_runner(path, optimised=True)))
    except ExportError as error:
        reason = f"ONNX Runtime loads it only with optimisations off: {error.message}"
        if request.served_by == "onnxruntime":
            runs.append((OPTIMISED, _refuses(reason)))
        findings.append(reason)
    return runs, findings, layers_of


def _refuses(reason: str) -> Runner:
    def run(inputs: object) -> dict[str, Array]:
        raise RuntimeError(reason)

    return run


def _emulation(path: Path, emulate: str, scratch: Path) -> Path:
    import onnx

    target = scratch / "emulated.onnx"
    model = function_of(emulate)(onnx.load(str(path)))
    onnx.save(model, str(target), save_as_external_data=model.ByteSize() > 2**30, location="emulated.data")
    return target


def _run(
    run: Runner, runtime: str, samples: Sequence[Sample], request: GateRequest
) -> tuple[list[Answers], list[Deviation]]:
    answers: list[Answers] = []
    found: list[Deviation] = []
    halves = {t.name for t in read_graph(Path(request.candidate)).inputs if t.dtype.numpy == "float16"}
    for sample in samples:
        try:
            given = run(_as_taken(sample.inputs, halves))
        except Exception as error:
            reason = _one_line(error)
            failed = {n: Deviation(n, float("inf"), -1.0, float("inf"), reason) for n in sample.outputs}
            found += [_labelled(d, runtime, sample, request) for d in failed.values()]
            answers.append(None)
            continue
        # fp16 outputs of a variant without fp32 I/O are judged by their values.
        answer = {
            name: array.astype(sample.outputs[name].dtype)
            if name in sample.outputs and array.dtype.kind == "f" == sample.outputs[name].dtype.kind
            else array
            for name, array in given.items()
        }
        answers.append(answer)
        for name, expected in sample.outputs.items():
            bounds = (
                request.bounds
                if request.bounds.stated
                else variant_bounds(request.precision, expected.dtype.name)
            )
            found += compare(answer, {name: expected}, bounds=bounds, runtime=runtime, sample=sample.label)
    return answers, found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _labelled(deviation: Deviation, runtime: str, sample: Sample, request: GateRequest) -> Deviation:
    return replace(deviation, runtime=runtime, sample=sample.label, bounds=request.bounds)


def _as_taken(inputs: Mapping[str, Array], halves: Set[str]) -> Mapping[str, Array]:
    """fp32 samples as the candidate's inputs take them (fp16 without keep_io)."""
    import numpy as np

    return {name: a.astype(np.float16) if name in halves else a for name, a in inputs.items()}


def _differences(outputs: Mapping[str, Sequence[Answers]], request: GateRequest) -> list[str]:
    """A sentence when the optimised graph answers otherwise than the graph as written, on samples that both answered."""
    if OPTIMISED not in outputs or AS_WRITTEN not in outputs:
        return []
    worst: Deviation | None = None
    for one, other in zip(outputs[OPTIMISED], outputs[AS_WRITTEN], strict=True):
        for deviation in () if one is None or other is None else compare(one, other):
            if worst is None or deviation.relative_l2 > worst.relative_l2:
                worst = deviation
    allowed = request.bounds.relative_l2 or variant_bounds(request.precision, "float32").relative_l2 or 0.0
    if worst is None or worst.relative_l2 <= allowed / 2:
        return []
    return [
        f"ONNX Runtime's optimisations change the answer: {worst.output} differs by relative L2 "
        f"{worst.relative_l2:.3g} from the graph as written"
    ]


def _metric(
    request: GateRequest,
    samples: Sequence[Sample],
    outputs: Mapping[str, Sequence[Answers]],
) -> tuple[MetricValue, ...]:
    metric = request.metric
    if metric is None:
        return ()
    function, _ = import_reference(
        metric.reference, "metric", "a function (reference outputs, candidate outputs) → number"
    )
    reference = [dict(sample.outputs) for sample in samples]
    found = []
    for runtime, answers in outputs.items():
        whole = [dict(answer) for answer in answers if answer is not None]
        if len(whole) != len(samples):
            found.append(MetricValue(runtime, None, False))
            continue
        value = run_users_code(
            lambda given=whole: function(reference, given),  # type: ignore[misc]
            lambda error: ExportError(f"metric {metric.reference} raised {error}", code="callable_failed"),
        )
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise BuildError(
                f"metric {metric.reference} gave something else than a number",
                code="metric_value",
                seen=type(value).__name__,
                valid=["a float"],
            ) from None
        enough = (metric.at_least is None or number >= metric.at_least) and (
            metric.at_most is None or number <= metric.at_most
        )
        found.append(MetricValue(runtime, number, enough))
    return tuple(found)
