"""(an export's accuracy record, the spec's bounds) → nothing, or the GateError that refuses it; and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonsmith.builder.actions.accuracy.accuracy import Bounds, report_from_dict
from tritonsmith.builder.base.errors import GateError
from tritonsmith.builder.repository.lock import Accuracy, finite
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def judge_export(spec: ModelSpec, accuracy: Mapping[str, Any], repository: RepositorySpec) -> None:
    """GateError when the export is further from its source than the spec allows."""
    bounds = Bounds(**spec.accuracy.stated_bounds())
    report = report_from_dict(accuracy)
    failures = (report.judged_by(bounds) if bounds.stated else report).failures
    if failures:
        told = [
            f"{d.output} ({d.runtime}, sample {d.sample}): {', '.join(d.violations)}" for d in failures[:3]
        ]
        raise GateError(
            f"{spec.name}: the export does not answer like its source; " + "; ".join(told),
            code="accuracy",
            where=repository.where(spec.name, "accuracy"),
            fix="accuracy: {relative_l2: …} in the spec, if this is good enough for your use",
        )


def accuracy_summary(accuracy: Mapping[str, Any]) -> Accuracy:
    """What the lock keeps: the worst deviation by each measure."""
    report = report_from_dict(accuracy)
    worst = report.worst
    if worst is None:
        return {"samples": 0, "note": report.note}
    return {
        "samples": report.samples,
        "relative_l2": finite(worst.relative_l2),
        "cosine": finite(worst.cosine),
        "max_abs": finite(worst.max_abs),
    }
