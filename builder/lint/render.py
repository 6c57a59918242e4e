"""Findings → text for people, JSON, SARIF 2.1.0, JUnit XML or GitHub annotations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.quantities import counted
from tritonsmith.builder.base.text.shown import one_line, visible
from tritonsmith.builder.lint.check import Finding, summary
from tritonsmith.builder.lint.rule import STAGE_TEXT, Rule
from tritonsmith.builder.lint.table import RULES

_BOLD, _DIM, _RED, _YELLOW, _RESET = "\033[1m", "\033[2m", "\033[31m", "\033[33m", "\033[0m"


def text(findings: Sequence[Finding], models: int, colour: bool = False) -> str:
    """Grouped by file, one block a finding, and a summary line."""

    def paint(code: str, words: str) -> str:
        return f"{code}{words}{_RESET}" if colour else words

    lines: list[str] = []
    place: Path | None = None
    for finding in findings:
        if finding.path != place:
            place = finding.path
            lines.append(paint(_BOLD, one_line(str(place))))
        tone = _RED if finding.severity == "error" else _YELLOW
        line = f"{finding.line}" if finding.line else "-"
        lines.append(
            f"  {line:>4}  {paint(tone, f'{finding.severity:<7}')} {finding.rule}  {one_line(finding.message)}"
        )
        lines.append(paint(_DIM, f"        then: {one_line(finding.consequence)}"))
        lines.append(paint(_DIM, f"        fix:  {one_line(finding.fix)}"))
    if lines:
        lines.append("")
    lines.append(summary(findings, models))
    return "\n".join(lines)


def as_dict(findings: Sequence[Finding], models: int) -> dict[str, Any]:
    """The findings as one JSON object."""
    counts = Counter(finding.severity for finding in findings)
    return {
        "models": models,
        "errors": counts["error"],
        "warnings": counts["warning"],
        "findings": [{**asdict(f), "path": str(f.path)} for f in findings],
    }


def sarif(findings: Sequence[Finding], models: int) -> str:
    """SARIF 2.1.0 (https://docs.oasis-open.org/sarif/sarif/v2.1.0/): one run, with the rules that spoke."""
    used = [RULES[name] for name in dict.fromkeys(f.rule for f in findings)]
    index = {rule.id: number for number, rule in enumerate(used)}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "tritonsmith",
                        "rules": [
                            {
                                "id": rule.id,
                                "shortDescription": {"text": rule.title},
                                "fullDescription": {"text": f"{rule.title}: {rule.then}."},
                                "help": {"text": f"{rule.fix}. Source: {rule.source}"},
                                "defaultConfiguration": {"level": rule.severity},
                            }
                            for rule in used
                        ],
                    }
                },
                "results": [_sarif_result(f, index[f.rule]) for f in findings],
            }
        ],
    }
    return json.dumps(log, indent=2)


def _sarif_result(finding: Finding, rule_index: int) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": finding.path.as_posix()}}
    if finding.line:
        place["region"] = {"startLine": finding.line}
    return {
        "ruleId": finding.rule,
        "ruleIndex": rule_index,
        "level": finding.severity,
        "message": {
            "text": _sarif_text(f"{finding.message}. Then {finding.consequence}. Fix: {finding.fix}.")
        },
        "locations": [{"physicalLocation": place}],
    }


def _sarif_text(words: str) -> str:
    """Without links, which a plain text may have too (SARIF 2.1.0, 3.11.6), and control characters."""
    return visible(words).replace("](", "] (")


def junit(findings: Sequence[Finding], models: int) -> str:
    """JUnit XML: a failed test case for each error, a passed one with output for each warning."""
    errors = sum(f.severity == "error" for f in findings)
    cases = []
    for finding in findings:
        name = quoteattr(f"{finding.rule} {finding.where}")
        words = escape(_xml_text(f"{finding.message}\nthen: {finding.consequence}\nfix: {finding.fix}"))
        tag = "failure" if finding.severity == "error" else "system-out"
        label = f" message={quoteattr(_xml_text(finding.message))}" if tag == "failure" else ""
        cases.append(
            f"    <testcase classname={quoteattr(_xml_text(finding.model))} name={_xml_text(name)}>"
            f"<{tag}{label}>{words}</{tag}></testcase>"
        )
    if not cases:
        cases.append(f'    <testcase classname="tritonsmith" name="{counted(models, "model")} checked"/>')
    body = "\n".join(cases)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuites>\n  <testsuite name="tritonsmith check" tests="{len(cases)}" failures="{errors}">\n'
        f"{body}\n  </testsuite>\n</testsuites>"
    )


def _xml_text(words: str) -> str:
    """XML 1.0 has no place for most control characters, not even escaped."""
    return visible("".join(c if c in "\t\n" or c >= " " else "�" for c in words))


def github(findings: Sequence[Finding], models: int) -> str:
    """GitHub workflow commands, one a line, and the summary."""
    lines = []
    for finding in findings:
        place = f"file={_property(str(finding.path))}"
        if finding.line:
            place += f",line={finding.line}"
        words = _data(f"{finding.message}\nthen: {finding.consequence}\nfix: {finding.fix}")
        lines.append(f"::{finding.severity} {place},title={_property(finding.rule)}::{words}")
    lines.append(summary(findings, models))
    return "\n".join(lines)


def _data(words: str) -> str:
    return visible(words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(words: str) -> str:
    return _data(words).replace(":", "%3A").replace(",", "%2C")


def json_text(findings: Sequence[Finding], models: int, failures: Sequence[TritonsmithError] = ()) -> str:
    """`as_dict` as text; failures: of rules that could not judge a model."""
    told = {"failures": [failure.as_dict() for failure in failures]} if failures else {}
    return json.dumps(as_dict(findings, models) | told, indent=2)


FORMATS: dict[str, Callable[[Sequence[Finding], int], str]] = {
    "text": text,
    "json": json_text,
    "sarif": sarif,
    "junit": junit,
    "github": github,
}


def explanation(rule: Rule) -> str:
    """One rule for people: what, when, why, and an example of each kind."""
    return "\n".join(
        [
            f"{rule.id} ({rule.severity}): {rule.title}",
            f"  when:   {STAGE_TEXT[rule.stage]}",
            f"  then:   {rule.then}",
            f"  fix:    {rule.fix}",
            f"  source: {rule.source}",
            f"  needs:  {NEEDS[rule.needs]}",
            "",
            "bad:",
            *(f"    {line}" for line in rule.bad.splitlines()),
            "",
            "good:",
            *(f"    {line}" for line in rule.good.splitlines()),
        ]
    )


NEEDS: dict[str, str] = {
    "": "any config.pbtxt",
    "config": "a config.pbtxt that parses",
    "files": "the model's directory",
    "onnx": "the model's ONNX file",
    "engine": "the engine's sidecar, model.plan.json beside model.plan",
    "target": "--target RELEASE",
    "server": "--server-args, the flags that the server is started with",
    "gpus": "--gpus, the number of GPUs of the target",
    "deep": "--deep, which runs the model's ONNX file",
}
