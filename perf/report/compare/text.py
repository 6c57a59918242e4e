"""Comparison + judgements → text for a terminal, Markdown for a pull request, JSON; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tritonsmith.builder.base.errors import GateError
from tritonsmith.builder.base.text.markdown import cell
from tritonsmith.builder.base.text.text_layout import cells, table
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.report import numbers
from tritonsmith.perf.report.compare.compare import FAILURES, METRICS, SHOWN, Change, Comparison, Point
from tritonsmith.perf.report.compare.gate import Gate, Judgement, judge, says_no
from tritonsmith.perf.report.compare.sameness import not_comparable

_MARK = {"regression": "✗", "improvement": "✓", "no difference": "=", "unknown": "?", "not comparable": "≠"}
MEASURE_AGAIN = "measure one of the two again as the other was measured"
_GATE_WORDS = {"passed": "passed", "violated": "VIOLATED", "open": "cannot be told"}


def headline(comparison: Comparison) -> str:
    """The findings in one sentence, or what A and B do not have in common."""
    if comparison.differences:
        return not_comparable(comparison.differences)
    words = []
    for finding in ("regression", "improvement"):
        found = [(p, c) for p, c in comparison.findings if c.finding == finding]
        if found:
            worst_point, worst = max(found, key=lambda pair: abs(pair[1].change or 0.0))
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            words.append(
                f"{finding.capitalize()}: {worst.metric} {change_text(worst)} at {worst_point.label}{more}."
            )
    unknown = [
        c for p in comparison.points for c in p.changes if c.metric in SHOWN and c.finding == "unknown"
    ]
    if unknown and not words:
        return f"Unknown: {unknown[0].metric}: {unknown[0].why or 'no interval'}."
    return " ".join(words) or "No difference that these runs can tell."


def comparison_json(
    comparison: Comparison, judgements: Sequence[Judgement], strict: bool, gate_says_no: bool
) -> dict[str, Any]:
    """JSON form."""
    return {
        "format": "tritonsmith.compare/1",
        "model": comparison.model,
        "kind": comparison.kind,
        "sentence": headline(comparison),
        "points": [
            {"arm": p.arm, "load": p.load, "changes": [json_of(c) for c in p.changes]}
            for p in comparison.points
        ],
        "gates": [
            {"gate": j.gate.text, "point": j.point, "status": j.status, "change": json_of(j.change)}
            for j in judgements
        ],
        "strict": strict,
        "comparable": not comparison.differences,
        "differences": [json_of(difference) for difference in comparison.differences],
        "gate": _gate_of(comparison, judgements, gate_says_no),
        "notes": list(comparison.notes),
    }


def _gate_of(comparison: Comparison, judgements: Sequence[Judgement], says_no: bool) -> str | None:
    if not judgements:
        return None
    return "cannot be told" if comparison.differences else "violated" if says_no else "passed"


def gated(comparison: Comparison, gates: Sequence[Gate], strict: bool = False) -> Comparison:
    """The comparison, its notes led by what the gates could not decide.

    GateError `gate_violated` when they say no, `not_comparable` when A and B did not measure the same.
    """
    judgements = judge(comparison, gates)
    lines = [_gate_line(j) for j in judgements if j.status != "passed"]
    if judgements and comparison.differences:
        raise GateError(headline(comparison), code="not_comparable", details=lines, fix=MEASURE_AGAIN)
    if says_no(judgements, strict):
        raise GateError(
            "the change from A to B is more than a gate allows"
            if any(j.status == "violated" for j in judgements)
            else "the intervals are too wide to decide a gate",
            code="gate_violated",
            details=lines,
        )
    return replace(comparison, notes=(*lines, *comparison.notes))


def text_of(
    comparison: Comparison,
    judgements: Sequence[Judgement],
    metrics: Sequence[str] = SHOWN,
    width: int | None = None,
) -> str:
    """The findings, then a row a load point and metric, gates and notes. width: of the terminal, if there is one."""
    lines = [
        headline(comparison),
        *(["", *_table_lines(comparison, metrics, width)] if comparison.points else []),
    ]
    if judgements:
        lines += ["", *(_gate_line(j) for j in judgements)]
    return "\n".join([*lines, "", *(f"note: {note}" for note in comparison.notes)]).rstrip()


def _table_lines(comparison: Comparison, metrics: Sequence[str], width: int | None) -> list[str]:
    """A load point's label stands before its first row; where that is too wide, above its rows."""
    header = ("", "", "A", "B", "change", "")
    rows: list[tuple[str, ...]] = [header]
    for point in comparison.points:
        label = point.label
        for change in _kept(point, metrics):
            rows.append((label, change.metric, *_values(change), change_text(change), _finding(change)))
            label = ""
    lines = table(rows, right=(2, 3))
    if width is None or max(map(cells, lines)) <= width:
        return lines
    narrow = table([("", *row[1:]) for row in rows], right=(2, 3))
    return [
        line
        for row, below in zip(rows, narrow, strict=True)
        for line in ([row[0], below] if row[0] else [below])
    ]


