"""What is to be published → nothing, or the GateError that stops it before anything is written: stale, accuracy, lint."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tritonsmith.builder.actions.accuracy.accuracy import Bounds, Deviation
from tritonsmith.builder.actions.accuracy.judgement import judgement_of, judgement_of_weights, refusal
from tritonsmith.builder.actions.convert.action import kind_of_variant
from tritonsmith.builder.base.errors import GateError
from tritonsmith.builder.base.files.untrusted import fault_of_model_name
from tritonsmith.builder.build.context import Context
from tritonsmith.builder.build.model.gate_of_export import judge_export
from tritonsmith.builder.lint.check import LintOptions, check
from tritonsmith.builder.lint.target import Target
from tritonsmith.builder.plan.plan import State
from tritonsmith.builder.plan.words import why
from tritonsmith.builder.publish.candidate import Candidate
from tritonsmith.builder.publish.destinations.versions import manifest
from tritonsmith.builder.repository.lock import Accuracy, LockedModel
from tritonsmith.builder.spec.model_directory import CONFIG
from tritonsmith.builder.spec.spec import ModelSpec

_NAMED = 10


def stale_gate(context: Context, models: Collection[str]) -> None:
    """GateError `stale` when the repository is not what the spec says now."""
    reasons: dict[str, str] = {}
    for action in context.plan().stale:
        if action.model in models and action.state is not State.UP_TO_DATE:
            reasons.setdefault(action.model, why(action) or action.state.value)
    if reasons:
        told = [f"{model}: {reason}" for model, reason in reasons.items()]
        raise GateError(
            f"{len(reasons)} of {len(models)} models are not built as the spec says",
            code="stale",
            seen="; ".join(told[:_NAMED]) + (" …" if len(told) > _NAMED else ""),
            fix="tritonsmith build",
        )


def accuracy_gate(context: Context, model: ModelSpec, locked: LockedModel) -> None:
    """GateError `accuracy` when what is served is outside the bounds that the spec states now.

    Judged by the build's whole report where the cache still has it, else by the lock's worst deviation.
    """
    base = context.cache.get(locked.key, "source")
    if base is not None:
        judge_export(model, base.record["accuracy"], context.spec)
    else:
        _judge_summary(model.name, locked.accuracy, Bounds(**model.accuracy.stated_bounds()))
    if locked.served is None or locked.served not in model.variants or locked.served not in locked.variants:
        return
    variant, entry = model.variants[locked.served], locked.variants[locked.served]
    artifact = context.cache.get(entry["key"], kind_of_variant(model, locked.served))
    subject = f"{model.name}/{locked.served}"
    if kind_of_variant(model, locked.served) == "weights":
        judged = judgement_of_weights(variant, entry["accuracy"])
    elif artifact is None:
        _judge_summary(subject, entry["accuracy"], Bounds(**variant.accuracy.stated_bounds()))
        return
    else:
        judged = judgement_of(variant, artifact.record)
    if not judged.passed:
        raise refusal(subject, judged, context.spec.where(model.name, "variants", locked.served))


def _judge_summary(subject: str, accuracy: Accuracy, bounds: Bounds) -> None:
    if "relative_l2" not in accuracy:
        return
    worst = Deviation(
        "its worst output",
        relative_l2=accuracy["relative_l2"],
        cosine=accuracy.get("cosine", 1.0),
        max_abs=accuracy.get("max_abs", 0.0),
        bounds=Bounds(bounds.relative_l2, bounds.cosine, bounds.max_abs if "max_abs" in accuracy else None),
    )
    if not worst.passed:
        raise GateError(
            f"{subject}: not accurate enough; {', '.join(worst.violations)}",
            code="accuracy",
            fix="tritonsmith build",
        )


def lint_gate(
    candidate: Candidate,
    number: int,
    configs: Mapping[str, str],
    served: Mapping[str, Sequence[int]],
    target: Target | None,
) -> None:
    """GateError `lint` when Triton would refuse the model as it would stand at the destination.

    configs, served: of the other models as they will stand there, those that an ensemble passes through.
    """
    with tempfile.TemporaryDirectory(prefix="tritonsmith-publish-") as scratch:
        root = Path(scratch)
        _lay_out(root / candidate.model, manifest(candidate.text, [number], "the spec"), [number])
        for name, file in candidate.files.items():
            _place(root / candidate.model / str(number) / name, file)
        for name, file in candidate.root.items():
            _place(root / candidate.model / name, file)
        _refuse_errors(root, candidate.model, configs, served, target, "Triton would not load this model")


def standing_gate(
    ensemble: str,
    configs: Mapping[str, str],
    served: Mapping[str, Sequence[int]],
    target: Target | None,
) -> None:
    """GateError `lint` when an ensemble that stays as it is at the destination would not load with its new steps."""
    with tempfile.TemporaryDirectory(prefix="tritonsmith-publish-") as scratch:
        root = Path(scratch)
        _lay_out(root / ensemble, configs[ensemble], served[ensemble])
        _refuse_errors(
            root, ensemble, configs, served, target, "it is served, and would not load with what is published"
        )


def _refuse_errors(
    root: Path,
    judged: str,
    configs: Mapping[str, str],
    served: Mapping[str, Sequence[int]],
    target: Target | None,
    what: str,
) -> None:
    for name, text in configs.items():
        if name != judged and fault_of_model_name(name) is None:
            _lay_out(root / name, text, served.get(name, ()))
    errors = [f for f in check([root / judged], LintOptions(target=target)) if f.severity == "error"]
    if errors:
        raise GateError(
            f"{judged}: {what}: " + "; ".join(f"{f.rule} {f.message}" for f in errors[:5]),
            code="lint",
            fix=f"tritonsmith check --explain {errors[0].rule}",
        )


def _lay_out(directory: Path, config: str, versions: Sequence[int]) -> None:
    directory.mkdir()
    (directory / CONFIG).write_text(config, encoding="utf-8")
    for number in versions:
        (directory / str(number)).mkdir()


def _place(link: Path, file: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(file.absolute())
