"""(a variant's bounds, its artifact's record) → what the accuracy gate says of it, and the error that says it to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import computed_field

from tritonsmith.builder.actions.accuracy.accuracy import AccuracyReport, Bounds, Deviation
from tritonsmith.builder.actions.language.measures import failures as language_failures
from tritonsmith.builder.base.errors import GateError, Where
from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.spec.variant_spec import Variant

SHOWN = 5
"""Rows of a terminal's table, and names in a proposal; `--format json` has all that were recorded."""


@dataclass(frozen=True, slots=True)
class Judgement(JsonForm):
    """The gate's verdict on one variant by the bounds as they are stated now.

    failures: one line for each output, runtime and the user's metric out of bounds; none means it passed.
    findings: what a reader has to know beside the numbers, as in builder.actions.accuracy.gate.GateResult.
    layers:   {node, op_type, own_loss, total_loss} of the nodes that lose most, largest own loss first.
    exclude:  what to add to the variant's `exclude` to try next.
    """

    failures: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    layers: tuple[Mapping[str, Any], ...] = ()
    exclude: tuple[str, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """True when nothing is out of bounds."""
        return not self.failures


def judgement_of(variant: Variant, record: Mapping[str, Any]) -> Judgement:
    """Judges the record's numbers by the variant's stated bounds, or by those of its precision."""
    bounds = Bounds(**variant.accuracy.stated_bounds())
    report = AccuracyReport.from_dict(record["accuracy"])
    failed = (report.judged_by(bounds) if bounds.stated else report).failures
    metrics = [
        f"metric {'not computed' if m['value'] is None else format(m['value'], '.6g')} ({m['runtime']})"
        for m in record.get("metric", ())
        if not m["passed"]
    ]
    return Judgement(
        failures=(*_failures(failed), *metrics),
        findings=tuple(record.get("findings", ())),
        layers=tuple(record.get("layers", ())),
        exclude=tuple(record.get("suggested_exclude", ())),
    )


def judgement_of_weights(
    variant: Variant, accuracy: Mapping[str, Any], findings: Sequence[str] = ()
) -> Judgement:
    """Judges what the lock keeps of a language model's variant. What could not be judged is within no bound that is stated."""
    if "token_agreement" in accuracy:
        return Judgement(language_failures(accuracy, variant.language_bounds), tuple(findings))
    note = str(accuracy.get("note", "not judged"))
    return Judgement((note,) if variant.accuracy.language_bounds else (), tuple(findings))


def _failures(failed: Sequence[Deviation]) -> list[str]:
    """One line an output and runtime: the comparison that is out of most of its bounds stands for the others."""
    worst: dict[tuple[str, str], Deviation] = {}
    for deviation in failed:
        place = (deviation.output, deviation.runtime)
        known = worst.get(place)
        if known is None or len(deviation.violations) > len(known.violations):
            worst[place] = deviation
    return [f"{d.output} ({d.runtime}, {d.sample}): {', '.join(d.violations)}" for d in worst.values()]


def refusal(subject: str, judgement: Judgement, where: Where) -> GateError:
    """The judgement as the error that people read; its first failure is the message."""
    first, *further = judgement.failures
    details = [f"also {line}" for line in further[:SHOWN]]
    if judgement.layers:
        details += [
            "layers that lose most (relative L2):",
            *(f"  {line}" for line in layer_table(judgement.layers[:SHOWN])),
        ]
    details += [f"finding: {line}" for line in judgement.findings]
    proposed = judgement.exclude
    more = f" ({len(proposed) - SHOWN} more are proposed: --format json)" if len(proposed) > SHOWN else ""
    return GateError(
        f"{subject}: not accurate enough: {first}",
        code="accuracy",
        where=where,
        details=details,
        fix=f"exclude: [{', '.join(proposed[:SHOWN])}] in the variant keeps what loses most in fp32{more}"
        if proposed
        else "relax its accuracy:, or serve another variant",
    )


def layer_table(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Aligned rows: node, operator, its own loss and that of the whole variant up to it (relative L2)."""
    rows = [("node", "operator", "by itself", "in sum")]
    rows += [
        (str(r["node"]), str(r["op_type"]), f"{r['own_loss']:.2g}", f"{r['total_loss']:.2g}") for r in layers
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{node:<{widths[0]}}  {op:<{widths[1]}}  {own:>{widths[2]}}  {total:>{widths[3]}}"
        for node, op, own, total in rows
    ]