def markdown_of(comparison: Comparison, judgements: Sequence[Judgement]) -> str:
    """For a pull request's comment: the sentence, the gates, a small table, the rest folded away."""
    lines = [f"**{cell(headline(comparison))}** ({cell(comparison.model)}, A → B)", ""]
    if judgements:
        signs = {"passed": "✅", "violated": "❌", "open": "⚠️"}
        lines += [f"- {signs[j.status]} {cell(_gate_line(j))}" for j in judgements] + [""]
    lines += _markdown_table(comparison, SHOWN)
    lines += ["", "<details><summary>All metrics and notes</summary>", ""]
    lines += _markdown_table(comparison, (*METRICS, FAILURES))
    lines += ["", *(f"- {cell(note)}" for note in comparison.notes), "", "</details>"]
    return "\n".join(lines)


def _markdown_table(comparison: Comparison, metrics: Sequence[str]) -> list[str]:
    lines = ["| load | metric | A | B | change | |", "|---|---|--:|--:|---|---|"]
    for point in comparison.points:
        for change in _kept(point, metrics):
            a, b = _values(change)
            finding = _finding(change)
            strong = (
                f"**{cell(finding)}**" if change.finding in ("regression", "improvement") else cell(finding)
            )
            lines.append(
                f"| {cell(point.label)} | {change.metric} | {a} | {b} | {change_text(change)} | {strong} |"
            )
    return lines


def _kept(point: Point, metrics: Sequence[str]) -> list[Change]:
    """The metrics asked for; failures also whenever there were any."""
    return [c for c in point.changes if c.metric in metrics or (c.metric == FAILURES and (c.a or c.b))]


def change_text(change: Change) -> str:
    """`+4.1 % (+2.0 to +6.3)`; failures in percentage points."""
    if change.change is None:
        return "–"
    unit = "points" if change.metric == FAILURES else "%"
    text = f"{change.change * 100:+.1f} {unit}"
    if change.interval is not None:
        text += f" ({change.interval.low * 100:+.1f} to {change.interval.high * 100:+.1f})"
    return text


def _finding(change: Change) -> str:
    mark = _MARK[change.finding]
    return (
        f"{mark} {change.finding}"
        if change.finding != "unknown"
        else f"{mark} unknown: {change.why or 'no interval'}"
    )


def _values(change: Change) -> tuple[str, str]:
    def one(value: float | None) -> str:
        if value is None:
            return "–"
        if change.metric == FAILURES:
            return numbers.percent(value)
        return (
            f"{numbers.rate(value)}/s"
            if change.metric == "throughput"
            else f"{numbers.milliseconds(value)} ms"
        )

    return one(change.a), one(change.b)


def _gate_line(judgement: Judgement) -> str:
    change = judgement.change
    text = f"gate {judgement.gate.text} at {judgement.point}: {_GATE_WORDS[judgement.status]}, {change_text(change)}"
    return f"{text}; {change.why}" if judgement.status == "open" and change.why else text
