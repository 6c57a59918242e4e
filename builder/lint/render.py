"""Findings → text for people, JSON, SARIF 2.1.0, JUnit XML or GitHub annotations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.excerpt import excerpt
from tritonsmith.builder.base.text.quantities import counted
from tritonsmith.builder.base.text.shown import one_line, visible
from tritonsmith.builder.base.text.text_layout import table
from tritonsmith.builder.lint.check import Finding, summary
from tritonsmith.builder.lint.rule import STAGE_TEXT, Rule
from tritonsmith.builder.lint.table import RULES

_BOLD, _DIM, _RED, _YELLOW, _CYAN, _RESET = (
    "\033[1m", "\033[2m", "\033[31m", "\033[33m", "\033[36m", "\033[0m",
)  # fmt: skip
# A line of a file is not longer in a log either.
_LOG_COLUMNS = 160
_LEAST_COLUMNS = 30


def text(
    findings: Sequence[Finding],
    models: int,
    colour: bool = False,
    *,
    texts: Mapping[Path, str] | None = None,
    width: int | None = None,
    fixed: int | None = None,
) -> str:
    """One block a finding: its place first, the line of the file with the place underlined; the sums at the end.

    texts: of the files, whose lines are shown. width: the terminal's columns. fixed: how many were mended before.
    """

    def paint(code: str, words: str) -> str:
        return f"{code}{words}{_RESET}" if colour else words

    lines: list[str] = []
    split = {path: whole.split("\n") for path, whole in (texts or {}).items()}
    for finding in findings:
        tone = _RED if finding.severity == "error" else _YELLOW
        mark = f" {paint(_CYAN, '[*]')}" if finding.fixable else ""
        lines.append(
            f"{paint(_BOLD, place_of(finding))}: {paint(tone, finding.rule)}{mark} "
            f"{paint(tone, finding.severity)}: {one_line(finding.message)}"
        )
        shown = _source(finding, split, width or _LOG_COLUMNS)
        if shown is not None:
            number, line, carets = shown
            lines.append(f"{paint(_DIM, f'{number:>5} | ')}{line}")
            lines.append(f"{paint(_DIM, '      | ')}{paint(tone, carets)}")
        lines.append(paint(_DIM, f"  then: {one_line(finding.consequence)}"))
        lines.append(paint(_DIM, f"  fix:  {one_line(finding.fix)}"))
        lines.append("")
    return "\n".join([*lines, *sums(findings, models, fixed)])


def sums(findings: Sequence[Finding], models: int, fixed: int | None = None) -> list[str]:
    """`Fixed 3, 1 left` after a fix, `3 models: 1 error, 2 warnings`, and how many can be fixed."""
    lines = [] if fixed is None else [f"Fixed {fixed}, {len(findings)} left"]
    lines.append(summary(findings, models))
    fixable = sum(finding.fixable for finding in findings)
    return [*lines, f"[*] {fixable} fixable with --fix"] if fixable and fixed is None else lines


def place_of(finding: Finding) -> str:
    """`path:line:column`, as terminals and editors know it; without what is not known."""
    numbers = (str(n) for n in (finding.line, finding.column) if n)
    # A line that begins with colons is an order to a CI's runner.
    path = str(finding.path)
    return ":".join([one_line(path if not path.startswith("::") else f"./{path}"), *numbers])


def _source(finding: Finding, split: Mapping[Path, Sequence[str]], width: int) -> tuple[int, str, str] | None:
    """(line number, the line, its underline) in at most `width` columns with what stands before it."""
    lines = split.get(finding.path)
    if lines is None or not finding.line or not finding.column or finding.line > len(lines):
        return None
    line = lines[finding.line - 1].removeprefix("\ufeff")
    end = finding.end_column or finding.column + 1
    number = len(f"{finding.line:>5} | ")
    shown = excerpt(line, finding.column, end, max(width - number, _LEAST_COLUMNS))
    return None if shown is None else (finding.line, *shown)


def statistics(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """A row a rule that found something, the most frequent first."""
    counts = Counter(finding.rule for finding in findings)
    return [
        {
            "rule": name,
            "severity": RULES[name].severity,
            "count": count,
            "fixable": sum(f.fixable for f in findings if f.rule == name),
            "title": RULES[name].title,
        }
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def statistics_text(
    findings: Sequence[Finding], models: int, *, width: int | None = None, fixed: int | None = None
) -> str:
    """The same as a table, and the sums."""
    rows = [
        [
            str(row["count"]),
            row["rule"],
            f"[{'*' if row['fixable'] == row['count'] else '-' if row['fixable'] else ' '}]",
            row["severity"],
            one_line(row["title"]),
        ]
        for row in statistics(findings)
    ]
    return "\n".join([*table(rows, width, right=(0,), text=4), *sums(findings, models, fixed)])


def as_dict(findings: Sequence[Finding], models: int) -> dict[str, Any]:
    """The findings as one JSON object."""
    counts = Counter(finding.severity for finding in findings)
    return {
        "models": models,
        "errors": counts["error"],
        "warnings": counts["warning"],
        "findings": [{**asdict(f), "path": str(f.path), "fixable": f.fixable} for f in findings],
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
                "columnKind": "unicodeCodePoints",
                "results": [_sarif_result(f, index[f.rule]) for f in findings],
            }
        ],
    }
    return json.dumps(log, indent=2)


def _sarif_result(finding: Finding, rule_index: int) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": finding.path.as_posix()}}
    if finding.line:
        place["region"] = {"startLine": finding.line}
        if finding.column:
            place["region"] |= {"startColumn": finding.column, "endColumn": finding.end_column}
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
        if finding.column:
            place += f",col={finding.column}"
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


def json_text(
    findings: Sequence[Finding],
    models: int,
    failures: Sequence[TritonsmithError] = (),
    *,
    fixed: int | None = None,
    is_statistics: bool = False,
) -> str:
    """`as_dict` as text; failures: of rules that could not judge a model; is_statistics: sums in place of findings."""
    told = as_dict(findings, models)
    if is_statistics:
        told = {k: v for k, v in told.items() if k != "findings"} | {"statistics": statistics(findings)}
    if fixed is not None:
        told["fixed"] = fixed
    if failures:
        told["failures"] = [failure.as_dict() for failure in failures]
    return json.dumps(told, indent=2)


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
            f"  fix:    {rule.fix}" + (f" ({FIXABLE})" if rule.repair is not None else ""),
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


FIXABLE = "`check --fix` writes it where only one thing can be meant"

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
